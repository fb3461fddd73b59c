//! Numbers as answers state them, read exactly from plain text.

use super::rational::Rational;
use super::units::{Unit, leading_currency, read_unit};

/// Maximum digits of a number whose value is computed.
const MAX_DIGITS: usize = 36;

/// Maximum magnitude of an exponent.
const MAX_EXPONENT: i128 = 200;

/// Maximum depth of parentheses.
const MAX_DEPTH: usize = 16;

/// A number with what it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// The value; that of `50 %` is 50.
    pub value: Rational,
    pub(super) unit: Unit,
}

impl Quantity {
    /// Whether two quantities mean the same: equal values and no contradiction of units.
    ///
    /// A per cent value equals both its bare number and its hundredth.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        if self.unit.is_percent() != other.unit.is_percent() {
            let (percent, plain) = match self.unit.is_percent() {
                true => (self, other),
                false => (other, self),
            };
            let hundredth = Rational::new(1, 100).and_then(|one| percent.value.times(one));
            let equal = percent.value == plain.value || hundredth == Some(plain.value);
            return equal && plain.unit.is_empty();
        }
        self.value == other.value && self.unit.compatible(&other.unit)
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.value)?;
        if self.unit.is_empty() {
            return Ok(());
        }
        write!(f, " {}", self.unit)
    }
}

/// The quantity that a plain text states, or `None` where it is not one number with a unit.
pub(super) fn read_quantity(plain: &str) -> Option<Quantity> {
    let (sign, currency, rest) = signs(plain)?;
    let mut reader = Reader {
        rest,
        depth: 0,
        powers: 0,
        decimal_comma: false,
    };
    let value = reader.sum(sign)?;
    let (scale, unit) = read_unit(reader.rest, currency)?;
    if reader.decimal_comma && unit.is_empty() && currency.is_none() {
        return None;
    }
    if !unit.reads_back() {
        return None;
    }
    Some(Quantity {
        value: value.times(scale)?,
        unit,
    })
}

/// Reads a sign and a currency mark in either order.
fn signs(plain: &str) -> Option<(Sign, Option<&'static str>, &str)> {
    let mut rest = plain.trim();
    let (mut sign, mut currency) = (None, None);
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(['+', '-']) {
            if sign.is_some() {
                return None;
            }
            sign = Some(Sign::of(rest));
            rest = after;
        } else if let Some((name, length)) = leading_currency(rest) {
            if currency.is_some() {
                return None;
            }
            currency = Some(name);
            rest = &rest[length..];
        } else {
            return Some((sign.unwrap_or(Sign::Plus), currency, rest));
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Plus,
    Minus,
}

impl Sign {
    /// The sign that a text begins with; plus where there is none.
    fn of(text: &str) -> Self {
        match text.starts_with('-') {
            true => Self::Minus,
            false => Self::Plus,
        }
    }

    fn apply(self, value: Rational) -> Rational {
        match self {
            Self::Plus => value,
            Self::Minus => value.negated(),
        }
    }
}

struct Reader<'t> {
    rest: &'t str,
    depth: usize,
    /// Number of powers read so far. A sum or product of plain numbers does not count as one
    /// number.
    powers: usize,
    /// Whether a comma was read as the decimal mark although no other separator confirms it.
    decimal_comma: bool,
}

