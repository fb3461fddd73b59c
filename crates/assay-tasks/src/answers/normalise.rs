//! One spelling for characters that mean the same: digits, dashes, spaces, quotes, fractions,
//! control tokens.

use std::ops::Range;

/// Vulgar fractions and their values.
const FRACTIONS: [(char, &str); 18] = [
    ('½', "1/2"),
    ('⅓', "1/3"),
    ('⅔', "2/3"),
    ('¼', "1/4"),
    ('¾', "3/4"),
    ('⅕', "1/5"),
    ('⅖', "2/5"),
    ('⅗', "3/5"),
    ('⅘', "4/5"),
    ('⅙', "1/6"),
    ('⅚', "5/6"),
    ('⅐', "1/7"),
    ('⅛', "1/8"),
    ('⅜', "3/8"),
    ('⅝', "5/8"),
    ('⅞', "7/8"),
    ('⅑', "1/9"),
    ('⅒', "1/10"),
];

/// Superscripts and the characters they raise.
const SUPERSCRIPTS: [(char, char); 12] = [
    ('⁰', '0'),
    ('¹', '1'),
    ('²', '2'),
    ('³', '3'),
    ('⁴', '4'),
    ('⁵', '5'),
    ('⁶', '6'),
    ('⁷', '7'),
    ('⁸', '8'),
    ('⁹', '9'),
    ('⁻', '-'),
    ('⁺', '+'),
];

/// Zero of each decimal script that is read besides ASCII: full-width, Arabic-Indic, Persian,
/// Devanagari, Bengali, Thai.
const ZEROS: [char; 6] = ['０', '٠', '۰', '०', '০', '๐'];

/// Control tokens that are not of the form `<|...|>`.
const CONTROL_TOKENS: [&str; 14] = [
    "</s>",
    "<s>",
    "<eos>",
    "<bos>",
    "<pad>",
    "<unk>",
    "<end_of_turn>",
    "<start_of_turn>",
    "[INST]",
    "[/INST]",
    "[EOS]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<｜begin▁of▁sentence｜>",
];

/// Maximum length of the name inside `<|...|>`, in bytes.
const MAX_TOKEN_NAME: usize = 48;

/// Whether the character is a digit in any script that is read, or a vulgar fraction.
pub(super) fn is_digit_like(character: char) -> bool {
    folded_digit(character).is_some() || vulgar_fraction(character).is_some()
}

/// The text with one spelling for each meaning, and without control tokens.
pub(super) fn folded(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    let mut raised = false;
    while let Some(character) = rest.chars().next() {
        if let Some(length) = control_token_length(rest) {
            plain.push(' ');
            rest = &rest[length..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        let superscript = SUPERSCRIPTS.iter().find(|(from, _)| *from == character);
        if let Some((_, base)) = superscript {
            if !raised {
                plain.push('^');
            }
            plain.push(*base);
        } else {
            push_folded(character, &mut plain);
        }
        raised = superscript.is_some();
    }
    plain
}

fn push_folded(character: char, plain: &mut String) {
    if let Some(fraction) = vulgar_fraction(character) {
        if plain.ends_with(|c: char| c.is_ascii_digit()) {
            plain.push(' ');
        }
        plain.push_str(fraction);
        return;
    }
    if let Some(digit) = folded_digit(character) {
        plain.push(digit);
        return;
    }
    match character {
        '‐' | '‑' | '‒' | '–' | '—' | '―' | '−' | '﹣' | '－' | '˗' => {
            plain.push('-')
        }
        '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}' => {}
        '’' | '‘' | '´' | '＇' => plain.push('\''),
        '“' | '”' | '„' => plain.push('"'),
        '⁄' | '∕' => plain.push('/'),
        '×' | '·' | '⋅' | '∗' | '∙' => plain.push('*'),
        '÷' => plain.push('/'),
        '≤' => plain.push_str("<="),
        '≥' => plain.push_str(">="),
        '≠' => plain.push_str("!="),
        '▁' => plain.push(' '),
        'º' | '˚' | '∘' => plain.push('°'),
        '℃' => plain.push_str("°C"),
        '℉' => plain.push_str("°F"),
        '。' => plain.push('.'),
        '、' => plain.push(','),
        '٪' => plain.push('%'),
        '٫' => plain.push('.'),
        '￥' => plain.push('¥'),
        // Full-width forms of ASCII.
        '！'..='～' => {
            let ascii = u32::from(character) - 0xFEE0;
            plain.push(char::from_u32(ascii).unwrap_or(character));
        }
        _ if character.is_whitespace() || character.is_control() => plain.push(' '),
        _ => plain.push(character),
    }
}

fn vulgar_fraction(character: char) -> Option<&'static str> {
    let entry = FRACTIONS.iter().find(|(from, _)| *from == character);
    entry.map(|(_, fraction)| *fraction)
}

fn folded_digit(character: char) -> Option<char> {
    if character.is_ascii() {
        return character.is_ascii_digit().then_some(character);
    }
    let code = u32::from(character);
    let value = ZEROS
        .iter()
        .filter_map(|zero| code.checked_sub(u32::from(*zero)))
        .find(|value| *value < 10)?;
    char::from_digit(value, 10)
}

/// Bytes of the control token that the text begins with.
pub(super) fn control_token_length(text: &str) -> Option<usize> {
    if !text.starts_with(['<', '[']) {
        return None;
    }
    if let Some(token) = CONTROL_TOKENS
        .iter()
        .find(|token| text.starts_with(**token))
    {
        return Some(token.len());
    }
    let name = text.strip_prefix("<|")?;
    let length = name
        .bytes()
        .take(MAX_TOKEN_NAME)
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"_-:/".contains(byte))
        .count();
    let closed = length > 0 && name[length..].starts_with("|>");
    closed.then_some("<|".len() + length + "|>".len())
}

/// The range up to the control tokens and white space that end it.
pub(crate) fn without_trailing_control(text: &str, range: Range<usize>) -> Range<usize> {
    let mut end = range.end;
    loop {
        let inner = text[range.start..end].trim_end();
        end = range.start + inner.len();
        let open = inner.rfind(['<', '[']);
        match open.filter(|at| control_token_length(&inner[*at..]) == Some(inner.len() - at)) {
            Some(at) => end = range.start + at,
            None => return range.start..end,
        }
    }
}
