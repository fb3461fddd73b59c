//! The canonical form of an answer, which does not depend on its markup and notation.

use std::fmt;

use super::choice::{read_choice, read_truth};
use super::latex::without_markup;
use super::locate::stated;
use super::normalise::folded;
use super::number::{Quantity, read_quantity};
use super::sentence::number_of_sentence;
use super::units::known_unit;

/// Maximum length in bytes of an answer that is parsed; longer ones are compared as plain text.
const MAX_BYTES: usize = 4096;

/// Maximum number of items of a sequence or set.
const MAX_ITEMS: usize = 64;

/// Maximum depth of sequences in sequences.
const MAX_DEPTH: usize = 4;

/// Maximum number of wrappers around an answer.
const MAX_ROUNDS: usize = 12;

/// The canonical form of an answer.
///
/// `==` is equality of canonical forms and an equivalence relation. [`Answer::agrees`] is the
/// comparison of answers: it also lets a number without a unit equal the same number with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A number with its unit.
    Number(Quantity),
    /// A letter A to J.
    Choice(char),
    /// Yes or true; no or false.
    Truth(bool),
    /// Items in order between brackets: a point, an interval.
    Sequence {
        /// `(` or `[`.
        open: char,
        /// Two items or more.
        items: Vec<Answer>,
        /// `)` or `]`.
        close: char,
    },
    /// Items without an order, sorted.
    Set(Vec<Answer>),
    /// Any other text, in lower case and without markup and punctuation at its ends.
    Text(String),
}

impl Answer {
    /// Reads an answer: a bare one, one in a wrapper (tags, box, hashes, `$..$`, bold), or a
    /// sentence that states it.
    pub fn read(text: &str) -> Self {
        if text.len() > MAX_BYTES && stated(text).is_none() {
            return Self::Text(text.trim().to_owned());
        }
        let mut current = text.to_owned();
        for _ in 0..MAX_ROUNDS {
            let answer = Self::read_once(&current);
            let written = match &answer {
                Self::Number(_) | Self::Choice(_) | Self::Truth(_) => return answer,
                Self::Text(plain) if *plain == current => return answer,
                Self::Text(plain) => plain.clone(),
                // If items alone have another meaning, this is not a sequence or set.
                Self::Sequence { .. } | Self::Set(_) => {
                    let written = answer.to_string();
                    if Self::read_once(&written) == answer {
                        return answer;
                    }
                    written
                }
            };
            current = written;
        }
        Self::Text(current)
    }

    fn read_once(text: &str) -> Self {
        match stated(text) {
            Some(found) => Self::read_bare(found.text),
            None => Self::read_bare(text),
        }
    }

    /// Reads an answer without tags, box, hashes or `The answer is` around it.
    pub(super) fn read_bare(text: &str) -> Self {
        if text.len() > MAX_BYTES {
            return Self::Text(text.trim().to_owned());
        }
        let plain = plain(text);
        let trimmed = trim_marks(&plain);
        read_plain(trimmed)
            .or_else(|| number_of_sentence(&plain).map(Self::Number))
            .unwrap_or_else(|| Self::Text(plain_text(without_unit(trimmed))))
    }

