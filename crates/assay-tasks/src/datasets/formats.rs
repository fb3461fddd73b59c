//! From a record to question, expert text and gold answer, one layout at a time.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{DatasetFormat, DatasetSettings, Place};
use crate::TasksError;
use crate::countdown::CountdownTask;
use crate::message::{Message, Role};

/// What a record says, before the expert's text is taken apart.
pub(super) struct Fields {
    pub(super) question: String,
    pub(super) expert: Option<String>,
    pub(super) answer: Option<String>,
}

/// Reads a record as the settings say.
pub(super) fn read(
    settings: &DatasetSettings,
    place: &Place<'_>,
    record: &Map<String, Value>,
) -> Result<Fields, TasksError> {
    match settings.format {
        DatasetFormat::Gsm8k => Ok(Fields {
            question: place.required_text(record, "question")?,
            expert: place.text(record, "answer")?,
            answer: None,
        }),
        DatasetFormat::Columns => Ok(Fields {
            question: place.required_text(record, &settings.question)?,
            expert: place.text(record, &settings.demonstration)?,
            answer: place.text(record, &settings.answer)?,
        }),
        DatasetFormat::Messages => {
            let (question, expert) = chat(place, record)?;
            Ok(Fields {
                question,
                expert,
                answer: place.text(record, &settings.answer)?,
            })
        }
        DatasetFormat::Medreason => medreason(place, record),
        DatasetFormat::MmluPro => mmlu_pro(place, record),
        DatasetFormat::Aime => aime(place, record),
        DatasetFormat::Countdown => countdown(place, record),
    }
}

fn chat(
    place: &Place<'_>,
    record: &Map<String, Value>,
) -> Result<(String, Option<String>), TasksError> {
    let turns = record
        .get("messages")
        .ok_or_else(|| place.column("messages", "is missing"))?;
    let turns = Vec::<Message>::deserialize(turns).map_err(|source| place.json(source))?;
    let last = turns.iter().rposition(|turn| turn.role == Role::Assistant);
    let before = &turns[..last.unwrap_or(turns.len())];
    let question = before.iter().rfind(|turn| turn.role == Role::User);
    let question = question.ok_or_else(|| {
        place.column(
            "messages",
            "has no user turn before the last assistant turn",
        )
    })?;
    Ok((
        question.content.clone(),
        last.map(|last| turns[last].content.clone()),
    ))
}

/// `question`, `options` (lines `A. text`, under a heading), `reasoning`, `answer` (the option's text, then perhaps an
/// explanation). Where the answer is one of the options its letter is the gold answer, else its text.
fn medreason(place: &Place<'_>, record: &Map<String, Value>) -> Result<Fields, TasksError> {
    let question = place.required_text(record, "question")?;
    let options = place.text(record, "options")?.unwrap_or_default();
    let stated = place.text(record, "answer")?.unwrap_or_default();
    let stated = stated
        .split("Explanation:")
        .next()
        .unwrap_or_default()
        .trim();
    let choices: Vec<(char, &str)> = options.lines().filter_map(lettered).collect();
    let plain = |text: &str| text.trim().trim_end_matches('.').trim().to_lowercase();
    let mut same = choices
        .iter()
        .filter(|(_, text)| plain(text) == plain(stated));
    let letter = match (same.next(), same.next()) {
        (Some((letter, _)), None) => Some(letter.to_string()),
        _ => None,
    };
    let question = match choices.is_empty() {
        true => question,
        false => with_choices(&question, &choices),
    };
    Ok(Fields {
        question,
        expert: place.text(record, "reasoning")?,
        answer: letter.or_else(|| Some(stated.to_owned())),
    })
}

