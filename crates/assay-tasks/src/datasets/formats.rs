//! Reads question, expert text and gold answer from a record of each layout.

use serde_json::Value;

use super::chat::{self, Exchange};
use super::columns::Record;
use super::{DatasetFormat, DatasetSettings};
use crate::countdown::CountdownTask;
use crate::{RecordFault, TasksError};

/// Columns that are tried if the settings name none and the default does not exist.
const QUESTIONS: [&str; 8] = [
    "question",
    "problem",
    "prompt",
    "query",
    "instruction",
    "input",
    "messages",
    "conversations",
];
const DEMONSTRATIONS: [&str; 10] = [
    "demonstration",
    "solution",
    "response",
    "completion",
    "output",
    "rationale",
    "cot",
    "reasoning",
    "explanation",
    "chosen",
];
const ANSWERS: [&str; 6] = [
    "answer",
    "reward_model.ground_truth",
    "ground_truth",
    "final_answer",
    "expected_answer",
    "gold",
];
const CHATS: [&str; 7] = [
    "messages",
    "conversations",
    "conversation",
    "chat",
    "dialogue",
    "dialog",
    "thread",
];

/// The fields of a record, before the expert's text is split.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) question: String,
    pub(super) expert: Option<String>,
    pub(super) answer: Option<String>,
    /// Missing columns of the expert's text and of the answer.
    pub(super) absent: Absent,
    /// Notes on content that was ignored or changed.
    pub(super) notes: Vec<String>,
}

/// Columns that do not exist.
#[derive(Default)]
pub(super) struct Absent {
    pub(super) demonstration: Option<String>,
    pub(super) answer: Option<String>,
}

/// Fails for names of columns for a layout whose columns are fixed.
pub(super) fn check_names(settings: &DatasetSettings) -> Result<(), TasksError> {
    use DatasetFormat::{Columns, Gsm8k, Messages};
    let default = DatasetSettings::default();
    if matches!(settings.format, Gsm8k | Columns | Messages) {
        return Ok(());
    }
    let named = [
        ("question", &settings.question, &default.question),
        (
            "demonstration",
            &settings.demonstration,
            &default.demonstration,
        ),
        ("answer", &settings.answer, &default.answer),
    ];
    match named.into_iter().find(|(_, name, default)| name != default) {
        None => Ok(()),
        Some((setting, column, _)) => {
            let format = serde_json::to_value(settings.format).unwrap_or_default();
            Err(TasksError::FixedColumns {
                format: format.as_str().unwrap_or_default().to_owned(),
                setting,
                column: column.clone(),
            })
        }
    }
}

/// Reads a record as the settings say.
pub(super) fn read(settings: &DatasetSettings, record: &Record<'_>) -> Result<Fields, RecordFault> {
    match settings.format {
        DatasetFormat::Gsm8k => gsm8k(settings, record),
        DatasetFormat::Columns => columns(settings, record),
        DatasetFormat::Messages => messages(settings, record),
        DatasetFormat::Medreason => medreason(record),
        DatasetFormat::MmluPro => mmlu_pro(record),
        DatasetFormat::Aime => aime(record),
        DatasetFormat::Countdown => countdown(record),
    }
}

/// `question`, and `answer`, the expert's text with the gold answer at its end; named columns
/// replace them. An `answer` that is true, false or a list is the gold answer alone.
fn gsm8k(settings: &DatasetSettings, record: &Record<'_>) -> Result<Fields, RecordFault> {
    let default = DatasetSettings::default();
    let is_named = settings.demonstration != default.demonstration;
    let expert = match is_named {
        true => &settings.demonstration,
        false => "answer",
    };
    let value = record.get(expert);
    let is_gold = matches!(value.as_deref(), Some(Value::Bool(_) | Value::Array(_))) && !is_named;
    let answer = match is_gold || settings.answer != default.answer {
        true => record.answer(&settings.answer)?,
        false => None,
    };
    Ok(Fields {
        question: record.required_text(&settings.question)?,
        expert: match is_gold {
            true => None,
            false => record.text(expert)?,
        },
        answer,
        absent: Absent {
            demonstration: absent(record, expert),
            answer: absent(record, expert),
        },
        ..Fields::default()
    })
}