    /// Whether two answers mean the same. Symmetric.
    ///
    /// Equal canonical forms agree. So do equal numbers of which one has no unit, a per cent value
    /// and its bare number or its hundredth, and sequences and sets whose items agree. An empty
    /// text agrees with nothing.
    pub fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(left), Self::Number(right)) => left.agrees(right),
            (
                Self::Sequence { open, items, close },
                Self::Sequence {
                    open: other_open,
                    items: others,
                    close: other_close,
                },
            ) => {
                let pairs = items.iter().zip(others);
                (open, close, items.len()) == (other_open, other_close, others.len())
                    && pairs.into_iter().all(|(left, right)| left.agrees(right))
            }
            (Self::Set(left), Self::Set(right)) => sets_agree(left, right),
            (Self::Text(left), Self::Text(right)) => !left.is_empty() && left == right,
            _ => self == other,
        }
    }

    /// Whether the answer is only a text.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(quantity) => write!(f, "{quantity}"),
            Self::Choice(letter) => write!(f, "{letter}"),
            Self::Truth(true) => f.write_str("yes"),
            Self::Truth(false) => f.write_str("no"),
            Self::Sequence { open, items, close } => write!(f, "{open}{}{close}", joined(items)),
            Self::Set(items) => f.write_str(&joined(items)),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn joined(items: &[Answer]) -> String {
    let written: Vec<String> = items.iter().map(Answer::to_string).collect();
    written.join(", ")
}

/// Whether each item of one set agrees with another item of the other.
fn sets_agree(left: &[Answer], right: &[Answer]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut free: Vec<&Answer> = right.iter().collect();
    left.iter().all(|item| {
        let exact = free.iter().position(|other| *other == item);
        let place = exact.or_else(|| free.iter().position(|other| other.agrees(item)));
        place.map(|place| free.swap_remove(place)).is_some()
    })
}

/// One spelling, no markup, single spaces, none before a power.
fn plain(text: &str) -> String {
    let unmarked = without_markup(&folded(text));
    let words: Vec<&str> = unmarked.split_whitespace().collect();
    let plain = words.join(" ").replace(" ^", "^").replace(" °", "°");
    if plain.contains("pi") {
        with_pi(&plain)
    } else {
        plain
    }
}

/// The text with the word `pi` written as `π`.
fn with_pi(plain: &str) -> String {
    let mut written = String::with_capacity(plain.len());
    let mut rest = plain;
    while let Some(at) = rest.find("pi") {
        let after = &rest[at + 2..];
        let joined = |c: char| c.is_alphabetic() || c == '\\';
        written.push_str(&rest[..at]);
        let word = written.ends_with(joined) || after.starts_with(char::is_alphabetic);
        written.push_str(if word { "pi" } else { "π" });
        rest = after;
    }
    written.push_str(rest);
    written
}

/// The text without emphasis, quotes and punctuation at its ends. The `!` of a factorial stays.
fn trim_marks(plain: &str) -> &str {
    let mut rest = plain;
    loop {
        let mut next = rest.trim_start_matches(['*', '_', '#', ':', ',', ';', ' ', '=']);
        next = next.trim_end_matches(['*', '_', '.', ',', ';', ':', ' ', '?']);
        if let Some(word) = next.strip_suffix('!')
            && word.ends_with(|c: char| c.is_alphabetic() || c == '!' || c == '.')
        {
            next = word;
        }
        for quote in ['"', '\''] {
            let inner = next
                .strip_prefix(quote)
                .and_then(|inner| inner.strip_suffix(quote));
            next = inner.unwrap_or(next);
        }
        if next.len() == rest.len() {
            return rest;
        }
        rest = next;
    }
}

/// Reads any form of answer except free text.
fn read_plain(plain: &str) -> Option<Answer> {
    let plain = without_lead(plain);
    read_quantity(plain)
        .map(Answer::Number)
        .or_else(|| read_truth(plain).map(Answer::Truth))
        .or_else(|| read_single(plain))
        .or_else(|| read_membership(plain))
        .or_else(|| read_sequence(plain, 0))
        .or_else(|| read_set(plain))
        .or_else(|| read_labelled(plain))
        .or_else(|| read_choice(plain).map(Answer::Choice))
        .or_else(|| read_equation(plain))
}

/// The number after a label: `Total cost: $5`.
fn read_labelled(plain: &str) -> Option<Answer> {
    let (label, value) = plain.split_once(": ")?;
    let words = label.chars().all(|c| c.is_alphabetic() || c == ' ');
    let choice = label.len() == 1 && label != "A";
    (words && !choice)
        .then(|| read_quantity(value).map(Answer::Number))
        .flatten()
}