/// `question`, `options` (a list), `answer` (a letter), `cot_content` (worked reasoning, in the validation part).
fn mmlu_pro(place: &Place<'_>, record: &Map<String, Value>) -> Result<Fields, TasksError> {
    let question = place.required_text(record, "question")?;
    let Some(Value::Array(options)) = record.get("options") else {
        return Err(place.column("options", "is missing or no list"));
    };
    let texts: Option<Vec<&str>> = options.iter().map(Value::as_str).collect();
    let texts = texts.filter(|texts| texts.len() <= 10);
    let texts = texts.ok_or_else(|| place.column("options", "is no list of at most ten texts"))?;
    let choices: Vec<(char, &str)> = ('A'..='J').zip(texts).collect();
    let answer = place.required_text(record, "answer")?;
    if !choices
        .iter()
        .any(|(letter, _)| answer == letter.to_string())
    {
        return Err(place.column("answer", "is the letter of no option"));
    }
    let reasoning = place.text(record, "cot_content")?.unwrap_or_default();
    let reasoning = reasoning.trim_start_matches("A:").trim();
    let reasoning = reasoning
        .strip_prefix("Let's think step by step.")
        .unwrap_or(reasoning);
    Ok(Fields {
        question: with_choices(&question, &choices),
        expert: (!reasoning.trim().is_empty()).then(|| reasoning.trim().to_owned()),
        answer: Some(answer),
    })
}

/// `problem` or `question`, `answer` (an integer from 0 to 999), `solution` where there is one; in any case of letters.
fn aime(place: &Place<'_>, record: &Map<String, Value>) -> Result<Fields, TasksError> {
    let text = |names: &[&str]| -> Result<Option<String>, TasksError> {
        let key = record
            .keys()
            .find(|key| names.iter().any(|name| key.eq_ignore_ascii_case(name)));
        key.map_or(Ok(None), |key| place.text(record, key))
    };
    let question = text(&["problem", "question"])?;
    let answer = text(&["answer"])?;
    let answer = answer.ok_or_else(|| place.column("answer", "is missing"))?;
    match answer.trim().parse::<u16>() {
        Ok(number) if number <= 999 => Ok(Fields {
            question: question.ok_or_else(|| place.column("problem", "is missing"))?,
            expert: text(&["solution"])?,
            answer: Some(number.to_string()),
        }),
        _ => Err(place.column("answer", "is no integer from 0 to 999")),
    }
}

/// `nums` (a list of integers) and `target`; the gold answer is the task, which [`CountdownTask`] checks.
fn countdown(place: &Place<'_>, record: &Map<String, Value>) -> Result<Fields, TasksError> {
    let target = record.get("target").and_then(Value::as_i64);
    let target = target.ok_or_else(|| place.column("target", "is missing or no integer"))?;
    let numbers = record.get("nums").and_then(Value::as_array);
    let numbers: Option<Vec<i64>> =
        numbers.and_then(|numbers| numbers.iter().map(Value::as_i64).collect());
    let numbers = numbers
        .filter(|numbers| (1..=32).contains(&numbers.len()) && numbers.iter().all(|n| *n >= 0));
    let Some(numbers) = numbers else {
        return Err(place.column("nums", "is no list of 1 to 32 integers of at least 0"));
    };
    let listed: Vec<String> = numbers.iter().map(i64::to_string).collect();
    Ok(Fields {
        question: format!(
            "Using the numbers {}, write an expression that equals {target}. Use each number exactly once, with + - * / \
             and parentheses. Give the expression as the final answer.",
            listed.join(", ")
        ),
        expert: None,
        answer: Some(CountdownTask { target, numbers }.to_string()),
    })
}

fn with_choices(question: &str, choices: &[(char, &str)]) -> String {
    let lines = choices
        .iter()
        .map(|(letter, text)| format!("{letter}. {}", text.trim()));
    let lines: Vec<String> = lines.collect();
    format!("{}\n\n{}", question.trim(), lines.join("\n"))
}

/// `C. text` as letter and text.
fn lettered(line: &str) -> Option<(char, &str)> {
    let line = line.trim();
    let letter = line.chars().next().filter(|c| ('A'..='J').contains(c))?;
    let rest = line[1..].strip_prefix(['.', ')', ':'])?;
    Some((letter, rest.trim()))
}
