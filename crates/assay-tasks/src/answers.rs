//! Finding the final answer of a text and comparing it with the gold answer.
//!
//! Strict extraction accepts only the form that was asked for; lenient extraction falls back to `\boxed{}`, `####` and
//! the last number. Numbers are compared exactly as rationals. Nothing here judges free text beyond normalised equality.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::countdown::CountdownTask;
use crate::numbers::{Numeral, numerals};
use crate::segments::trimmed;

/// How a completion states its final answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerForm {
    /// `<answer>26</answer>`.
    #[default]
    Tags,
    /// `#### 26`.
    Hashes,
}

/// Where an answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerSource {
    /// The last `<answer>...</answer>`.
    Tags,
    /// The last `\boxed{...}`.
    Boxed,
    /// The rest of the line after the last `####`.
    Hashes,
    /// The last number of the text.
    LastNumber,
}

/// An answer as it stands in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAnswer<'a> {
    /// The answer without surrounding white space; never empty.
    pub text: &'a str,
    /// Its byte range in the text.
    pub span: Range<usize>,
    /// Where it was found.
    pub source: AnswerSource,
}

/// The answer in the form that was asked for, and nothing else.
pub fn extract_strict(text: &str, form: AnswerForm) -> Option<FoundAnswer<'_>> {
    match form {
        AnswerForm::Tags => in_tags(text),
        AnswerForm::Hashes => after_hashes(text),
    }
}

/// The answer in any form: the last tags, else the last `\boxed{}`, else the last `####`, else the last number.
pub fn extract_lenient(text: &str) -> Option<FoundAnswer<'_>> {
    in_tags(text)
        .or_else(|| in_box(text))
        .or_else(|| after_hashes(text))
        .or_else(|| last_number(text))
}

/// Whether two answers mean the same.
///
/// Where the gold answer is a [`CountdownTask`], the prediction is its solution. Else, in this order: equal numbers as exact rationals (`1,000 = 1000.0 = $1000`, `3/4 = 0.75`, `18 eggs = 18`; a per cent
/// value equals both its bare number and its hundredth); where the gold answer is a single letter A to J, the choice the
/// prediction opens with; where it is yes or no, the prediction's first word; else the texts without case, emphasis,
/// surrounding punctuation and repeated white space.
pub fn same_answer(predicted: &str, gold: &str) -> bool {
    if let Some(task) = CountdownTask::parse(gold) {
        return task.accepts(predicted);
    }
    if let (Some(left), Some(right)) = (parse_quantity(predicted), parse_quantity(gold)) {
        return left.value == right.value
            || (left.percent != right.percent
                && left.fraction_of_one() == right.fraction_of_one());
    }
    if let Some(gold) = bare_choice(gold) {
        return leading_choice(predicted) == Some(gold);
    }
    let (predicted, gold) = (normalised(predicted), normalised(gold));
    if gold == "yes" || gold == "no" {
        let mut words = predicted.splitn(2, |c: char| !c.is_alphanumeric());
        let first = words.next() == Some(gold.as_str());
        return first
            && (predicted.len() == gold.len()
                || !predicted[gold.len()..].starts_with([' ', '-', '\'']));
    }
    !gold.is_empty() && predicted == gold
}

/// An exact fraction in lowest terms with a positive denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rational {
    numerator: i128,
    denominator: i128,
}

impl Rational {
    /// The fraction `numerator / denominator`; `None` when the denominator is 0 or the arithmetic leaves 128 bits.
    pub fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 || numerator == i128::MIN || denominator == i128::MIN {
            return None;
        }
        let divisor = greatest_common_divisor(numerator.unsigned_abs(), denominator.unsigned_abs());
        let divisor = i128::try_from(divisor).ok()?;
        let sign = denominator.signum();
        Some(Self {
            numerator: sign * (numerator / divisor),
            denominator: sign * (denominator / divisor),
        })
    }

    /// The product; `None` when the arithmetic leaves 128 bits.
    pub fn times(self, other: Self) -> Option<Self> {
        let numerator = self.numerator.checked_mul(other.numerator)?;
        Self::new(numerator, self.denominator.checked_mul(other.denominator)?)
    }

    /// The sum; `None` when the arithmetic leaves 128 bits.
    pub fn plus(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(
            left.checked_add(right)?,
            self.denominator.checked_mul(other.denominator)?,
        )
    }

    /// The fraction with the other sign.
    pub fn negated(self) -> Self {
        Self {
            numerator: -self.numerator,
            denominator: self.denominator,
        }
    }

    /// One over the fraction; `None` for 0.
    pub fn inverted(self) -> Option<Self> {
        Self::new(self.denominator, self.numerator)
    }
}

