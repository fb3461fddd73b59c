//! Reading problems from JSON lines (plain or zstd-compressed) and parquet: GSM8K, MedReason, MMLU-Pro, AIME and Countdown
//! as published, any columns, or chats.
//!
//! A record that cannot be read is an error with its file and line. A record that can be read but lacks what the caller
//! needs is left out and counted.

mod files;
mod footer;
mod formats;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::records::Records;
pub use self::records::catches_panics;
use crate::TasksError;
use crate::problem::Problem;
use crate::prompts::{split_completion, without_calculator_marks};

/// How a file's records are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetFormat {
    /// `question`, `answer` with calculator marks and a `#### final` line, as published.
    #[default]
    Gsm8k,
    /// One column a field, named by the settings.
    Columns,
    /// A chat in `messages`: the last assistant turn is the demonstration, the last user turn before it the question.
    Messages,
    /// MedReason (`UCSC-VLAA/MedReason`): `question`, `options`, `reasoning`, `answer`; the answer is a choice's letter
    /// where it is one of the options.
    Medreason,
    /// MMLU-Pro (`TIGER-Lab/MMLU-Pro`): `question`, `options`, `answer`, a letter; `cot_content` is the demonstration.
    MmluPro,
    /// AIME (`Maxwell-Jia/AIME_2024`, `HuggingFaceH4/aime_2024` and their like): `problem`, `solution`, `answer`, an
    /// integer.
    Aime,
    /// Countdown (`Jiayi-Pan/Countdown-Tasks-3to4`): `nums`, `target`; an answer is an expression, evaluated exactly.
    Countdown,
}

/// Bytes of text that the problems of one call may hold together.
const MOST_TEXT: usize = 4 << 30;

/// Which fields a problem must have to be kept; others are skipped and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Required {
    /// The question only: sampling.
    Question,
    /// A demonstration: learning from an expert without answers.
    Demonstration,
    /// A gold answer: evaluation.
    Answer,
    /// Both.
    #[default]
    DemonstrationAndAnswer,
}

/// Which problems to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetSettings {
    /// A file that ends in `.parquet`, `.zst` (compressed JSON lines) or anything else (JSON lines); `*` in its name
    /// stands for any text, and the files it matches are read in order of their names.
    pub path: PathBuf,
    /// How its records are laid out.
    pub format: DatasetFormat,
    /// Column of the question (`columns`).
    pub question: String,
    /// Column of the expert's reasoning (`columns`).
    pub demonstration: String,
    /// Column of the gold answer (`columns`, `messages`).
    pub answer: String,
    /// Column of the identifier. A record without it is called after the file and its line, counted from 0:
    /// `gsm8k-train-0` for GSM8K, `train-0` otherwise.
    pub id: String,
    /// Which fields a problem must have.
    pub required: Required,
    /// Records to leave out at the start.
    pub offset: usize,
    /// Most records to read after the offset.
    pub limit: Option<usize>,
}

impl Default for DatasetSettings {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            format: DatasetFormat::default(),
            question: "question".into(),
            demonstration: "demonstration".into(),
            answer: "answer".into(),
            id: "id".into(),
            required: Required::default(),
            offset: 0,
            limit: None,
        }
    }
}

/// What became of a file's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Problems kept.
    pub loaded: usize,
    /// Records left out, by reason: `empty question`, `no demonstration`, `no answer`.
    pub skipped: BTreeMap<String, usize>,
}

