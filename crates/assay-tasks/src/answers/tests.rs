use proptest::prelude::*;

use super::*;

fn lenient(text: &str) -> Option<(&str, AnswerSource)> {
    extract_lenient(text).map(|answer| (answer.text, answer.source))
}

#[test]
fn the_last_answer_wins_in_the_order_of_forms() {
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
fn the_last_number_keeps_sign_fraction_and_per_cent() {
    for (text, number) in [
        ("A: -3", "-3"),
        ("it is −$2.50.", "−$2.50"),
        ("9 - 5-3", "3"),
        ("about 3/4 cup", "3/4"),
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
            same_answer(left, right) && same_answer(right, left) || right == "No",
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

proptest! {
    #[test]
    fn no_text_is_too_odd(left in "(?s).{0,40}|[-0-9,./%$ A-Jeo(){}\\\\#a]{0,40}", right in "(?s).{0,20}|[-0-9,./%$ Ae]{0,20}") {
        for text in [&left, &right] {
            if let Some(answer) = extract_lenient(text) {
                prop_assert_eq!(&text[answer.span.clone()], answer.text);
                prop_assert!(!answer.text.is_empty());
            }
            extract_strict(text, AnswerForm::Tags);
            extract_strict(text, AnswerForm::Hashes);
        }
        same_answer(&left, &right);
    }

    #[test]
    fn a_number_equals_itself_however_it_is_written(value in -1_000_000_000_i64..1_000_000_000, zeros in 0_usize..4) {
        let digits = value.unsigned_abs().to_string();
        let grouped = numerals("1,000")[0].format_like("1,000", i128::from(value.unsigned_abs())).unwrap();
        let sign = if value < 0 { "-" } else { "" };
        let plain = format!("{sign}{digits}");
        let money = format!("{sign}${grouped}.{}", "0".repeat(zeros + 1));
        prop_assert!(same_answer(&money, &plain));
        let fraction = format!("{sign}{}/6", value.unsigned_abs() * 6);
        prop_assert!(same_answer(&fraction, &plain));
        let next = (value + 1).to_string();
        prop_assert!(!same_answer(&next, &plain));
    }
}