impl Reader<'_> {
    /// One product, or a sum in which a term has a power: `2^10 - 1`. A sum of plain numbers is an
    /// unfinished calculation, and `3-4` is a range.
    fn sum(&mut self, sign: Sign) -> Option<Rational> {
        let mut value = sign.apply(self.product()?);
        let mut terms = 1;
        while let Some(after) = self.rest.trim_start().strip_prefix(['+', '-']) {
            let sign = Sign::of(self.rest.trim_start());
            let term = after.trim_start();
            if !term.starts_with(|c: char| c.is_ascii_digit() || c == '(') {
                break;
            }
            self.rest = term;
            value = value.plus(sign.apply(self.product()?))?;
            terms += 1;
        }
        (terms == 1 || self.powers > 0).then_some(value)
    }

    /// One number, or a product in which a factor is a power: `1.5 * 10^3`.
    fn product(&mut self) -> Option<Rational> {
        let mut value = self.quotient()?;
        let mut factors = 1;
        while let Some(after) = self.rest.trim_start().strip_prefix(['*', 'x']) {
            let digits = after.trim_start().starts_with(|c: char| c.is_ascii_digit());
            if !digits {
                break;
            }
            self.rest = after.trim_start();
            value = value.times(self.quotient()?)?;
            factors += 1;
        }
        (factors == 1 || self.powers > 0).then_some(value)
    }

    /// `3/4`, `1 3/4` or one number. With a second slash it is a date.
    fn quotient(&mut self) -> Option<Rational> {
        let start = self.rest;
        let value = self.power()?;
        if let Some(bottom) = self.denominator() {
            let value = value.times(bottom?.inverted()?)?;
            return Some(value).filter(|_| denominator_start(self.rest).is_none());
        }
        let whole = &start[..start.len() - self.rest.len()];
        if whole
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b',')
        {
            let after = self.rest.trim_start();
            let after = after.strip_prefix("and ").unwrap_or(after);
            let spaced = after.len() < self.rest.len();
            if spaced && let Some(rest) = after.strip_prefix("a half") {
                self.rest = rest;
                return value.plus(Rational::new(1, 2)?);
            }
            if spaced && let Some((part, rest)) = proper_fraction(after) {
                self.rest = rest;
                return value.plus(part);
            }
        }
        Some(value)
    }

    fn denominator(&mut self) -> Option<Option<Rational>> {
        let after = denominator_start(self.rest)?;
        let sign = Sign::of(after);
        self.rest = after.strip_prefix('-').unwrap_or(after);
        Some(self.power().map(|value| sign.apply(value)))
    }

    fn power(&mut self) -> Option<Rational> {
        let mut value = self.atom()?;
        if let Some(after) = self.rest.strip_prefix('!') {
            self.rest = after;
            value = factorial(value)?;
        }
        let Some(after) = self.rest.trim_start().strip_prefix('^') else {
            return Some(value);
        };
        self.powers += 1;
        let (exponent, rest) = exponent(after.trim_start())?;
        self.rest = rest;
        value.power(exponent)
    }

    fn atom(&mut self) -> Option<Rational> {
        if let Some(inner) = self.rest.strip_prefix("sqrt(") {
            self.rest = inner;
            return self.closed()?.exact_root();
        }
        if let Some(inner) = self.rest.strip_prefix('(') {
            self.rest = inner;
            return self.closed();
        }
        let (numeral, rest) = read_numeral(self.rest)?;
        self.rest = rest;
        self.decimal_comma |= numeral.decimal_comma;
        Some(numeral.value)
    }

    /// A number up to the parenthesis that closes it.
    fn closed(&mut self) -> Option<Rational> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let sign = Sign::of(self.rest.trim_start());
        self.rest = self.rest.trim_start().trim_start_matches('-');
        let value = self.sum(sign)?;
        self.rest = self.rest.trim_start().strip_prefix(')')?;
        self.depth -= 1;
        Some(value)
    }
}

/// The text after a slash that divides by a number; `None` for `/h`, which is a unit.
fn denominator_start(text: &str) -> Option<&str> {
    let after = text.trim_start().strip_prefix('/')?.trim_start();
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '(' | '-' | '.');
    after.starts_with(is_number).then_some(after)
}

/// `1/2` with a value below 1, digits only.
fn proper_fraction(text: &str) -> Option<(Rational, &str)> {
    let (top, rest) = digits(text)?;
    let (bottom, rest) = digits(rest.trim_start().strip_prefix('/')?.trim_start())?;
    if denominator_start(rest).is_some() {
        return None;
    }
    let value = Rational::new(top, bottom)?;
    value.is_proper().then_some((value, rest))
}

fn digits(text: &str) -> Option<(i128, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    if length == 0 || length > MAX_DIGITS {
        return None;
    }
    Some((text[..length].parse().ok()?, &text[length..]))
}

fn exponent(text: &str) -> Option<(i32, &str)> {
    let inner = text.strip_prefix('(');
    let signed = inner.unwrap_or(text).trim_start();
    let unsigned = signed.trim_start_matches(['-', '+']);
    if signed.len() - unsigned.len() > 1 {
        return None;
    }
    let (value, rest) = digits(unsigned)?;
    let rest = match inner {
        Some(_) => rest.trim_start().strip_prefix(')')?,
        None => rest,
    };
    if value > MAX_EXPONENT || rest.starts_with(['^', '.']) && !rest.eq(".") {
        return None;
    }
    let value = i32::try_from(value).ok()?;
    Some((
        if signed.starts_with('-') {
            -value
        } else {
            value
        },
        rest,
    ))
}