/// Reads the problems of one file, or of those that a `*` matches.
///
/// # Errors
/// [`TasksError::Read`], [`TasksError::Json`], [`TasksError::Parquet`], [`TasksError::InvalidUtf8`] and
/// [`TasksError::LineTooLong`] (16 MiB) name the file and line; [`TasksError::Column`] a missing question or a column of
/// another type; [`TasksError::DuplicateId`] a repeated identifier; [`TasksError::TooMuchText`] files beyond 4 GiB.
pub fn load_problems(settings: &DatasetSettings) -> Result<(Vec<Problem>, LoadReport), TasksError> {
    let mut problems = Vec::new();
    let mut report = LoadReport::default();
    let mut ids = BTreeSet::new();
    let mut bytes = 0;
    let files = files::files(&settings.path)?;
    let records = files.iter().flat_map(|file| {
        let (opened, failed) = match Records::open(file) {
            Ok(records) => (Some(records), None),
            Err(error) => (None, Some(Err(error))),
        };
        let records = opened.into_iter().flatten().chain(failed);
        records.map(move |record| (file.as_path(), record))
    });
    let limit = settings.limit.unwrap_or(usize::MAX);
    // A record that cannot be read is an error before the offset too.
    let wanted = |(index, (_, record)): &(usize, (&Path, Result<_, _>))| {
        record.is_err() || *index >= settings.offset
    };
    for (_, (path, record)) in records.enumerate().filter(wanted).take(limit) {
        let (line, record) = record?;
        let place = Place { path, line };
        let problem = read_problem(settings, &place, &record)?;
        if let Some(reason) = missing(&problem, settings.required) {
            *report.skipped.entry(reason.to_owned()).or_default() += 1;
            continue;
        }
        if !ids.insert(problem.id.clone()) {
            return Err(TasksError::DuplicateId {
                path: path.to_owned(),
                line,
                id: problem.id,
            });
        }
        bytes += problem.question.len() + problem.demonstration.as_ref().map_or(0, String::len);
        if bytes > MOST_TEXT {
            return Err(TasksError::TooMuchText {
                path: settings.path.clone(),
                limit: MOST_TEXT,
            });
        }
        problems.push(problem);
    }
    report.loaded = problems.len();
    Ok((problems, report))
}

struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn json(&self, source: serde_json::Error) -> TasksError {
        TasksError::Json {
            path: self.path.to_owned(),
            line: self.line,
            source,
        }
    }

    fn column(&self, column: &str, problem: &'static str) -> TasksError {
        TasksError::Column {
            path: self.path.to_owned(),
            line: self.line,
            column: column.to_owned(),
            problem,
        }
    }

    /// A text column; numbers are taken as written, absent and null are `None`.
    fn text(
        &self,
        record: &Map<String, Value>,
        column: &str,
    ) -> Result<Option<String>, TasksError> {
        match record.get(column) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.column(column, "is neither a text nor a number")),
        }
    }

    fn required_text(
        &self,
        record: &Map<String, Value>,
        column: &str,
    ) -> Result<String, TasksError> {
        self.text(record, column)?
            .ok_or_else(|| self.column(column, "is missing"))
    }
}

fn missing(problem: &Problem, required: Required) -> Option<&'static str> {
    let demonstration = matches!(
        required,
        Required::Demonstration | Required::DemonstrationAndAnswer
    );
    let answer = matches!(
        required,
        Required::Answer | Required::DemonstrationAndAnswer
    );
    if problem.question.is_empty() {
        Some("empty question")
    } else if demonstration && problem.demonstration.is_none() {
        Some("no demonstration")
    } else if answer && problem.answer.is_none() {
        Some("no answer")
    } else {
        None
    }
}

fn read_problem(
    settings: &DatasetSettings,
    place: &Place<'_>,
    record: &Map<String, Value>,
) -> Result<Problem, TasksError> {
    let formats::Fields {
        question,
        expert,
        answer,
    } = formats::read(settings, place, record)?;
    let (reasoning, stated) = match &expert {
        Some(expert) => split_completion(&without_calculator_marks(expert)),
        None => (String::new(), None),
    };
    let id = match place.text(record, &settings.id)? {
        Some(id) => id,
        None => default_id(settings, place),
    };
    Ok(Problem {
        id,
        question: question.trim().to_owned(),
        demonstration: not_empty(reasoning),
        answer: answer.and_then(not_empty).or(stated),
    })
}

fn default_id(settings: &DatasetSettings, place: &Place<'_>) -> String {
    let stem = place
        .path
        .file_stem()
        .map(|stem| stem.to_string_lossy())
        .unwrap_or_default();
    let family = if settings.format == DatasetFormat::Gsm8k {
        "gsm8k-"
    } else {
        ""
    };
    format!("{family}{stem}-{}", place.line - 1)
}

