//! Numbers as answers state them, read exactly.

use crate::numbers::numerals;

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

/// A number, and whether a per cent mark follows it.
pub(super) struct Quantity {
    pub(super) value: Rational,
    pub(super) percent: bool,
}

impl Quantity {
    /// The value, a hundredth of it where it is a per cent value.
    pub(super) fn fraction_of_one(&self) -> Option<Rational> {
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

pub(super) fn parse_quantity(answer: &str) -> Option<Quantity> {
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
pub(super) fn without_markup(answer: &str) -> String {
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
