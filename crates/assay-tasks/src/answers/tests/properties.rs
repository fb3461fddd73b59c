//! Laws of reading and comparing that hold for every answer.

use proptest::prelude::*;

use super::super::*;
use crate::numbers::numerals;

/// Pieces of texts that state answers.
const PIECES: [&str; 40] = [
    "answer",
    "is",
    "<answer>",
    "</answer>",
    "\\boxed",
    "{",
    "}",
    "####",
    "$",
    "1",
    "2",
    "and",
    ",",
    "B",
    ".",
    " ",
    "\n",
    "\\frac",
    "^",
    "\\text",
    "cm",
    "dozen",
    "=",
    "yes",
    "(",
    ")",
    "/",
    "-",
    "*",
    ":",
    "%",
    "\\sqrt",
    "½",
    "²",
    "４",
    "元",
    "\\",
    "<|im_end|>",
    "!",
    "the",
];

/// Any short text, and texts of the characters and words that answers are made of.
fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..14);
    prop_oneof![
        "(?s).{0,40}",
        "[-0-9,./%$ A-Jeo(){}\\\\#a=^!*\n<>:|]{0,40}",
        pieces.prop_map(|pieces| pieces.concat()),
    ]
}

/// Answers as people write them.
fn any_answer() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        (0..2_000_000_i64).prop_map(|n| n.to_string()),
        (-999..999_i64, 1..99_i64).prop_map(|(n, d)| format!("{n}/{d}")),
        (-999..999_i64, 0..99_i64).prop_map(|(n, d)| format!("{n}.{d:02}")),
        (1..999_i64, 0..999_i64).prop_map(|(n, d)| format!("{n},{d:03}")),
        (1..99_i64, 2..9_i64).prop_map(|(n, d)| format!("\\frac{{{n}}}{{{d}}}")),
        (2..9_i64, 2..9_i64).prop_map(|(n, d)| format!("{n}^{d}")),
    ];
    let unit = prop::sample::select(vec![
        "", "", " cm", " cm^2", " km/h", "%", " dozen", " apples", " hours", "^\\circ",
    ]);
    prop_oneof![
        4 => (number, unit).prop_map(|(number, unit)| number + unit),
        1 => prop::sample::select(vec!["A", "(B)", "C. aspirin", "yes", "No", "true"]).prop_map(str::to_owned),
        1 => (0..50_i64, 0..50_i64).prop_map(|(a, b)| format!("({a}, {b})")),
        1 => (0..50_i64, 0..50_i64).prop_map(|(a, b)| format!("{a} and {b}")),
        1 => prop::sample::select(vec!["4y", "x^2+1", "2\\sqrt{3}", "3\\pi", "Paris", "5 to 7", "x = 5", "10:30"]).prop_map(str::to_owned),
    ]
}

/// Words that mean something after a number, many of them only in some places.
const WORDS_AFTER_NUMBERS: [&str; 36] = [
    "st", "nd", "rd", "th", "percent", "pct", "%", "cent", "cents", "per", "a", "in", "of", "the",
    "each", "square", "sq", "sq.", "cubic", "cu", "m", "cm", "cm^2", "ft2", "km/h", "mph", "h",
    "dozen", "half", "k", "million", "apple", "apples", "(", ")", "/",
];

/// A number and any words after it.
fn number_and_words() -> impl Strategy<Value = String> {
    let gap = prop::sample::select(vec!["", " ", " ", " ", "-", "/", "\0", ", "]);
    let word = (gap, prop::sample::select(WORDS_AFTER_NUMBERS.to_vec()));
    let words = prop::collection::vec(word, 1..6);
    (0..50_u32, words).prop_map(|(number, words)| {
        let words: String = words
            .iter()
            .map(|(gap, word)| format!("{gap}{word}"))
            .collect();
        format!("{number}{words}")
    })
}