/// The number an answer states, or `None` where it is not one number.
///
/// Signs, currency marks, thousands separators, decimals, fractions, mixed numbers, exponents, `\frac`, per cent, the
/// words hundred to billion and dozen, and a unit of up to three words are understood. A per cent mark is left out of
/// the value: `50 %` is 50.
pub fn parse_number(answer: &str) -> Option<Rational> {
    parse_quantity(answer).map(|quantity| quantity.value)
}

struct Quantity {
    value: Rational,
    percent: bool,
}

impl Quantity {
    fn fraction_of_one(&self) -> Option<Rational> {
        if self.percent {
            self.value.times(Rational::new(1, 100)?)
        } else {
            Some(self.value)
        }
    }
}

fn greatest_common_divisor(mut left: u128, mut right: u128) -> u128 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left.max(1)
}

fn found(text: &str, range: Range<usize>, source: AnswerSource) -> Option<FoundAnswer<'_>> {
    let span = trimmed(text, range);
    (!span.is_empty()).then(|| FoundAnswer {
        text: &text[span.clone()],
        span,
        source,
    })
}

fn in_tags(text: &str) -> Option<FoundAnswer<'_>> {
    let close = text.rfind("</answer>")?;
    let open = text[..close].rfind("<answer>")? + "<answer>".len();
    found(text, open..close, AnswerSource::Tags)
}

fn after_hashes(text: &str) -> Option<FoundAnswer<'_>> {
    let start = text.rfind("####")? + "####".len();
    let end = text[start..]
        .find('\n')
        .map_or(text.len(), |length| start + length);
    found(text, start..end, AnswerSource::Hashes)
}

/// How many `\boxed` are tried from the end, so that hostile nesting cannot make the search quadratic.
const MOST_BOXES: usize = 16;

fn in_box(text: &str) -> Option<FoundAnswer<'_>> {
    let opens = text.rmatch_indices("\\boxed{").take(MOST_BOXES);
    opens
        .filter_map(|(at, open)| {
            let start = at + open.len();
            let length = balanced_length(&text[start..])?;
            found(text, start..start + length, AnswerSource::Boxed)
        })
        .next()
}

/// Bytes up to the brace that closes an already opened one.
fn balanced_length(text: &str) -> Option<usize> {
    let mut depth = 1_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn last_number(text: &str) -> Option<FoundAnswer<'_>> {
    let all = numerals(text);
    let attached =
        |n: &Numeral| text[..n.span.start].ends_with(|c: char| c.is_alphabetic() || c == '_');
    let index = all.iter().rposition(|numeral| !attached(numeral))?;
    let mut span = all[index].span.clone();
    if let Some(previous) = index.checked_sub(1).map(|previous| &all[previous])
        && &text[previous.span.end..span.start] == "/"
        && !attached(previous)
    {
        span.start = previous.span.start;
    }
    let before = text[..span.start].trim_end_matches(['$', '€', '£']);
    for minus in ['-', '−'] {
        let Some(rest) = before.strip_suffix(minus) else {
            continue;
        };
        if !rest.ends_with(|c: char| c.is_alphanumeric() || matches!(c, ')' | '%' | '.')) {
            span.start = rest.len();
        }
    }
    if text[span.end..]
        .trim_start_matches([' ', '\\'])
        .starts_with('%')
    {
        span.end += text[span.end..].find('%').map_or(0, |at| at + 1);
    }
    found(text, span, AnswerSource::LastNumber)
}