/// Named columns. If a default name does not exist, common names are tried; a note says which was
/// used. A column of text may hold a chat instead.
fn columns(settings: &DatasetSettings, record: &Record<'_>) -> Result<Fields, RecordFault> {
    let default = DatasetSettings::default();
    let mut notes = Vec::new();
    let mut column = |named: &String, default: &String, usual: &[&str]| -> String {
        let usual = (named == default && record.get(named).is_none()).then(|| record.find(usual));
        match usual.flatten() {
            Some(found) if found != *named => {
                notes.push(format!("there is no column `{named}`: `{found}` is used"));
                found
            }
            _ => named.clone(),
        }
    };
    let question = column(&settings.question, &default.question, &QUESTIONS);
    let expert = column(
        &settings.demonstration,
        &default.demonstration,
        &DEMONSTRATIONS,
    );
    let answer = column(&settings.answer, &default.answer, &ANSWERS);
    let asked = exchange_in(record, &question)?;
    let replied = exchange_in(record, &expert)?;
    let mut fields = Fields {
        answer: record.answer(&answer)?,
        absent: Absent {
            demonstration: absent(record, &expert),
            answer: absent(record, &answer),
        },
        ..Fields::default()
    };
    fields.expert = match &replied {
        Some(exchange) => exchange.reply.clone(),
        None => record.lines(&expert)?,
    };
    match asked {
        Some(exchange) => {
            fields.question = exchange.question.unwrap_or_default();
            fields.expert = fields.expert.or(exchange.reply);
            notes.extend(exchange.notes);
        }
        None => fields.question = with_input(record, &question)?,
    }
    fields.notes = notes;
    Ok(fields)
}

/// The question; Alpaca's `instruction` is followed by its `input`.
fn with_input(record: &Record<'_>, question: &str) -> Result<String, RecordFault> {
    let text = record.required_text(question)?;
    let input = match question {
        "instruction" => record.text("input")?.unwrap_or_default(),
        _ => String::new(),
    };
    match input.trim().is_empty() {
        true => Ok(text),
        false => Ok(format!("{text}\n\n{input}")),
    }
}

/// The question and the reply of a column that is a chat.
fn exchange_in(record: &Record<'_>, column: &str) -> Result<Option<Exchange>, RecordFault> {
    match record.get(column) {
        Some(value) if chat::is_chat(&value) => {
            let turns = chat::turns(column, &value)?;
            Ok(Some(chat::exchange(&turns)))
        }
        _ => Ok(None),
    }
}

/// A chat in one column, or its prompt in `prompt` and its reply in `completion` or `chosen`.
fn messages(settings: &DatasetSettings, record: &Record<'_>) -> Result<Fields, RecordFault> {
    let default = DatasetSettings::default();
    let column = match settings.question == default.question {
        true => record.find(&CHATS),
        false => Some(settings.question.clone()),
    };
    let prompt = match (&column, record.get("prompt")) {
        (None, Some(prompt)) if chat::is_chat(&prompt) => record.find(&["completion", "chosen"]),
        _ => None,
    };
    let names = match (column, prompt) {
        (Some(column), _) => vec![column],
        (None, Some(reply)) => vec!["prompt".to_owned(), reply],
        (None, None) => vec!["messages".to_owned()],
    };
    let mut turns = Vec::new();
    for name in &names {
        let value = record.get(name).ok_or_else(|| record.missing(name))?;
        turns.extend(chat::turns(name, &value)?);
    }
    let exchange = chat::exchange(&turns);
    let question = exchange.question.ok_or_else(|| RecordFault::Column {
        column: names.join("` and `"),
        problem: "has no user turn before the last assistant turn".to_owned(),
    })?;
    Ok(Fields {
        question,
        expert: exchange.reply,
        answer: record.answer(&settings.answer)?,
        absent: Absent {
            demonstration: None,
            answer: absent(record, &settings.answer),
        },
        notes: exchange.notes,
    })
}