fn wrapped(answer: &str) -> [String; 10] {
    [
        format!("${answer}$"),
        format!("\\({answer}\\)"),
        format!("\\[ {answer} \\]"),
        format!("\\boxed{{{answer}}}"),
        format!("$\\boxed{{{answer}}}$"),
        format!("**{answer}**"),
        format!("<answer>{answer}</answer>"),
        format!("<answer>\n\\boxed{{{answer}}}\n</answer>"),
        format!("#### {answer}"),
        format!("The answer is: {answer}"),
    ]
}

proptest! {
    #[test]
    fn no_text_is_too_odd(left in any_text(), right in any_text()) {
        for text in [&left, &right] {
            if let Some(answer) = extract_lenient(text) {
                prop_assert_eq!(&text[answer.span.clone()], answer.text);
                prop_assert!(!answer.text.is_empty());
                prop_assert!(answer.mark.start <= answer.span.start && answer.span.end <= answer.mark.end);
            }
            for form in [AnswerForm::Tags, AnswerForm::Hashes] {
                let strict = extract_strict(text, form).map(|found| found.text);
                prop_assert_ne!(strict, Some(""));
            }
        }
        same_answer(&left, &right);
    }

    #[test]
    fn reading_is_idempotent(text in prop_oneof![any_text(), any_answer(), number_and_words()]) {
        let read = Answer::read(&text);
        prop_assert_eq!(Answer::read(&read.to_string()), read);
    }

    #[test]
    fn equality_is_symmetric(left in prop_oneof![any_text(), any_answer()], right in prop_oneof![any_text(), any_answer()]) {
        let (left, right) = (Answer::read(&left), Answer::read(&right));
        prop_assert_eq!(left.agrees(&right), right.agrees(&left));
        prop_assert!(left.agrees(&left) || left == Answer::Text(String::new()));
    }

    /// Equal canonical forms agree with the same answers.
    #[test]
    fn equal_forms_agree_with_the_same(answers in prop::collection::vec(any_answer(), 2..6)) {
        let read: Vec<Answer> = answers.iter().flat_map(|answer| wrapped(answer).map(|text| Answer::read(&text))).collect();
        for one in &read {
            for two in read.iter().filter(|two| *two == one) {
                for three in &read {
                    prop_assert_eq!(one.agrees(three), two.agrees(three));
                }
            }
        }
    }

    #[test]
    fn a_wrapper_never_changes_an_answer(answer in any_answer(), outer in 0_usize..10, inner in 0_usize..6) {
        let bare = Answer::read(&answer);
        for text in wrapped(&answer) {
            prop_assert_eq!(&Answer::read(&text), &bare, "{}", text);
        }
        let twice = &wrapped(&wrapped(&answer)[inner])[outer];
        prop_assert_eq!(&Answer::read(twice), &bare, "{}", twice);
    }

    #[test]
    fn a_wrapped_answer_is_found_in_a_completion(answer in any_answer(), wrapper in prop::sample::select(vec![3_usize, 4, 6, 7, 8, 9])) {
        let text = format!("First 17 + 4 = 21.\n{}", wrapped(&answer)[wrapper]);
        let found = extract_lenient(&text).unwrap();
        prop_assert_eq!(Answer::read(found.text), Answer::read(&answer), "{}", text);
    }

    #[test]
    fn a_number_equals_itself_however_it_is_written(value in -1_000_000_000_i64..1_000_000_000, zeros in 0_usize..4) {
        let digits = value.unsigned_abs().to_string();
        let grouped = numerals("1,000")[0].format_like("1,000", i128::from(value.unsigned_abs())).unwrap();
        let sign = if value < 0 { "-" } else { "" };
        let plain = format!("{sign}{digits}");
        let money = format!("{sign}${grouped}.{}", "0".repeat(zeros + 1));
        prop_assert!(same_answer(&money, &plain));
        for mark in [" ", "'", "\u{202f}", "\\,", "{,}", "，"] {
            let text = grouped.replace(',', mark);
            prop_assert!(same_answer(&format!("{sign}{text}"), &plain), "{}", text);
        }
        let fraction = format!("{sign}{}/6", value.unsigned_abs() * 6);
        prop_assert!(same_answer(&fraction, &plain));
        let next = (value + 1).to_string();
        prop_assert!(!same_answer(&next, &plain));
    }
}