fn parse_quantity(answer: &str) -> Option<Quantity> {
    let plain = without_markup(answer);
    let mut rest = plain
        .trim()
        .trim_end_matches(['.', ',', ';', ':', '!'])
        .trim();
    rest = without_lead(rest);
    let mut negative = false;
    loop {
        let next = rest.trim_start_matches(['$', '€', '£', '¥', '+', ' ']);
        match next.strip_prefix(['-', '−']) {
            Some(_) if negative => return None,
            Some(unsigned) => {
                negative = true;
                rest = unsigned;
            }
            None => {
                rest = next;
                break;
            }
        }
    }
    let (mut value, mut after) = leading_value(rest)?;
    let percent = after.trim_start().starts_with('%')
        || after.trim_start().to_lowercase().starts_with("percent");
    if let Some(unit) = after.trim_start().strip_prefix('%') {
        after = unit;
    }
    value = value.times(Rational::new(unit_scale(after)?, 1)?)?;
    Some(Quantity {
        value: if negative { value.negated() } else { value },
        percent,
    })
}

/// Removes the marks that LaTeX and Markdown put around a number, and writes `\frac{a}{b}` as `a/b`.
fn without_markup(answer: &str) -> String {
    let mut plain = answer
        .replace("**", "")
        .replace(['`', '~'], " ")
        .replace("\\(", "")
        .replace("\\)", "");
    for command in ["\\left", "\\right", "\\!", "\\,", "\\;", "\\ "] {
        plain = plain.replace(command, "");
    }
    plain = plain
        .replace("\\dfrac", "\\frac")
        .replace("\\tfrac", "\\frac")
        .replace("\\$", "$")
        .replace("\\%", "%");
    if let Some((before, after)) = plain.split_once("\\frac{")
        && let Some((numerator, denominator)) = after.split_once("}{")
    {
        let mixed = if before.ends_with(|c: char| c.is_ascii_digit()) {
            " "
        } else {
            ""
        };
        plain = format!(
            "{before}{mixed}{numerator}/{}",
            denominator.replacen('}', "", 1)
        );
    }
    plain
        .replace("\\text{", " ")
        .replace("\\mathrm{", " ")
        .replace(['{', '}'], "")
}

/// Removes `The answer is`, `Answer:`, `A:`, `x =` in front of a value.
fn without_lead(answer: &str) -> &str {
    let mut rest = answer;
    if let Some((name, value)) = answer.rsplit_once('=') {
        let name = name.trim();
        if name.len() <= 12 && name.chars().all(char::is_alphabetic) {
            rest = value.trim();
        }
    }
    for lead in ["so ", "the ", "final ", "answer", "a:", " is", ":", " "] {
        if rest
            .get(..lead.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(lead))
        {
            rest = &rest[lead.len()..];
        }
    }
    rest.trim()
}

/// The value a text opens with, and what follows it.
fn leading_value(text: &str) -> Option<(Rational, &str)> {
    let (first, rest) = leading_numeral(text)?;
    if let Some((bottom, rest)) = rest
        .trim_start()
        .strip_prefix('/')
        .and_then(|rest| leading_numeral(rest.trim_start()))
    {
        return Some((first.times(bottom.inverted()?)?, rest));
    }
    if let Some((top, after)) = rest.strip_prefix(' ').and_then(leading_numeral) {
        let (bottom, rest) = leading_numeral(after.strip_prefix('/')?)?;
        return Some((first.plus(top.times(bottom.inverted()?)?)?, rest));
    }
    let exponent = rest
        .strip_prefix(['e', 'E'])
        .map(|power| power.strip_prefix('+').unwrap_or(power));
    if let Some(power) = exponent.filter(|power| {
        power
            .trim_start_matches('-')
            .starts_with(|c: char| c.is_ascii_digit())
    }) {
        let end = power.len()
            - power
                .trim_start_matches(|c: char| c == '-' || c.is_ascii_digit())
                .len();
        let power_of_ten = power[..end].parse::<i32>().ok()?;
        let scale = Rational::new(10_i128.checked_pow(power_of_ten.unsigned_abs())?, 1)?;
        let scale = if power_of_ten < 0 {
            scale.inverted()?
        } else {
            scale
        };
        return Some((first.times(scale)?, &power[end..]));
    }
    Some((first, rest))
}