fn absent(record: &Record<'_>, column: &str) -> Option<String> {
    record.get(column).is_none().then(|| column.to_owned())
}

fn column(column: &str, problem: &str) -> RecordFault {
    RecordFault::Column {
        column: column.to_owned(),
        problem: problem.to_owned(),
    }
}

/// `question`, `options` (lines `A. text`, under a heading), `reasoning`, `answer` (the option's
/// text, then perhaps an explanation). The gold answer is the letter of the option that equals the
/// answer, else the answer's text.
fn medreason(record: &Record<'_>) -> Result<Fields, RecordFault> {
    let question = record.required_text("question")?;
    let options = record.text("options")?.unwrap_or_default();
    let stated = record.text("answer")?.unwrap_or_default();
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
        expert: record.text("reasoning")?,
        answer: letter.or_else(|| Some(stated.to_owned())),
        ..Fields::default()
    })
}

/// `question`, `options` (a list), `answer` (a letter), `cot_content` (worked reasoning, in the
/// validation part).
fn mmlu_pro(record: &Record<'_>) -> Result<Fields, RecordFault> {
    let question = record.required_text("question")?;
    let options = record.get("options");
    let Some(Value::Array(options)) = options.as_deref() else {
        return Err(column("options", "is missing or no list"));
    };
    let texts: Option<Vec<&str>> = options.iter().map(Value::as_str).collect();
    let texts = texts.filter(|texts| texts.len() <= 10);
    let texts = texts.ok_or_else(|| column("options", "is not a list of at most ten texts"))?;
    let choices: Vec<(char, &str)> = ('A'..='J').zip(texts).collect();
    let answer = record.required_text("answer")?;
    if !choices
        .iter()
        .any(|(letter, _)| answer == letter.to_string())
    {
        return Err(column("answer", "is the letter of no option"));
    }
    let reasoning = record.text("cot_content")?.unwrap_or_default();
    let reasoning = reasoning.trim_start_matches("A:").trim();
    let reasoning = reasoning
        .strip_prefix("Let's think step by step.")
        .unwrap_or(reasoning);
    Ok(Fields {
        question: with_choices(&question, &choices),
        expert: (!reasoning.trim().is_empty()).then(|| reasoning.trim().to_owned()),
        answer: Some(answer),
        ..Fields::default()
    })
}

/// `problem` or `question`, `answer` (an integer from 0 to 999), `solution` if there is one. The
/// case of column names is ignored.
fn aime(record: &Record<'_>) -> Result<Fields, RecordFault> {
    let text = |names: &[&str]| -> Result<Option<String>, RecordFault> {
        let name = record.find(names);
        name.map_or(Ok(None), |name| record.text(&name))
    };
    let question = text(&["problem", "question"])?;
    let answer = text(&["answer"])?;
    let answer = answer.ok_or_else(|| record.missing("answer"))?;
    match answer.trim().parse::<u16>() {
        Ok(number) if number <= 999 => Ok(Fields {
            question: question.ok_or_else(|| record.missing("problem"))?,
            expert: text(&["solution"])?,
            answer: Some(number.to_string()),
            ..Fields::default()
        }),
        _ => Err(column("answer", "is not an integer from 0 to 999")),
    }
}

/// `nums` (a list of integers) and `target`; the gold answer is the task, which [`CountdownTask`]
/// checks.
fn countdown(record: &Record<'_>) -> Result<Fields, RecordFault> {
    let target = record.get("target").and_then(|target| target.as_i64());
    let target = target.ok_or_else(|| column("target", "is missing or no integer"))?;
    let numbers = record.get("nums");
    let numbers = numbers.as_deref().and_then(Value::as_array);
    let numbers: Option<Vec<i64>> =
        numbers.and_then(|numbers| numbers.iter().map(Value::as_i64).collect());
    let numbers = numbers
        .filter(|numbers| (1..=32).contains(&numbers.len()) && numbers.iter().all(|n| *n >= 0));
    let Some(numbers) = numbers else {
        return Err(column(
            "nums",
            "is not a list of 1 to 32 integers of at least 0",
        ));
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
        ..Fields::default()
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
