//! Numbers in running text: the last one of a text, and the only one of a sentence.

use std::ops::Range;

use super::canonical::Answer;
use super::normalise::is_digit_like;
use super::number::{Quantity, read_quantity};
use super::units::belongs_to_number;

/// Maximum number of numerals that are tried from the end of a text.
const MAX_TRIES: usize = 256;

/// Maximum number of bytes of fractions and powers before a number.
const MAX_REACH: usize = 48;

/// Words of a sentence that states a value.
const VERBS: [&str; 22] = [
    "is", "are", "was", "were", "has", "have", "had", "be", "costs", "cost", "gets", "get",
    "needs", "makes", "earns", "pays", "takes", "equals", "gives", "becomes", "will", "there",
];

/// Words that say that the number is not the value.
const BOUNDS: [&str; 9] = [
    "not", "no", "never", "least", "most", "than", "between", "cannot", "without",
];

/// The only number of a sentence: `She has 42 apples left.`; `None` where it is not a sentence or
/// has several.
pub(super) fn number_of_sentence(plain: &str) -> Option<Quantity> {
    let words: Vec<&str> = plain
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
        .collect();
    let is = |list: &[&str]| {
        words
            .iter()
            .any(|word| list.contains(&word.to_lowercase().as_str()))
    };
    let unspaced = plain.chars().filter(|c| u32::from(*c) >= 0x2E80).count() >= 2;
    let ends = plain.trim_end().ends_with(['.', '!']);
    let sentence = unspaced || (words.len() >= 3 && (ends || is(&VERBS)));
    if !sentence || is(&BOUNDS) || words.iter().any(|word| word.ends_with("n't")) {
        return None;
    }
    let span = last_number(plain)?;
    let others =
        plain[..span.start].contains(is_digit_like) || plain[span.end..].contains(is_digit_like);
    let marks = plain[..span.start].contains(['<', '>', '\\', '^', '±'])
        || plain[span.end..].starts_with('^');
    if others || marks {
        return None;
    }
    read_quantity(&plain[span])
}

/// The last number of a text with its sign, fraction, power and unit.
///
/// A number that continues a word (`H2O`) is skipped.
pub(super) fn last_number(text: &str) -> Option<Range<usize>> {
    let mut end = text.len();
    for _ in 0..MAX_TRIES {
        let (at, last) = text[..end]
            .char_indices()
            .rev()
            .find(|(_, c)| is_digit_like(*c))?;
        let token = token_start(text, at)..at + last.len_utf8();
        if continues_word(&text[..token.start]) {
            end = token.start;
            continue;
        }
        let number = in_mathematics(text, &token).unwrap_or_else(|| {
            let start = expression_start(text, &token);
            let end = with_unit(text, token.end);
            signed_start(text, start, end)..end
        });
        return Some(number);
    }
    None
}

/// Whether a letter or underscore directly precedes a number. Letters of scripts without spaces do
/// not count.
fn continues_word(before: &str) -> bool {
    let joined = |c: char| c == '_' || (c.is_alphabetic() && u32::from(c) < 0x2E80);
    before.ends_with(joined) && !before.ends_with("Rs")
}

/// Walks back over digits and the single separators between them.
fn token_start(text: &str, at: usize) -> usize {
    let mut start = at;
    loop {
        let mut back = text[..start].chars().rev();
        let Some(previous) = back.next() else {
            return start;
        };
        if is_digit_like(previous) {
            start -= previous.len_utf8();
            continue;
        }
        let separator = matches!(
            previous,
            '.' | ',' | '\'' | '’' | '，' | '\u{a0}' | '\u{202f}' | '\u{2009}'
        );
        let before = back.next();
        let between = separator && before.is_some_and(is_digit_like);
        let leading = previous == '.'
            && before.is_none_or(|c| c.is_whitespace() || matches!(c, '$' | '-' | '('));
        if leading {
            return start - 1;
        }
        if !between {
            return start;
        }
        start -= previous.len_utf8();
    }
}

