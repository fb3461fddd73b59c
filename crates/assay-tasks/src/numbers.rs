//! Numerals in running text: their position and notation, and other values in the same notation.

use std::ops::Range;

/// Maximum number of digits of a numeral whose value is computed.
const MOST_DIGITS: usize = 30;

/// A numeral without sign, currency or per cent mark: `1,080`, `2.50`, `.5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numeral {
    /// Byte range in the text.
    pub(crate) span: Range<usize>,
    /// Digits after the point.
    pub(crate) decimals: usize,
    /// Whether thousands are separated by commas.
    pub(crate) grouped: bool,
}

impl Numeral {
    /// The value times ten to the number of decimals; `None` beyond 30 digits.
    pub(crate) fn scaled(&self, text: &str) -> Option<i128> {
        let digits: String = text[self.span.clone()]
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        if digits.len() > MOST_DIGITS {
            return None;
        }
        digits.parse().ok()
    }

    /// Writes `scaled` with this numeral's decimals, separators and style of a leading zero; `None`
    /// if negative.
    pub(crate) fn format_like(&self, text: &str, scaled: i128) -> Option<String> {
        if scaled < 0 {
            return None;
        }
        let digits = format!("{scaled:0>width$}", width = self.decimals + 1);
        let (whole, fraction) = digits.split_at(digits.len() - self.decimals);
        let mut written = String::with_capacity(digits.len() + 4);
        let bare_point = text[self.span.clone()].starts_with('.');
        if !(bare_point && whole == "0") {
            for (index, digit) in whole.chars().enumerate() {
                if self.grouped && index > 0 && (whole.len() - index) % 3 == 0 {
                    written.push(',');
                }
                written.push(digit);
            }
        }
        if self.decimals > 0 {
            written.push('.');
            written.push_str(fraction);
        }
        Some(written)
    }
}

/// All numerals of a text, in order.
pub(crate) fn numerals(text: &str) -> Vec<Numeral> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let point = bytes[at] == b'.'
            && digit_at(bytes, at + 1)
            && (at == 0 || !bytes[at - 1].is_ascii_digit());
        if bytes[at].is_ascii_digit() || point {
            let numeral = numeral_at(bytes, at);
            at = numeral.span.end;
            found.push(numeral);
        } else {
            at += 1;
        }
    }
    found
}

/// The numerals that state a quantity: not parts of words, ordinals, dates, times, bullets, labels
/// or versions.
pub(crate) fn quantities(text: &str) -> Vec<Numeral> {
    let all = numerals(text);
    let kept: Vec<bool> = (0..all.len())
        .map(|index| is_quantity(text, &all, index))
        .collect();
    all.into_iter()
        .zip(kept)
        .filter_map(|(numeral, kept)| kept.then_some(numeral))
        .collect()
}

fn digit_at(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_digit)
}

fn numeral_at(bytes: &[u8], start: usize) -> Numeral {
    let mut end = skip_digits(bytes, start);
    let mut grouped = false;
    if end > start && end - start <= 3 {
        while bytes.get(end) == Some(&b',') && skip_digits(bytes, end + 1) == end + 4 {
            end += 4;
            grouped = true;
        }
    }
    let mut decimals = 0;
    if bytes.get(end) == Some(&b'.') && digit_at(bytes, end + 1) {
        let fraction = skip_digits(bytes, end + 1);
        decimals = fraction - end - 1;
        end = fraction;
    }
    Numeral {
        span: start..end,
        decimals,
        grouped,
    }
}

fn skip_digits(bytes: &[u8], mut at: usize) -> usize {
    while digit_at(bytes, at) {
        at += 1;
    }
    at
}

fn is_quantity(text: &str, all: &[Numeral], index: usize) -> bool {
    let span = all[index].span.clone();
    let (before, after) = (&text[..span.start], &text[span.end..]);
    let digits = &text[span.clone()];
    let padded = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    let mut back = before.chars().rev();
    let in_word = match back.next() {
        Some('.') => back.next().is_some_and(|c| c.is_ascii_digit()), // 1.2.3
        Some('-') => back.next().is_some_and(char::is_alphabetic),    // COVID-19
        Some(character) => character.is_alphabetic() || matches!(character, '_' | '#'),
        None => false,
    };
    let version = after.starts_with('.') && digit_at(after.as_bytes(), 1);
    !(padded
        || in_word
        || version
        || is_ordinal(after)
        || is_bullet(before, digits, after)
        || in_date(text, all, index))
}

