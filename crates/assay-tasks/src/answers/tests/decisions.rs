//! Cases in which assay and math-verify disagree. docs/metrics.md gives the reasons.

use super::super::{check, same_answer};

fn assert_equal(pairs: &[(&str, &str)]) {
    for (left, right) in pairs {
        assert!(
            same_answer(left, right) && same_answer(right, left),
            "{left} {right}"
        );
    }
}

fn assert_different(pairs: &[(&str, &str)]) {
    for (left, right) in pairs {
        assert!(
            !same_answer(left, right) && !same_answer(right, left),
            "{left} {right}"
        );
    }
}

#[test]
fn scale_words_change_the_number() {
    assert_different(&[
        ("15\\text{ dozen}", "15"),
        ("36\\text{ thousand}", "36"),
        ("7 hundredths", "7"),
    ]);
    assert_equal(&[
        ("15\\text{ dozen}", "180"),
        ("28\\text{ million}", "28000000"),
        ("3 half", "1.5"),
    ]);
}

#[test]
fn contradicting_units_are_different() {
    assert_different(&[
        ("93\\text{ cm}", "93^\\circ"),
        ("\\$44", "44\\text{ cm}"),
        ("21\\text{ hours}", "21\\text{ minutes}"),
        ("5 apples", "5 pears"),
    ]);
    assert_equal(&[
        ("93\\text{ cm}", "93"),
        ("21\\text{ hours}", "21 h"),
        ("5 red apples", "5 apples"),
    ]);
}

#[test]
fn equations_have_their_right_sides_value() {
    assert_equal(&[
        ("148 + 2 = 150", "x = 150"),
        ("\\$19", "17 + 2 = 19"),
        ("3/4 = 0.75", "0.75"),
    ]);
    assert_different(&[
        ("2x + y = 9", "9"),
        ("20 = 26", "26"),
        ("37 + 2 = 39", "46 + 2 = 48"),
    ]);
}

#[test]
fn separators_of_other_countries_are_read() {
    assert_equal(&[
        ("1,23,456", "123456"),
        ("1.234,50", "1234.5"),
        ("650\\,461", "650461"),
        ("４２", "42"),
        ("½", "\\frac{1}{2}"),
    ]);
    assert_different(&[("1.234", "1234"), ("12,34", "12.34")]);
}

#[test]
fn brackets_and_order_of_a_point_count() {
    assert_different(&[
        ("(10,6)", "10, 6"),
        ("(10,6)", "(6,10)"),
        ("[1, 2)", "[1, 2]"),
        ("(1, 2)", "1"),
    ]);
    assert_equal(&[("\\{10, 6\\}", "6, 10"), ("10 \\text{ and } 6", "6, 10")]);
}

#[test]
fn only_powers_are_worked_out() {
    assert_different(&[
        ("28 \\times 10", "280"),
        ("2 + 24", "26"),
        ("10 - 8", "2"),
        ("17:13", "\\frac{17}{13}"),
    ]);
    assert_equal(&[
        ("2^{10} - 1", "1023"),
        ("3 \\times 10^2", "300"),
        ("5!", "120"),
        ("\\sqrt{49}", "7"),
    ]);
}

#[test]
fn there_is_no_algebra() {
    assert_different(&[
        ("(x+1)^2", "x^2+2x+1"),
        ("x + 1", "1 + x"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("\\frac{10\\pi}{7}", "\\frac{10}{7}\\pi"),
        ("7_8", "7"),
        ("0.333", "1/3"),
        ("\\sqrt{2}", "1.41421"),
    ]);
    assert_equal(&[
        ("x^2+3x", "x^{2} + 3x"),
        ("\\frac{1}{3} \\approx 0.33", "1/3"),
        ("4 \\pi", "4π"),
    ]);
}

#[test]
fn layouts_that_math_verify_misses() {
    for (text, gold) in [
        ("\\boxed{\\text{(D)}}", "D"),
        ("The correct answer is (D).", "D"),
        ("<answer>B. aspirin</answer>", "B"),
        (
            "<think>maybe \\boxed{17}</think>\n<answer>$2399$</answer>",
            "2399",
        ),
    ] {
        assert_eq!(check(text, Some(gold)).correct, Some(true), "{text}");
    }
}
