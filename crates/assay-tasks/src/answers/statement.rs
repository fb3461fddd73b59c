//! Sentences and lines that state an answer: `The answer is 26.`, `**Final Answer:** 26`, `答案是26。`.

use std::ops::Range;

use super::AnswerSource;
use super::canonical::Answer;
use super::normalise::control_token_length;
use super::sentence::last_number;
use crate::segments::trimmed;

/// Number of words `answer` that are tried from the end.
const MAX_TRIES: usize = 16;

/// Maximum length of a stated answer, in bytes.
const MAX_ANSWER: usize = 400;

/// Words that announce an answer, in small letters.
const KEYWORDS: [&str; 17] = [
    "故选",
    "应选",
    "选项",
    "answer",
    "option",
    "choice",
    "答案",
    "答え",
    "答",
    "정답",
    "답",
    "respuesta",
    "réponse",
    "antwort",
    "resposta",
    "risposta",
    "ответ",
];

/// Words that link a keyword to the answer, in small letters.
const LINKS: [&str; 24] = [
    "：",
    ":",
    "=",
    " is",
    " are",
    " was",
    " would be",
    " will be",
    " should be",
    " must be",
    " equals",
    "'s",
    "is",
    "は",
    "是",
    "为",
    "為",
    "은",
    "는",
    " es",
    " est",
    " ist",
    " é",
    " è",
];

/// Words between `answer` and its link.
const BETWEEN: [&str; 9] = [
    "s",
    " choice",
    " option",
    " letter",
    " to the question",
    " to this question",
    " to the problem",
    " to this problem",
    " here",
];

/// Words that may precede the keyword on a line that only states an answer.
const OPENERS: [&str; 22] = [
    "",
    "the",
    "final",
    "the final",
    "so the",
    "so the final",
    "so, the",
    "thus the",
    "thus, the",
    "thus, the final",
    "therefore the",
    "therefore, the",
    "therefore, the final",
    "hence the",
    "hence, the",
    "my",
    "my final",
    "correct",
    "the correct",
    "so the correct",
    "and the",
    "###",
];

/// First words of texts that are not answers: `The answer is correct.`
const REFUSED: [&str; 14] = [
    "correct",
    "right",
    "wrong",
    "incorrect",
    "not",
    "below",
    "above",
    "as",
    "that",
    "clear",
    "therefore",
    "obtained",
    "found",
    "given",
];

/// Words that begin the reason after an answer.
const REASONS: [&str; 12] = [
    " because",
    ", because",
    " since ",
    ", since ",
    ", as ",
    ", so ",
    ", which",
    ", and so",
    ", not ",
    " as the ",
    ", where ",
    " when rounded",
];

/// A stated answer: its range, that of the statement, and whether the statement fills its lines.
pub(super) struct Statement {
    pub(super) answer: Range<usize>,
    pub(super) mark: Range<usize>,
    pub(super) source: AnswerSource,
}

/// `Final Answer:` and the like at the beginning of a line.
pub(super) enum Lead {
    None,
    /// It has this many bytes, and the answer follows it.
    Before(usize),
    /// The line contains nothing else.
    Alone,
}

/// The last sentence that states an answer.
pub(super) fn in_sentence(text: &str) -> Option<Statement> {
    let lower = text.to_lowercase();
    // In rare scripts lower case changes the length; then only ASCII is changed.
    let lower = if lower.len() == text.len() {
        lower
    } else {
        text.to_ascii_lowercase()
    };
    let mut places: Vec<(usize, &str)> = KEYWORDS
        .iter()
        .flat_map(|word| {
            lower
                .rmatch_indices(word)
                .take(MAX_TRIES)
                .map(move |(at, _)| (at, *word))
        })
        .filter(|(at, word)| {
            !word.is_ascii() || !lower[..*at].ends_with(|c: char| c.is_ascii_alphabetic())
        })
        .collect();
    places.sort_unstable_by(|left, right| right.cmp(left));
    places
        .into_iter()
        .take(MAX_TRIES)
        .find_map(|(at, word)| statement_at(text, &lower, at, word))
        .or_else(|| before_link(text))
        .or_else(|| after_letter(text))
}

/// The choice in front of `is the correct answer` or `is correct`.
fn before_link(text: &str) -> Option<Statement> {
    const LINKS: [&str; 6] = [
        " is correct",
        " is the correct",
        " is the right",
        " is the best",
        " is the answer",
        " is right",
    ];
    let at = LINKS.iter().filter_map(|link| text.rfind(link)).max()?;
    let word = text[..at].rsplit(char::is_whitespace).next()?;
    let letter = word.trim_matches(['(', ')', '*', '"', '[', ']']);
    let choice = letter.len() == 1 && matches!(Answer::read_bare(letter), Answer::Choice(_));
    let start = at - word.len() + word.find(letter)?;
    choice.then(|| Statement {
        answer: start..start + letter.len(),
        mark: start..at,
        source: AnswerSource::Sentence,
    })
}

