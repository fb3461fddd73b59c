//! Hostile inputs: no panic, and work that grows with the length only.

use std::time::{Duration, Instant};

use super::super::*;

/// A text of 200 kB is read in less than this in an unoptimised build.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn long_repetitions_are_read_in_linear_time() {
    let parts = [
        "1",
        "1,",
        "1 ",
        "1/",
        "1.",
        "a1",
        "#",
        "####",
        "#### 1\n",
        "#### a\n",
        "\\boxed{",
        "\\boxed{1}, ",
        "{",
        "}",
        "$",
        "$1",
        "<answer>",
        "</answer>",
        "<answer>1</answer>",
        "answer is ",
        "answer: ",
        "Answer\n",
        "the answer is 1. ",
        "答案是",
        "\\frac",
        "\\frac{",
        "^{",
        "\\sqrt[",
        "(",
        "(1,",
        "<|",
        "<|a|>",
        "*",
        "**",
        "-",
        "= ",
        "1=",
        "½",
        "²",
        " ",
        "\n",
        "[",
        "</s>",
        "</think>",
        "and ",
        "Step ",
        "!",
        "\u{200b}",
        "A: ",
        "B) ",
    ];
    for part in parts {
        let text = part.repeat(200_000 / part.len());
        let start = Instant::now();
        let found = extract_lenient(&text);
        extract_strict(&text, AnswerForm::Hashes);
        same_answer(&text, found.map_or("1", |found| found.text));
        let took = start.elapsed();
        assert!(took < LIMIT, "{part:?} took {took:?}");
    }
}

#[test]
fn arithmetic_beyond_128_bits_is_text() {
    for text in [
        "10^400",
        "9^99",
        "2^-200",
        "34!",
        "1e99",
        "1e-999999999999",
        "(((((((((((((((((((((1)))))))))))))))))))))",
    ] {
        assert_eq!(parse_number(text), None, "{text}");
        assert!(same_answer(text, text), "{text}");
    }
    assert_eq!(parse_number("2^100"), Rational::new(1 << 100, 1));
    assert_eq!(
        parse_number("20!"),
        Rational::new(2_432_902_008_176_640_000, 1)
    );
    assert_eq!(parse_number("0^0"), Rational::new(1, 1));
    assert_eq!(parse_number("0^-1"), None);
    let nested = format!("{}1{}", "\\frac{".repeat(200), "}{2}".repeat(200));
    assert!(same_answer(&nested, &nested));
}

#[test]
fn long_answers_are_compared_as_they_stand() {
    let long = "a, ".repeat(5000);
    assert!(same_answer(&long, &format!(" {long} ")));
    assert!(!same_answer(&long, &format!("{long}b")));
}