fn factorial(value: Rational) -> Option<Rational> {
    let value = value.integer().filter(|value| (0..=33).contains(value))?;
    let product = (1..=value).try_fold(1_i128, i128::checked_mul)?;
    Rational::new(product, 1)
}

struct NumeralValue {
    value: Rational,
    decimal_comma: bool,
}

/// Reads digits with separators and an exponent: `1,080.5`, `1.234,50`, `1 234`, `1'234`,
/// `1,23,456`, `1.5e3`.
fn read_numeral(text: &str) -> Option<(NumeralValue, &str)> {
    let (groups, separators, rest) = groups(text)?;
    let (decimals, decimal_comma) = layout(&groups, &separators)?;
    let written = groups.concat();
    if written.len() > MAX_DIGITS {
        return None;
    }
    let scale = 10_i128.checked_pow(u32::try_from(decimals).ok()?)?;
    let mut value = Rational::new(written.parse().ok()?, scale)?;
    let mut rest = rest;
    if let Some(after) = rest.strip_prefix(['e', 'E']) {
        let digits = after.trim_start_matches(['-', '+']);
        if digits.starts_with(|c: char| c.is_ascii_digit()) {
            let (power, after) = exponent(after)?;
            value = value.times(Rational::new(10, 1)?.power(power)?)?;
            rest = after;
        }
    }
    let numeral = NumeralValue {
        value,
        decimal_comma,
    };
    Some((numeral, rest))
}

/// Digit groups, the single characters between them, and the text after them.
///
/// A space separates groups only before exactly three digits.
fn groups(text: &str) -> Option<(Vec<&str>, Vec<char>, &str)> {
    let length = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (mut groups, mut separators) = (Vec::new(), Vec::new());
    let mut rest = text;
    if text.starts_with('.') && length(&text[1..]) > 0 {
        groups.push("");
    } else {
        let first = length(text);
        if first == 0 {
            return None;
        }
        groups.push(&text[..first]);
        rest = &text[first..];
    }
    while let Some(separator) = rest.chars().next() {
        if !matches!(separator, '.' | ',' | '\'' | '_' | ' ') {
            break;
        }
        let after = &rest[separator.len_utf8()..];
        let next = length(after);
        let previous = groups.last().map_or(0, |group| group.len());
        let spaced = next == 3
            && previous <= 3
            && (separators.is_empty() || previous == 3)
            && !after[3..].starts_with('/')
            && !separators.contains(&'.');
        if next == 0 || (separator == ' ' && !spaced) {
            break;
        }
        groups.push(&after[..next]);
        separators.push(separator);
        rest = &after[next..];
        if groups.len() > MAX_DIGITS {
            return None;
        }
    }
    Some((groups, separators, rest))
}

/// The number of digits after the decimal mark, and whether a comma is that mark without
/// confirmation; `None` if the separators follow no rule.
fn layout(groups: &[&str], separators: &[char]) -> Option<(usize, bool)> {
    let count = groups.len();
    let Some(&last) = separators.last() else {
        return Some((0, false));
    };
    if is_grouped(groups, separators) && !(last == '.' && separators.len() == 1) {
        return Some((0, false));
    }
    let (whole, marks) = (&groups[..count - 1], &separators[..separators.len() - 1]);
    let decimals = groups[count - 1].len();
    let decimal = matches!(last, '.' | ',') && !marks.contains(&last);
    if !decimal || !(marks.is_empty() || is_grouped(whole, marks)) {
        return None;
    }
    Some((decimals, last == ',' && marks.is_empty()))
}

/// Whether one separator divides groups as thousands: of three digits, or of two and a last one of
/// three (India).
fn is_grouped(groups: &[&str], separators: &[char]) -> bool {
    let Some((&first, rest)) = separators.split_first() else {
        return false;
    };
    let lead = groups[0];
    if rest.iter().any(|mark| *mark != first) || lead.is_empty() || lead.starts_with('0') {
        return false;
    }
    let lengths = |wanted: usize, groups: &[&str]| groups.iter().all(|group| group.len() == wanted);
    let last = groups.len() - 1;
    let threes = lead.len() <= 3 && lengths(3, &groups[1..]);
    let india =
        first == ',' && lead.len() <= 2 && lengths(2, &groups[1..last]) && groups[last].len() == 3;
    threes || india
}