fn leading_numeral(text: &str) -> Option<(Rational, &str)> {
    if !text.starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
        return None;
    }
    let window = text.len().min(64);
    let window = (0..=window)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    let numeral = numerals(&text[..window])
        .into_iter()
        .next()
        .filter(|numeral| numeral.span.start == 0)?;
    let decimals = u32::try_from(numeral.decimals).ok()?;
    let value = Rational::new(numeral.scaled(text)?, 10_i128.checked_pow(decimals)?)?;
    Some((value, &text[numeral.span.end..]))
}

/// What the words after a number multiply it by; `None` where they are no unit.
fn unit_scale(after: &str) -> Option<i128> {
    let after = after.trim();
    if after.starts_with([',', '-', ':', '.', '(', '='])
        || after.contains(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    let mut words = after.split_whitespace().peekable();
    let scale = match words.peek().map(|word| word.to_lowercase()).as_deref() {
        Some("dozen") => 12,
        Some("hundred") => 100,
        Some("thousand") => 1_000,
        Some("million") => 1_000_000,
        Some("billion") => 1_000_000_000,
        Some("trillion") => 1_000_000_000_000,
        _ => return unit_words(words).then_some(1),
    };
    words.next();
    unit_words(words).then_some(scale)
}

fn unit_words<'a>(words: impl Iterator<Item = &'a str>) -> bool {
    let mut count = 0;
    for word in words {
        count += 1;
        let letters = word.chars().all(|c| {
            c.is_alphabetic() || matches!(c, '/' | '\'' | '’' | '°' | '.' | '$' | '€' | '£' | '¢')
        });
        if !letters || matches!(word.to_lowercase().as_str(), "and" | "or" | "to" | "x") {
            return false;
        }
    }
    count <= 3
}

/// The letter of a text that is one choice and nothing else: `C`, `(C)`, `C.`.
fn bare_choice(text: &str) -> Option<char> {
    let inner = text
        .trim()
        .trim_matches(['(', ')', '.', '[', ']', ':', '*', ' ']);
    let mut letters = inner.chars();
    let letter = letters
        .next()
        .filter(|letter| ('A'..='J').contains(letter))?;
    letters.next().is_none().then_some(letter)
}

/// The choice a text opens with: `C`, `(C) text`, `C) text`, `C: text`, `C. Text`, `Option C`.
///
/// A letter that goes on into a word is none (`C-reactive protein`, `A cell`), nor is a genus (`E. coli`).
fn leading_choice(text: &str) -> Option<char> {
    let plain = without_markup(text);
    let mut rest = plain.trim();
    for lead in [
        "the ", "correct ", "final ", "answer", "option", "choice", " is", ":", " ",
    ] {
        if rest
            .get(..lead.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(lead))
        {
            rest = &rest[lead.len()..];
        }
    }
    if let Some(letter) = bare_choice(rest) {
        return Some(letter);
    }
    let opened = rest.strip_prefix(['(', '[']);
    let mut characters = opened.unwrap_or(rest).chars();
    let letter = characters
        .next()
        .filter(|letter| ('A'..='J').contains(letter))?;
    let mark = characters.next()?;
    let after = characters.as_str();
    let closes = match mark {
        ')' | ']' => true,
        ':' | ',' => after.starts_with(char::is_whitespace),
        '.' => {
            after.starts_with(char::is_whitespace)
                && !after.trim_start().starts_with(char::is_lowercase)
        }
        '\n' => true,
        _ => false,
    };
    (closes && (opened.is_none() || matches!(mark, ')' | ']'))).then_some(letter)
}

fn normalised(answer: &str) -> String {
    let plain = without_markup(answer).to_lowercase();
    let words: Vec<&str> = plain.split_whitespace().collect();
    words
        .join(" ")
        .trim_matches(['.', ',', ';', ':', '!', '"', '\'', '*', ' '])
        .to_owned()
}

#[cfg(test)]
mod tests {
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
}
