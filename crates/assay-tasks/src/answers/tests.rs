mod decisions;
mod forms;
mod hostile;
mod properties;

use super::*;

fn lenient(text: &str) -> Option<(&str, AnswerSource)> {
    extract_lenient(text).map(|answer| (answer.text, answer.source))
}

#[test]
fn the_last_answer_of_the_strictest_form_wins() {
    let text = "<answer>1</answer> \\boxed{2} #### 3\n<answer> 4 </answer> 5";
    assert_eq!(lenient(text), Some(("4", AnswerSource::Tags)));
    assert_eq!(
        lenient("\\boxed{\\frac{1}{2}} #### 3"),
        Some(("\\frac{1}{2}", AnswerSource::Boxed))
    );
    assert_eq!(
        lenient("\\boxed{2} then \\boxed{open"),
        Some(("2", AnswerSource::Boxed))
    );
    assert_eq!(
        lenient("so 4\n#### 1,080\nbye 7"),
        Some(("1,080", AnswerSource::Hashes))
    );
    assert_eq!(
        lenient("<answer></answer> it is 12."),
        Some(("12", AnswerSource::LastNumber))
    );
    assert_eq!(lenient("nothing"), None);
}

#[test]
fn the_last_number_keeps_its_form() {
    for (text, number) in [
        ("it is -3", "-3"),
        ("it is −$2.50.", "−$2.50"),
        ("9 - 5-3", "3"),
        ("about 3/4 cup", "3/4 cup"),
        ("about 3/4 of it", "3/4"),
        ("a share of 50 %!", "50 %"),
        ("5 of H2O", "5"),
    ] {
        assert_eq!(
            lenient(text),
            Some((number, AnswerSource::LastNumber)),
            "{text}"
        );
    }
}

#[test]
fn strict_extraction_accepts_only_what_was_asked_for() {
    assert_eq!(extract_strict("#### 5", AnswerForm::Tags), None);
    assert_eq!(extract_strict("<answer>5", AnswerForm::Tags), None);
    assert_eq!(extract_strict("</answer><answer>5", AnswerForm::Tags), None);
    assert_eq!(
        extract_strict("x\n#### 5 \n", AnswerForm::Hashes)
            .unwrap()
            .span,
        7..8
    );
    assert_eq!(
        extract_strict("<answer>\n5\n</answer>", AnswerForm::Tags)
            .unwrap()
            .span,
        9..10
    );
}

#[test]
fn fault_12_answers_are_not_digits_only() {
    let same = [
        ("1,000", "1000"),
        ("1000.0", "1000"),
        ("$1000", "1,000"),
        ("-3", "−3"),
        ("-$3.00", "-3"),
        ("2.5", "5/2"),
        ("3/4", "0.75"),
        ("50 %", "50"),
        ("50%", "0.5"),
        ("50%", "50 percent"),
        ("\\frac{3}{4}", ".75"),
        ("1 1/2", "1.5"),
        ("1\\frac{1}{2}", "1.5"),
        ("18 eggs", "18"),
        ("2 million", "2000000"),
        ("1.5e3", "1500"),
        ("25e-1", "2.5"),
        ("The answer is 26.", "26"),
        ("x = 7", "7"),
        ("**12**", "12"),
        ("12 km/h", "12"),
        ("Yes.", "yes"),
        ("no, it is not", "No"),
        ("Aspirin", " aspirin."),
        ("1 dozen", "12"),
        ("10 dollars", "$10"),
    ];
    for (left, right) in same {
        assert!(
            same_answer(left, right) && same_answer(right, left),
            "{left} {right}"
        );
    }
    let different = [
        ("3", "-3"),
        ("25", "2.5"),
        ("34", "3/4"),
        ("1,00", "100"),
        ("0.5", "50"),
        ("3 and 4", "3"),
        ("2 million", "2"),
        ("yes", "no"),
        ("nothing", "no"),
        ("no one", "no"),
        ("", ""),
        ("", "0"),
        ("3-4", "3"),
        ("10:30", "10"),
        ("1/0", "1"),
    ];
    for (left, right) in different {
        assert!(!same_answer(left, right), "{left} {right}");
    }
}

#[test]
fn fault_13_a_word_is_not_a_choice() {
    for predicted in [
        "C",
        "(C)",
        "C.",
        "C) aspirin",
        "C: aspirin",
        "C. Aspirin",
        "Option C",
        "the answer is C",
        "**C**",
        "\\text{C}",
    ] {
        assert!(same_answer(predicted, "C"), "{predicted}");
    }
    for predicted in [
        "C-reactive protein",
        "Calcium",
        "C reactive",
        "C. difficile",
        "c",
        "D",
        "CC",
        "(C-reactive)",
        "",
    ] {
        assert!(!same_answer(predicted, "C"), "{predicted}");
    }
    assert!(!same_answer("A cell", "A"));
    assert!(!same_answer("C", "C-reactive protein"));
    assert!(same_answer("c-reactive protein.", "C-reactive protein"));
}