fn is_ordinal(after: &str) -> bool {
    let suffix = ["st", "nd", "rd", "th"]
        .iter()
        .find_map(|suffix| after.strip_prefix(suffix));
    suffix.is_some_and(|rest| !rest.starts_with(char::is_alphabetic))
}

fn is_bullet(before: &str, digits: &str, after: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or(before);
    let mut marks = after.chars();
    digits.len() <= 3
        && line.trim().is_empty()
        && matches!(marks.next(), Some('.' | ')'))
        && marks.next().is_none_or(char::is_whitespace)
}

/// Whether the numeral belongs to `2024-05-01`, `5/1/2024` or `10:30`.
fn in_date(text: &str, all: &[Numeral], index: usize) -> bool {
    let joined = |left: usize, mark: &str| {
        all.get(left + 1)
            .is_some_and(|next| &text[all[left].span.end..next.span.start] == mark)
    };
    let length = |at: usize| all[at].span.len();
    let clock = |left: usize| joined(left, ":") && length(left) <= 2 && length(left + 1) == 2;
    if clock(index) || index.checked_sub(1).is_some_and(clock) {
        return true;
    }
    let calendar = |first: usize| {
        let rest = |mark: &str| joined(first, mark) && joined(first + 1, mark);
        if rest("-") {
            return [length(first), length(first + 1), length(first + 2)] == [4, 2, 2];
        }
        rest("/")
            && length(first) <= 2
            && length(first + 1) <= 2
            && matches!(length(first + 2), 2 | 4)
            && !text[all[first + 2].span.end..]
                .trim_start_matches(' ')
                .starts_with('=')
    };
    (0..3)
        .filter_map(|back| index.checked_sub(back))
        .any(calendar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<&str> {
        quantities(text)
            .into_iter()
            .map(|numeral| &text[numeral.span])
            .collect()
    }

    #[test]
    fn numerals_are_read_as_written() {
        let text = "$1,080 + 2.50 - .5 x 1,00 = 12.";
        let found: Vec<_> = numerals(text)
            .into_iter()
            .map(|n| (&text[n.span.clone()], n.decimals, n.grouped))
            .collect();
        assert_eq!(
            found,
            [
                ("1,080", 0, true),
                ("2.50", 2, false),
                (".5", 1, false),
                ("1", 0, false),
                ("00", 0, false),
                ("12", 0, false)
            ]
        );
    }

    #[test]
    fn what_is_no_quantity_is_left_alone() {
        assert_eq!(
            written(
                "1. On 2024-05-01 at 10:30 the 3rd H2O of COVID-19, v1.2.3, #4, 007 cost 5 and 20km"
            ),
            ["5", "20"]
        );
        assert_eq!(
            written("born 5/1/2024, but 12/3/40 = 0.1"),
            ["12", "3", "40", "0.1"]
        );
        assert_eq!(written("2) has 12.\n3.5 left\n 4. four"), ["12", "3.5"]);
    }

    #[test]
    fn another_value_keeps_the_writing() {
        for (text, scaled, expected) in [
            ("1,080", 1_000_081, "1,000,081"),
            ("2.50", 5, "0.05"),
            (".50", 60, ".60"),
            (".50", 160, "1.60"),
            ("999", 1000, "1000"),
        ] {
            assert_eq!(
                numerals(text)[0].format_like(text, scaled).unwrap(),
                expected
            );
        }
        assert_eq!(numerals("5")[0].format_like("5", -1), None);
        assert_eq!(numerals("1,080.25")[0].scaled("1,080.25"), Some(108_025));
        let long = "9".repeat(31);
        assert_eq!(numerals(&long)[0].scaled(&long), None);
    }
}
