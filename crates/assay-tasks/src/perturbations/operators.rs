//! Another operator in one arithmetic step.
//!
//! An operator is a sign between two operands of an expression that an equals sign closes: `12 - 3
//! = 9`, `$4 x 2 eggs = 8`. Hyphens, dates, list bullets and units (`120-page`, `2024-05-01`, `- 5
//! eggs`, `km/h`) are not.

use super::edit::{Edited, layout};
use super::numbers::pick;
use crate::answers::{Rational, parse_number};
use crate::numbers::{Numeral, quantities};
use crate::random::Stream;

/// The four operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
}

const OPERATIONS: [Operation; 4] = [
    Operation::Add,
    Operation::Subtract,
    Operation::Multiply,
    Operation::Divide,
];

/// One operator of the reasoning.
struct Operator {
    at: usize,
    sign: char,
    operation: Operation,
}

/// Maximum number of words of a unit between an operand and the next sign.
const UNIT_WORDS: usize = 2;

/// Replaces one operator by another that changes the value; the right-hand side stays.
pub(super) fn flip_operator(text: &str, stream: &mut Stream) -> Option<Edited> {
    let reasoning = &text[..layout(text).reasoning_end];
    let all = quantities(reasoning);
    let mut operators = find_operators(reasoning, &all);
    let times = operators
        .iter()
        .find(|found| found.operation == Operation::Multiply)
        .map_or('*', |found| found.sign);
    stream.shuffle(&mut operators);
    operators.into_iter().find_map(|found| {
        let choices: Vec<Operation> = OPERATIONS
            .into_iter()
            .filter(|&other| changes_value(reasoning, &all, &found, other))
            .collect();
        let sign = match pick(&choices, stream)? {
            Operation::Add => '+',
            Operation::Subtract => '-',
            Operation::Multiply => times,
            Operation::Divide => '/',
        };
        Some(Edited::replacing(
            text,
            &[(found.at..found.at + found.sign.len_utf8(), sign.to_string())],
        ))
    })
}

fn operation_of(sign: char) -> Option<Operation> {
    Some(match sign {
        '+' => Operation::Add,
        '-' | '−' | '–' => Operation::Subtract,
        '*' | 'x' | '×' => Operation::Multiply,
        '/' | '÷' => Operation::Divide,
        _ => return None,
    })
}

fn find_operators(text: &str, all: &[Numeral]) -> Vec<Operator> {
    let mut found = Vec::new();
    for (at, sign) in text.char_indices() {
        let Some(operation) = operation_of(sign) else {
            continue;
        };
        let (before, after) = (&text[..at], &text[at + sign.len_utf8()..]);
        let word = sign == 'x'
            && (before.ends_with(char::is_alphabetic) || after.starts_with(char::is_alphabetic));
        if !word
            && ends_in_operand(before, all)
            && starts_operand(after, all, text.len())
            && reaches_equals(after)
        {
            found.push(Operator {
                at,
                sign,
                operation,
            });
        }
    }
    found
}

/// Whether `before` ends in a quantity, perhaps with a unit, or in a closing bracket.
fn ends_in_operand(before: &str, all: &[Numeral]) -> bool {
    let ends_quantity = |end: usize| {
        all.binary_search_by_key(&end, |numeral| numeral.span.end)
            .is_ok()
    };
    let mut rest = before.trim_end_matches(' ');
    for words in 0..=UNIT_WORDS {
        let bare = rest.trim_end_matches(['%', '¢', ' ']);
        if rest.ends_with(')') || ends_quantity(bare.len()) {
            return true;
        }
        let shorter = without_unit(rest);
        if shorter.len() == rest.len() || words == UNIT_WORDS {
            return false;
        }
        rest = shorter.trim_end_matches(' ');
    }
    false
}

/// The text without the unit word it ends in: `sessions/day` and `/week` are one word.
fn without_unit(text: &str) -> &str {
    let mut rest = text.trim_end_matches(char::is_alphabetic);
    while rest.len() < text.len() && rest.ends_with('/') {
        rest = rest
            .trim_end_matches('/')
            .trim_end_matches(char::is_alphabetic);
    }
    rest
}

/// Whether `after`, the end of a text of `length` bytes, starts with a quantity or an opening
/// bracket.
fn starts_operand(after: &str, all: &[Numeral], length: usize) -> bool {
    let rest = after.trim_start_matches([' ', '$', '€', '£']);
    let start = length - rest.len();
    rest.starts_with('(')
        || all
            .binary_search_by_key(&start, |numeral| numeral.span.start)
            .is_ok()
}

/// Whether `after` begins with an expression, an equals sign and a number.
fn reaches_equals(after: &str) -> bool {
    let mut words = 0;
    let mut in_word = false;
    for (at, character) in after.char_indices() {
        if character == '=' {
            let result = after[at + 1..].trim_start_matches([' ', '$', '€', '£', '-', '−']);
            return result.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        }
        let sign = operation_of(character).is_some() && !(character == 'x' && in_word);
        if character.is_ascii_digit() || sign {
            (words, in_word) = (0, false);
        } else if character.is_alphabetic() {
            words += usize::from(!in_word);
            in_word = true;
        } else if matches!(
            character,
            ' ' | '(' | ')' | '%' | '$' | '€' | '£' | '¢' | '.' | ','
        ) {
            in_word = false;
        } else {
            return false;
        }
        let ends_clause = matches!(character, '.' | ',')
            && !after[at + 1..].starts_with(|c: char| c.is_ascii_digit());
        if words > UNIT_WORDS || ends_clause {
            return false;
        }
    }
    false
}

/// Whether the other operation has another value; unknown operands count as different.
fn changes_value(text: &str, all: &[Numeral], found: &Operator, other: Operation) -> bool {
    if other == found.operation {
        return false;
    }
    let value = |numeral: &Numeral| parse_number(&text[numeral.span.clone()]);
    let after = found.at + found.sign.len_utf8();
    let split = all.partition_point(|numeral| numeral.span.start < found.at);
    let left = split.checked_sub(1).and_then(|index| value(&all[index]));
    let right = all
        .get(split)
        .filter(|numeral| numeral.span.start >= after)
        .and_then(value);
    let (Some(left), Some(right)) = (left, right) else {
        return true;
    };
    let (old, new) = (
        computed(left, found.operation, right),
        computed(left, other, right),
    );
    new.is_none() || old != new
}

fn computed(left: Rational, operation: Operation, right: Rational) -> Option<Rational> {
    match operation {
        Operation::Add => left.plus(right),
        Operation::Subtract => left.plus(right.negated()),
        Operation::Multiply => left.times(right),
        Operation::Divide => left.times(right.inverted()?),
    }
}