fn statement_at(text: &str, lower: &str, at: usize, word: &str) -> Option<Statement> {
    if !text.is_char_boundary(at) || !text.is_char_boundary(at + word.len()) {
        return None;
    }
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let own = opens_line(lower.get(line..at)?);
    let linked = after_link(lower, at + word.len());
    let line_end = end_of_line(text, at);
    let start = match linked {
        Some(start) if start <= line_end => start,
        _ if matches!(word, "故选" | "应选") => at + word.len(),
        _ if own && is_marks(text.get(at + word.len()..line_end)?) => line_end,
        _ => return None,
    };
    let start = skip_marks(text, start, line_end);
    let area = match text[start..line_end].trim().is_empty() {
        true => next_content(text, line_end)?,
        false => start..line_end,
    };
    let answer = pick(text, area.clone())?;
    let content = &text[answer.clone()];
    let reading = Answer::read_bare(content);
    let choice_word = matches!(word, "option" | "choice" | "故选" | "应选" | "选项");
    let named_choice = choice_word && !matches!(reading, Answer::Choice(_));
    if named_choice || is_refused(content) {
        return None;
    }
    let rest = &text[answer.end..area.end];
    let whole = own && is_marks(rest);
    Some(Statement {
        mark: if whole {
            line..area.end
        } else {
            at..answer.end
        },
        answer,
        source: if whole {
            AnswerSource::Line
        } else {
            AnswerSource::Sentence
        },
    })
}

/// A last line `A: 26`. `A: aspirin` is a choice.
fn after_letter(text: &str) -> Option<Statement> {
    let end = text.trim_end().len();
    let line = text[..end].rfind('\n').map_or(0, |newline| newline + 1);
    let content = text[line..end].trim_start_matches(['*', ' ']);
    let rest = content
        .strip_prefix("A:")
        .or_else(|| content.strip_prefix("a:"))?;
    let answer = pick(text, end - rest.len()..end)?;
    let whole =
        is_marks(&text[answer.end..end]) && !Answer::read_bare(&text[answer.clone()]).is_text();
    whole.then_some(Statement {
        answer,
        mark: line..end,
        source: AnswerSource::Line,
    })
}

/// Reads `Final Answer:` at the beginning of a line.
pub(super) fn read_lead(line: &str) -> Lead {
    let lower = line.to_ascii_lowercase();
    let Some(at) = lower.find("answer").filter(|at| opens_line(&lower[..*at])) else {
        return Lead::None;
    };
    let behind = at + "answer".len();
    if is_marks(&line[behind..]) {
        return Lead::Alone;
    }
    match after_link(&lower, behind) {
        Some(start) => {
            let start = skip_marks(line, start, line.len());
            if line[start..].trim().is_empty() {
                Lead::Alone
            } else {
                Lead::Before(start)
            }
        }
        None => Lead::None,
    }
}

/// Whether a text is nothing but `The final answer is` or the like.
pub(super) fn lead_only(text: &str) -> bool {
    matches!(read_lead(text), Lead::Alone) || is_bare_lead(text)
}

fn is_bare_lead(text: &str) -> bool {
    let lower = text.trim().to_ascii_lowercase();
    let lead = lower.trim_end_matches(['*', ':', ' ']);
    let lead = lead.strip_suffix(" is").unwrap_or(lead);
    lead.strip_suffix("answer").is_some_and(opens_line)
}

fn opens_line(before: &str) -> bool {
    let opener = before
        .trim()
        .trim_matches(['*', '_', '#', ' ', '>', '-'])
        .trim();
    OPENERS.contains(&opener)
}

/// Bytes up to the end of the link after a word that announces an answer.
fn after_link(lower: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = lower.get(at..)?;
        let marks = rest.len() - rest.trim_start_matches(['*', '_', ')']).len();
        let between = BETWEEN.iter().find(|word| {
            rest[marks..]
                .strip_prefix(**word)
                .is_some_and(|after| !after.starts_with(char::is_alphanumeric))
        });
        at += marks + between.map_or(0, |word| word.len());
        if marks == 0 && between.is_none() {
            break;
        }
    }
    let rest = &lower[at..];
    let spaces = rest.len() - rest.trim_start_matches(' ').len();
    let link = LINKS.iter().find_map(|link| {
        let wordless = !link.starts_with(' ');
        let after = rest[if wordless { spaces } else { 0 }..].strip_prefix(link)?;
        let letters = link.ends_with(|c: char| c.is_ascii_alphabetic());
        (!letters || !after.starts_with(char::is_alphanumeric)).then_some(lower.len() - after.len())
    })?;
    let rest = &lower[link..];
    let colon = rest.trim_start_matches([' ', '*', '_']);
    Some(
        match colon.strip_prefix(':').or_else(|| colon.strip_prefix('：')) {
            Some(after) => lower.len() - after.len(),
            None => link,
        },
    )
}