fn not_empty(text: String) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(
        bytes: &[u8],
        change: impl FnOnce(&mut DatasetSettings),
    ) -> Result<(Vec<Problem>, LoadReport), TasksError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        fs::write(&path, bytes).unwrap();
        let mut settings = DatasetSettings {
            path,
            ..DatasetSettings::default()
        };
        change(&mut settings);
        load_problems(&settings)
    }

    const GSM8K: &str = concat!(
        r#"{"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\n48+24 = $<<48+24=72>>72.\n#### 1,072"}"#,
        "\n\n",
        r#"{"question": "No steps?", "answer": " #### 5"}"#,
        "\n",
        r#"{"question": "No end?", "answer": "one step"}"#,
        "\n",
        r#"{"question": " ", "answer": "a\n#### 5"}"#,
        "\n",
        r#"{"question": "Named", "answer": "1+1 = 2\n#### 2", "id": "mine"}"#,
    );

    #[test]
    fn gsm8k_is_read_as_published() {
        let (problems, report) = load(GSM8K.as_bytes(), |_| {}).unwrap();
        assert_eq!(
            problems[0],
            Problem {
                id: "gsm8k-train-0".into(),
                question: "How many?".into(),
                demonstration: Some("48/2 = 24 clips.\n48+24 = $72.".into()),
                answer: Some("1,072".into()),
            }
        );
        assert_eq!(
            (problems.len(), problems[1].id.as_str(), report.loaded),
            (2, "mine", 2)
        );
        let skipped: Vec<_> = report
            .skipped
            .iter()
            .map(|(reason, count)| (reason.as_str(), *count))
            .collect();
        assert_eq!(
            skipped,
            [
                ("empty question", 1),
                ("no answer", 1),
                ("no demonstration", 1)
            ]
        );
    }

    #[test]
    fn offset_limit_and_required_choose_records() {
        let (problems, _) = load(GSM8K.as_bytes(), |settings| {
            settings.required = Required::Question;
            settings.offset = 1;
            settings.limit = Some(2);
        })
        .unwrap();
        assert_eq!(
            problems.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(),
            ["gsm8k-train-2", "gsm8k-train-3"]
        );
        assert_eq!(
            (
                problems[0].answer.as_deref(),
                problems[1].demonstration.as_deref()
            ),
            (Some("5"), Some("one step"))
        );
    }

    #[test]
    fn columns_may_have_any_name_and_numbers() {
        let line = r#"{"prompt": "Q", "cot": "a\nb\n\\boxed{3}", "gold": 3.5, "key": 7}"#;
        let (problems, _) = load(line.as_bytes(), |settings| {
            settings.format = DatasetFormat::Columns;
            (settings.question, settings.demonstration) = ("prompt".into(), "cot".into());
            (settings.answer, settings.id) = ("gold".into(), "key".into());
        })
        .unwrap();
        assert_eq!(
            (problems[0].id.as_str(), problems[0].answer.as_deref()),
            ("7", Some("3.5"))
        );
        assert_eq!(
            problems[0].demonstration.as_deref(),
            Some("a\nb\n\\boxed{3}")
        );
    }

    #[test]
    fn the_last_assistant_turn_of_a_chat_is_the_demonstration() {
        let line = r#"{"messages": [{"role": "user", "content": "old"}, {"role": "assistant", "content": "x"},
            {"role": "user", "content": "new"}, {"role": "assistant", "content": "<think>\ny\n</think>\n<answer>4</answer>"}]}"#
            .replace('\n', "");
        let (problems, _) = load(line.as_bytes(), |settings| {
            settings.format = DatasetFormat::Messages
        })
        .unwrap();
        assert_eq!(
            problems[0],
            Problem {
                id: "train-0".into(),
                question: "new".into(),
                demonstration: Some("y".into()),
                answer: Some("4".into())
            }
        );
    }

    #[test]
    fn what_cannot_be_read_names_file_and_line() {
        let message = |bytes: &[u8]| load(bytes, |_| {}).unwrap_err().to_string();
        let good = br#"{"question": "Q", "answer": "a\n#### 1", "id": "1"}"#;
        let after_good = |bad: &[u8]| message(&[good.as_slice(), b"\n", bad].concat());
        assert!(after_good(b"{\"question\": ").ends_with("train.jsonl:2: not the expected JSON"));
        assert!(after_good(b"[]").ends_with("train.jsonl:2: not the expected JSON"));
        assert!(after_good(b"\xff").ends_with("train.jsonl:2: invalid UTF-8"));
        assert!(after_good(b"{}").ends_with("train.jsonl:2: column `question` is missing"));
        assert!(
            after_good(br#"{"question": []}"#)
                .ends_with("column `question` is neither a text nor a number")
        );
        assert!(after_good(good).ends_with("train.jsonl:2: identifier `1` occurs twice"));
        assert!(load_problems(&DatasetSettings::default()).is_err());
    }
}