/// Removes a word that only qualifies a number: `approximately`, `only`.
fn without_lead(plain: &str) -> &str {
    const LEADS: [&str; 10] = [
        "approximately ",
        "approx. ",
        "approx ",
        "about ",
        "around ",
        "roughly ",
        "exactly ",
        "only ",
        "just ",
        "≈",
    ];
    let lead = LEADS.iter().find(|lead| {
        plain
            .get(..lead.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(lead))
    });
    lead.map_or(plain, |lead| plain[lead.len()..].trim_start())
}

/// The set or interval of `x ∈ {1, 2}`.
fn read_membership(plain: &str) -> Option<Answer> {
    let (name, set) = plain.split_once('∈')?;
    let set = set.trim();
    let items = read_set(set).or_else(|| read_sequence(set, 1));
    items.filter(|_| name.trim().chars().count() == 1)
}

/// A list of one number: `[42]`.
fn read_single(plain: &str) -> Option<Answer> {
    let inner = plain.strip_prefix('[')?.strip_suffix(']')?;
    read_quantity(inner).map(Answer::Number)
}

fn read_item(plain: &str, depth: usize) -> Answer {
    let plain = trim_marks(plain);
    read_quantity(plain)
        .map(Answer::Number)
        .or_else(|| read_choice(plain).map(Answer::Choice))
        .or_else(|| read_sequence(plain, depth))
        .or_else(|| read_equation(plain))
        .unwrap_or_else(|| Answer::Text(plain_text(plain)))
}

fn read_sequence(plain: &str, depth: usize) -> Option<Answer> {
    let open = plain.chars().next().filter(|c| matches!(c, '(' | '['))?;
    let close = plain
        .chars()
        .next_back()
        .filter(|c| matches!(c, ')' | ']'))?;
    if depth >= MAX_DEPTH || plain.len() < 2 {
        return None;
    }
    let items = split_items(&plain[1..plain.len() - 1], Commas::All)?;
    let items: Vec<Answer> = items
        .iter()
        .map(|item| read_item(item, depth + 1))
        .collect();
    let empty = items
        .iter()
        .any(|item| *item == Answer::Text(String::new()));
    (items.len() > 1 && !empty).then_some(Answer::Sequence { open, items, close })
}

/// A list without brackets: `3, 4`, `3 and 4`, `x = 3 or x = 4`. A list with prose in it does not
/// count.
fn read_set(plain: &str) -> Option<Answer> {
    let separated = plain
        .replace(", and ", ", ")
        .replace(", or ", ", ")
        .replace(" and ", ", ")
        .replace(" or ", ", ")
        .replace("; ", ", ");
    let items = split_items(&separated, Commas::Separators)?;
    let mut items: Vec<Answer> = items.iter().map(|item| read_item(item, 1)).collect();
    let prose = |item: &Answer| matches!(item, Answer::Text(text) if text.is_empty() || text.contains(' ') || text.contains('='));
    if items.len() < 2 || items.iter().any(prose) {
        return None;
    }
    items.sort_by_cached_key(Answer::to_string);
    Some(Answer::Set(items))
}

/// Which commas divide items.
#[derive(Clone, Copy, PartialEq)]
enum Commas {
    /// All commas; but if one has a space after it, not those inside numbers.
    All,
    /// Those that cannot be thousands separators.
    Separators,
}

/// The parts between commas outside brackets; `None` if brackets do not match or there are too many
/// parts.
fn split_items(plain: &str, commas: Commas) -> Option<Vec<&str>> {
    let spaced = plain.contains(", ");
    let bytes = plain.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let (mut items, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                let groups = (1..4).all(|next| digit(at + next)) && !digit(at + 4);
                let thousands = at > 0 && digit(at - 1) && groups;
                if !(thousands && (commas == Commas::Separators || spaced)) {
                    items.push(plain[start..at].trim());
                    start = at + 1;
                }
            }
            _ => {}
        }
        if items.len() > MAX_ITEMS {
            return None;
        }
    }
    items.push(plain[start..].trim());
    (depth == 0).then_some(items)
}