/// Skips spaces, emphasis and the names `option` and `choice`.
fn skip_marks(text: &str, from: usize, end: usize) -> usize {
    let mut at = from;
    loop {
        let rest = &text[at..end];
        let plain = rest.trim_start_matches([' ', '\t', '}', '*', '_', ':', '"']);
        let name = [
            "option ",
            "choice ",
            "therefore ",
            "thus ",
            "simply ",
            "indeed ",
        ]
        .iter()
        .find(|name| {
            plain
                .get(..name.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(name))
        });
        let skipped = rest.len() - plain.len() + name.map_or(0, |name| name.len());
        if skipped == 0 {
            return at;
        }
        at += skipped;
    }
}

/// The next line that is not blank; an answer is never further away.
fn next_content(text: &str, from: usize) -> Option<Range<usize>> {
    let mut start = from;
    for line in text[from..].split_inclusive('\n').take(MAX_TRIES) {
        let range = trimmed(text, start..start + line.len());
        start += line.len();
        if !is_marks(&text[range.clone()]) {
            return Some(skip_marks(text, range.start, range.end)..range.end);
        }
    }
    None
}

fn end_of_line(text: &str, from: usize) -> usize {
    text[from..]
        .find('\n')
        .map_or(text.len(), |length| from + length)
}

fn is_marks(text: &str) -> bool {
    let mut rest = text.trim();
    while let Some(length) = control_token_length(rest) {
        rest = rest[length..].trim_start();
    }
    rest.chars().all(|c| {
        matches!(
            c,
            '*' | '_'
                | ':'
                | '.'
                | '$'
                | '#'
                | '`'
                | ' '
                | '!'
                | '。'
                | '\\'
                | '['
                | ']'
                | '"'
                | '：'
        )
    })
}

/// The answer in the text after a link: its first sentence, without a reason.
fn pick(text: &str, area: Range<usize>) -> Option<Range<usize>> {
    let sentence = area.start..area.start + sentence_length(&text[area.clone()]);
    let content = &text[sentence.clone()];
    if content.len() > MAX_ANSWER {
        return None;
    }
    let short = tidy(text, without_reason(text, sentence.clone()));
    if short.is_empty() {
        return None;
    }
    let words = text[short.clone()]
        .split(' ')
        .filter(|word| word.len() > 1 && word.bytes().all(|b| b.is_ascii_alphabetic()));
    let prose = text[short.clone()].starts_with(char::is_alphabetic) && words.count() > 1;
    if prose
        && Answer::read_bare(&text[short.clone()]).is_text()
        && !is_refused(&text[short.clone()])
    {
        let number = last_number(content);
        if let Some(number) = number {
            return Some(sentence.start + number.start..sentence.start + number.end);
        }
    }
    Some(short)
}

/// The range without a reason or a calculation after the answer: `42 because ...`, `42 (40 + 2)`.
pub(super) fn without_reason(text: &str, range: Range<usize>) -> Range<usize> {
    let content = &text[range.clone()];
    let calculation = || {
        let open = content.find(" (")?;
        let inner = content[open..].trim_end_matches(['.', ' ']);
        let operators = inner.contains(['+', '*', '×', '=', '/']);
        let digits = inner.contains(|c: char| c.is_ascii_digit());
        (inner.ends_with(')') && operators && digits).then_some(open)
    };
    let reason = REASONS
        .iter()
        .filter_map(|reason| content.find(reason))
        .min();
    match reason.or_else(calculation) {
        Some(cut) if !content[..cut].trim().is_empty() => range.start..range.start + cut,
        _ => range,
    }
}

fn is_refused(content: &str) -> bool {
    let mut words = content.split(|c: char| !c.is_alphanumeric());
    words
        .next()
        .is_some_and(|word| REFUSED.contains(&word.to_ascii_lowercase().as_str()))
}

/// Bytes up to the end of the first sentence, or to the first control token.
fn sentence_length(text: &str) -> usize {
    for (at, character) in text.char_indices() {
        let after = &text[at + character.len_utf8()..];
        let ends = match character {
            '。' | '！' | '？' | '\n' => true,
            '.' | '!' | '?' => {
                let next = after.trim_start_matches(['*', '_', '"', ')', '$']);
                let spaced = next.is_empty() || next.starts_with(char::is_whitespace);
                let money = text[..at].ends_with("Rs") || text[..at].ends_with("approx");
                spaced && !money
            }
            '<' => control_token_length(&text[at..]).is_some() || text[at..].starts_with("</"),
            _ => false,
        };
        if ends {
            return at;
        }
    }
    text.len()
}

/// The range without emphasis, punctuation and an unmatched bracket at its ends.
fn tidy(text: &str, range: Range<usize>) -> Range<usize> {
    let mut range = trimmed(text, range);
    loop {
        let inner = &text[range.clone()];
        let mut end = inner.trim_end_matches(['.', ',', ';', ':', '*', '_', '"', ' ', '。']);
        if end.ends_with(')') && !end.contains('(') && !end.ends_with("\\)") {
            end = &end[..end.len() - 1];
        }
        let unopened = end.trim_end_matches('$');
        if !unopened.contains('$') {
            end = unopened;
        }
        let open = end.len() - end.trim_start_matches(['*', '_', '"', ' ']).len();
        if open == 0 && end.len() == inner.len() {
            return range;
        }
        range = range.start + open..range.start + end.len();
    }
}