#[test]
fn numbers_beyond_128_bits_are_compared_as_text() {
    let long = "9".repeat(60);
    assert!(same_answer(&long, &long));
    assert!(!same_answer(&long, &format!("{long}9")));
    assert_eq!(parse_number(&long), None);
    assert_eq!(Rational::new(i128::MIN, -1), None);
    let huge = Rational::new(i128::MAX, 1).unwrap();
    assert_eq!((huge.times(huge), huge.plus(huge)), (None, None));
    assert_eq!(Rational::new(-6, -8), Rational::new(3, 4));
}

#[test]
fn votes_put_equal_answers_into_one_class() {
    let mut classes = AnswerClasses::default();
    let answers = [
        "42",
        "$\\frac{84}{2}$",
        "41",
        "42 apples",
        "B",
        "(B)",
        "41.0",
        "b",
    ];
    assert_eq!(
        answers.map(|answer| classes.class(answer)),
        [0, 0, 1, 0, 2, 2, 1, 3]
    );
}

#[test]
fn check_reads_and_compares() {
    let text = "The final answer is: $\\boxed{42}$";
    let right = CheckedAnswer {
        predicted: Some("42".to_owned()),
        correct: Some(true),
    };
    assert_eq!(check(text, Some("42.0")), right);
    assert_eq!(check(text, Some("41")).correct, Some(false));
    assert_eq!(check(text, None).correct, None);
    assert_eq!(check("nothing", Some("41")).correct, Some(false));
    assert_eq!(check("nothing", Some("41")).predicted, None);
}

#[test]
fn sources_tell_forms_from_fallbacks() {
    for (text, source, marked, separate) in [
        ("<answer>1</answer>", AnswerSource::Tags, true, true),
        ("so \\boxed{1}.", AnswerSource::Boxed, true, false),
        ("$\\boxed{1}$.", AnswerSource::Boxed, true, false),
        ("Answer: $\\boxed{1}$.", AnswerSource::BoxedLine, true, true),
        ("a\n#### 1\nb", AnswerSource::Hashes, true, true),
        ("a\n**Final answer:** 1", AnswerSource::Line, false, true),
        (
            "a, so the answer is 1 because b",
            AnswerSource::Sentence,
            false,
            false,
        ),
        ("a\nYes.", AnswerSource::LastLine, false, false),
        ("it is 1 a", AnswerSource::LastNumber, false, false),
    ] {
        let found = extract_lenient(text).unwrap().source;
        assert_eq!(
            (found, found.is_marked(), found.is_separate()),
            (source, marked, separate),
            "{text}"
        );
    }
}

#[test]
fn the_mark_spans_the_whole_statement() {
    for (text, mark) in [
        ("a <answer>1</answer> b", "<answer>1</answer>"),
        ("a \\boxed{1} b", "\\boxed{1}"),
        ("a\n#### 1 cm\nb", "#### 1 cm"),
        ("a\n#### Answer:\n1\nb", "#### Answer:\n1"),
        ("a\nThe answer is 1.\nb", "The answer is 1."),
    ] {
        assert_eq!(&text[extract_lenient(text).unwrap().mark], mark);
    }
}

/// A word with a meaning in one place only names no unit elsewhere, so the answer stays a text that
/// is read in the same way again.
#[test]
fn misplaced_words_are_no_units() {
    for text in ["9th th", "0the st", "5 percent apples", "0cubic/per"] {
        let read = Answer::read(text);
        assert!(matches!(read, Answer::Text(_)), "{text}: {read:?}");
        assert_eq!(Answer::read(&read.to_string()), read);
    }
    let same = |left: &str, right: &str| same_answer(left, right) && same_answer(right, left);
    assert!(same("9th", "9") && same("5 percent", "5%") && same("5 per cent", "5%"));
    assert!(same("60 mph", "60 mi/h") && same("29/2 per cup per day", "14.5 /cup/day"));
    assert!(!same("3/4/5", "0.15"));
}

#[test]
fn a_share_of_something_is_a_percentage() {
    for text in [
        "20 percent of the students",
        "20 per cent of the students",
        "20% of the students",
        "20 pct of total",
        "20 percent more",
        "0.2 hundred percent",
    ] {
        assert!(
            same_answer(text, "20%") && same_answer("20%", text),
            "{text}"
        );
        assert!(same_answer(text, "20"), "{text}");
    }
    assert!(!same_answer("20 percent of the students", "30%"));
}