/// The right side of `x = 7` or `3/4 = 0.75`; the exact left side of `1/3 ≈ 0.33`.
///
/// An equation between unknowns (`2x = 5`) and one between different numbers (`3 = 4`) are no
/// value.
fn read_equation(plain: &str) -> Option<Answer> {
    if let Some((left, right)) = plain.split_once('≈') {
        let (left, right) = (left.trim(), right.trim());
        let exact = read_quantity(left).map(Answer::Number);
        return exact.or_else(|| read_named(left, right));
    }
    let (left, right) = plain.rsplit_once('=')?;
    let (left, right) = (left.trim(), right.trim());
    if left.ends_with(['<', '>', '!', '=', ':']) {
        return None;
    }
    let nearest = left.rsplit('=').next().unwrap_or(left).trim();
    if let Some(other) = read_quantity(nearest) {
        let value = read_quantity(right).filter(|value| value.agrees(&other))?;
        return Some(Answer::Number(value));
    }
    read_named(nearest, right)
}

/// The value of a name or of a sum of numbers: `x = 7`, `f(2) = 7`, `40 + 2 = 42`,
/// `Total cost = $5`.
fn read_named(left: &str, right: &str) -> Option<Answer> {
    let value = || {
        read_quantity(right)
            .map(Answer::Number)
            .or_else(|| read_choice(right).map(Answer::Choice))
            .or_else(|| read_sequence(right, 1))
    };
    let name = left.split('(').next().unwrap_or(left);
    let is_name = name.len() <= 12
        && name.starts_with(char::is_alphabetic)
        && name.chars().all(|c| c.is_alphanumeric() || c == '_')
        && (name == left || left.ends_with(')'));
    if is_name {
        let text = || Some(Answer::Text(plain_text(right)));
        return value().or_else(text);
    }
    let operators = left.replace(" x ", " * ");
    let mut letters = operators.split(|c: char| !c.is_alphabetic());
    let sentence = letters.all(|run| run.chars().count() != 1 || matches!(run, "a" | "A" | "I"));
    let operands = left.contains(char::is_alphanumeric) && sentence && !left.contains('\\');
    operands.then(value).flatten()
}

/// An expression without the unit after it: `5sqrt(2) cm`, `3π cm^2`.
fn without_unit(plain: &str) -> &str {
    let Some((expression, word)) = plain.rsplit_once(' ') else {
        return plain;
    };
    let name = word.split('^').next().unwrap_or(word);
    let unit = word.len() > 1 && known_unit(name).is_some();
    if unit && expression.ends_with([')', 'π']) {
        expression
    } else {
        plain
    }
}

/// The text without case, and without spaces next to marks and between a number and a letter.
fn plain_text(plain: &str) -> String {
    let lower = plain.to_lowercase();
    let mut text = String::with_capacity(lower.len());
    let mut words = lower.split(' ').peekable();
    while let Some(word) = words.next() {
        text.push_str(word);
        let Some(next) = words.peek() else {
            break;
        };
        let marks =
            !word.ends_with(char::is_alphanumeric) || !next.starts_with(char::is_alphanumeric);
        let single = next.chars().nth(1).is_none_or(|c| !c.is_alphanumeric());
        let factor = word.ends_with(|c: char| c.is_ascii_digit())
            && single
            && !next.starts_with(|c: char| c.is_ascii_digit());
        let prose =
            word.ends_with([',', '.', ':', ';', '\'', '"']) || next.starts_with(['\'', '"']);
        if prose || !(marks || factor) {
            text.push(' ');
        }
    }
    trim_marks(&text).to_owned()
}
