//! Errors in the numbers of the reasoning.

use super::edit::{Edited, layout};
use crate::numbers::{Numeral, quantities};
use crate::random::Stream;

/// Quantities of the reasoning, in order.
pub(super) fn reasoning_quantities(text: &str) -> Vec<Numeral> {
    quantities(&text[..layout(text).reasoning_end])
}

/// Changes one digit in each of `count` numbers of the reasoning, or in all if there are fewer.
pub(super) fn corrupt_numbers(text: &str, count: usize, stream: &mut Stream) -> Option<Edited> {
    let mut chosen = reasoning_quantities(text);
    stream.shuffle(&mut chosen);
    chosen.truncate(count);
    chosen.sort_by_key(|numeral| numeral.span.start);
    let replacements: Vec<_> = chosen
        .into_iter()
        .filter_map(|numeral| {
            let other = other_digit(&text[numeral.span.clone()], stream)?;
            Some((numeral.span, other))
        })
        .collect();
    (!replacements.is_empty()).then(|| Edited::replacing(text, &replacements))
}

/// Exchanges two numbers of the reasoning with different values that are not operands of one sum or
/// product.
pub(super) fn swap_numbers(text: &str, stream: &mut Stream) -> Option<Edited> {
    let all = reasoning_quantities(text);
    let written = |index: usize| &text[all[index].span.clone()];
    let mut pairs = Vec::new();
    for left in 0..all.len() {
        for right in left + 1..all.len().min(left + FARTHEST_SWAP) {
            let between = &text[all[left].span.end..all[right].span.start];
            if !same_value(text, &all[left], &all[right]) && !is_commutative(between) {
                pairs.push((left, right));
            }
        }
    }
    let &(left, right) = pick(&pairs, stream)?;
    let replacements = [
        (all[left].span.clone(), written(right).to_owned()),
        (all[right].span.clone(), written(left).to_owned()),
    ];
    Some(Edited::replacing(text, &replacements))
}

/// Changes a result and every later mention of it, the answer included.
pub(super) fn carry_error(text: &str, stream: &mut Stream) -> Option<Edited> {
    let quantities = quantities(text);
    let all = quantities.as_slice();
    let end = layout(text).reasoning_end;
    let later = |index: usize| {
        all[index + 1..]
            .iter()
            .filter(move |numeral| same_value(text, numeral, &all[index]))
    };
    let results: Vec<usize> = (0..all.len())
        .filter(|&index| {
            all[index].span.start < end
                && is_result(text, &all[index])
                && later(index).next().is_some()
        })
        .collect();
    let &index = pick(&results, stream)?;
    let (scaled, wrong) = other_value(text, &all[index], stream)?;
    let mut replacements = vec![(all[index].span.clone(), wrong)];
    for mention in later(index) {
        let scaled = rescaled(scaled, all[index].decimals, mention.decimals);
        let carried = match scaled {
            Some(scaled) => mention.format_like(text, scaled)?,
            None => replacements[0].1.clone(),
        };
        replacements.push((mention.span.clone(), carried));
    }
    Some(Edited::replacing(text, &replacements))
}

/// Multiplies a number by ten, or divides it by ten if the written decimals stay exact.
pub(super) fn wrong_unit_scale(text: &str, stream: &mut Stream) -> Option<Edited> {
    change_one(text, stream, |numeral, stream| {
        let scaled = numeral.scaled(text).filter(|&scaled| scaled != 0)?;
        let tenth = scaled % 10 == 0 && stream.below(2) == 0;
        numeral.format_like(text, if tenth { scaled / 10 } else { scaled * 10 })
    })
}

/// Adds or subtracts one.
pub(super) fn off_by_one(text: &str, stream: &mut Stream) -> Option<Edited> {
    change_one(text, stream, |numeral, stream| {
        let scaled = numeral.scaled(text)?;
        let one = 10_i128.checked_pow(u32::try_from(numeral.decimals).ok()?)?;
        let down = scaled >= one && stream.below(2) == 0;
        numeral.format_like(text, if down { scaled - one } else { scaled + one })
    })
}

/// A uniformly drawn element.
pub(super) fn pick<'a, T>(items: &'a [T], stream: &mut Stream) -> Option<&'a T> {
    items.get(stream.below(items.len()))
}

/// Whether two numerals have the same value in any notation.
pub(super) fn same_value(text: &str, left: &Numeral, right: &Numeral) -> bool {
    let most = left.decimals.max(right.decimals);
    let value = |numeral: &Numeral| rescaled(numeral.scaled(text)?, numeral.decimals, most);
    match (value(left), value(right)) {
        (Some(left), Some(right)) => left == right,
        _ => text[left.span.clone()] == text[right.span.clone()],
    }
}

/// Maximum distance of two exchanged numbers, in numbers: it keeps the search linear in the text.
const FARTHEST_SWAP: usize = 24;

fn change_one(
    text: &str,
    stream: &mut Stream,
    change: impl Fn(&Numeral, &mut Stream) -> Option<String>,
) -> Option<Edited> {
    let mut all = reasoning_quantities(text);
    stream.shuffle(&mut all);
    all.into_iter().find_map(|numeral| {
        let other = change(&numeral, stream)?;
        let changed = other != text[numeral.span.clone()];
        changed.then(|| Edited::replacing(text, &[(numeral.span, other)]))
    })
}

/// The numeral with one digit changed; a first digit of several never becomes 0.
fn other_digit(written: &str, stream: &mut Stream) -> Option<String> {
    let digits: Vec<usize> = (0..written.len())
        .filter(|&at| written.as_bytes()[at].is_ascii_digit())
        .collect();
    let &at = pick(&digits, stream)?;
    let old = written.as_bytes()[at] - b'0';
    let keeps_lead = at == 0 && old != 0;
    let choices: Vec<u8> = (u8::from(keeps_lead)..10)
        .filter(|&digit| digit != old)
        .collect();
    let &new = pick(&choices, stream)?;
    let mut bytes = written.to_owned().into_bytes();
    bytes[at] = b'0' + new;
    String::from_utf8(bytes).ok()
}

/// Another value in the same notation, and its text.
fn other_value(text: &str, numeral: &Numeral, stream: &mut Stream) -> Option<(i128, String)> {
    let written = other_digit(&text[numeral.span.clone()], stream)?;
    let changed = Numeral {
        span: 0..written.len(),
        ..numeral.clone()
    };
    Some((changed.scaled(&written)?, written))
}

/// `scaled` with other decimals; `None` where that is not exact.
fn rescaled(scaled: i128, from: usize, to: usize) -> Option<i128> {
    let power = |places: usize| 10_i128.checked_pow(u32::try_from(places).ok()?);
    if to >= from {
        return scaled.checked_mul(power(to - from)?);
    }
    let divisor = power(from - to)?;
    (scaled % divisor == 0).then_some(scaled / divisor)
}

/// Whether the numeral follows an equals sign.
fn is_result(text: &str, numeral: &Numeral) -> bool {
    text[..numeral.span.start]
        .trim_end_matches([' ', '$', '€', '£'])
        .ends_with('=')
}

/// Whether only terms of one sum, or only factors of one product, are between two numbers.
fn is_commutative(between: &str) -> bool {
    let marks = || {
        between
            .chars()
            .filter(|c| !c.is_ascii_digit() && !matches!(c, ' ' | '$' | '€' | '£' | ',' | '.'))
    };
    marks().next().is_some()
        && (marks().all(|mark| mark == '+') || marks().all(|mark| matches!(mark, '*' | 'x' | '×')))
}