/// The earliest start from which the text up to the token's end is one number.
fn expression_start(text: &str, token: &Range<usize>) -> usize {
    if token.len() > MAX_REACH {
        return token.start;
    }
    let part = |c: char| {
        is_digit_like(c)
            || c.is_whitespace() && c != '\n'
            || matches!(
                c,
                '.' | ',' | '\'' | '’' | '，' | '/' | '^' | '{' | '(' | '*' | '×' | '·' | '-' | '−'
            )
    };
    let mut reach = token.start;
    for (at, c) in text[..token.start].char_indices().rev() {
        if !part(c) || token.end - at > MAX_REACH {
            break;
        }
        reach = at;
    }
    let starts = text[reach..token.end].char_indices().filter_map(|(at, c)| {
        let at = reach + at;
        let before = text[..at].chars().next_back();
        let first = is_digit_like(c) && !before.is_some_and(is_digit_like);
        (first && !continues_word(&text[..at])).then_some(at)
    });
    let one = |start: &usize| {
        let span = &text[*start..token.end];
        let grouped = span.matches(' ').count();
        let digits_only = span.chars().all(|c| is_digit_like(c) || c == ' ');
        let listed = digits_only && grouped == 1;
        !listed && matches!(Answer::read_bare(span), Answer::Number(_))
    };
    let mut starts = starts.filter(one);
    starts.next().unwrap_or(token.start)
}

/// The end of a number with letters attached to it, a per cent mark, a scale or a unit.
fn with_unit(text: &str, end: usize) -> usize {
    let rest = &text[end..];
    let attached = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let mut end = end + attached;
    for _ in 0..3 {
        let rest = &text[end..];
        let spaces = rest.len() - rest.trim_start_matches([' ', '\\', '-', '\u{a0}']).len();
        let word = rest[spaces..]
            .split(|c: char| {
                !(c.is_alphanumeric()
                    || matches!(
                        c,
                        '/' | '^' | '²' | '³' | '°' | '%' | '％' | '¢' | '€' | '₹'
                    ))
            })
            .next()
            .unwrap_or("");
        let first = word.split(['/', '^', '²', '³']).next().unwrap_or(word);
        if word.len() > 24 || !belongs_to_number(first) {
            break;
        }
        end += spaces + word.len();
    }
    end
}

/// The start of a number with its sign, and with its currency mark if that decides the meaning of a
/// letter after the number.
fn signed_start(text: &str, start: usize, end: usize) -> usize {
    let before = text[..start].trim_end_matches(['$', '€', '£', '₹']);
    let scaled = text[start..end].ends_with(char::is_alphabetic);
    let start = if scaled { before.len() } else { start };
    let Some(dash) = before
        .chars()
        .next_back()
        .filter(|c| matches!(c, '-' | '−' | '–' | '‑' | '－'))
    else {
        return start;
    };
    let rest = &before[..before.len() - dash.len_utf8()];
    let operand = rest.ends_with(|c: char| {
        (c.is_alphanumeric() && u32::from(c) < 0x2E80) || matches!(c, ')' | '%' | '.')
    });
    if operand { start } else { rest.len() }
}

/// The formula that contains a number, if the formula or the text after its last `=` is one value.
fn in_mathematics(text: &str, token: &Range<usize>) -> Option<Range<usize>> {
    let line = text[..token.start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[token.end..]
        .find('\n')
        .map_or(text.len(), |at| token.end + at);
    for (open, close) in [("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")] {
        let Some(start) = text[line..token.start]
            .rfind(open)
            .map(|at| line + at + open.len())
        else {
            continue;
        };
        let Some(end) = text[token.end..line_end]
            .find(close)
            .map(|at| token.end + at)
        else {
            continue;
        };
        let formula = &text[start..end];
        let right = formula.rfind('=').map_or(start, |at| start + at + 1);
        if end - start < 256 && !Answer::read_bare(&text[right..end]).is_text() {
            return Some(right..end);
        }
    }
    None
}
