//! Reading problems from JSON lines, JSON arrays (both plain or compressed with gzip or zstd) and
//! parquet: GSM8K, MedReason, MMLU-Pro, AIME and Countdown as published, any columns, or chats.
//!
//! A record that cannot be used is left out, counted and reported with its number in the file. A
//! file that cannot be read to its end is an error, and so is a data set without usable records.

mod chat;
mod columns;
mod files;
mod footer;
mod formats;
mod pages;
pub(crate) mod records;
mod report;
mod rows;
mod thrift;
mod values;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::columns::Record;
pub(crate) use self::files::files;
use self::formats::Absent;
use self::records::{Fault, RawRecord, Records};
use self::report::Place;
pub use self::report::{Counted, LoadReport};
pub use self::rows::catches_panics;
use crate::answers::{AnswerSource, extract_lenient};
use crate::problem::Problem;
use crate::prompts::{split_completion, without_calculator_marks};
use crate::{RecordFault, TasksError};

/// The layout of a file's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetFormat {
    /// `question`, `answer` with calculator marks and a `#### final` line, as published.
    #[default]
    Gsm8k,
    /// One column a field, named by the settings.
    Columns,
    /// A chat in `messages` or `conversations`: the last assistant turn is the demonstration, the
    /// last user turn before it the question.
    Messages,
    /// MedReason (`UCSC-VLAA/MedReason`): `question`, `options`, `reasoning`, `answer`; the answer
    /// is a choice's letter if it is one of the options.
    Medreason,
    /// MMLU-Pro (`TIGER-Lab/MMLU-Pro`): `question`, `options`, `answer`, a letter; `cot_content` is
    /// the demonstration.
    MmluPro,
    /// AIME (`Maxwell-Jia/AIME_2024`, `HuggingFaceH4/aime_2024` and their like): `problem`,
    /// `solution`, `answer`, an integer.
    Aime,
    /// Countdown (`Jiayi-Pan/Countdown-Tasks-3to4`): `nums`, `target`; an answer is an expression,
    /// evaluated exactly.
    Countdown,
}

/// Maximum number of bytes of text in all problems of one call.
const MAX_TEXT: usize = 4 << 30;

/// Which fields a problem must have to be kept; others are skipped and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Required {
    /// Only the question, for sampling.
    Question,
    /// A demonstration, for training without answers.
    Demonstration,
    /// A gold answer, for evaluation.
    Answer,
    /// Both.
    #[default]
    DemonstrationAndAnswer,
}

/// Which problems to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetSettings {
    /// A file of JSON lines, a JSON array (both plain or compressed with gzip or zstd) or parquet;
    /// `*` in its name matches any text; the matching files are read in order of their names.
    pub path: PathBuf,
    /// The layout of its records.
    pub format: DatasetFormat,
    /// Column of the question (`columns`, `gsm8k`), or of the chat (`messages`). A dotted name
    /// selects a nested column: `reward_model.ground_truth`.
    pub question: String,
    /// Column of the expert's reasoning (`columns`, `gsm8k`).
    pub demonstration: String,
    /// Column of the gold answer (`columns`, `gsm8k`, `messages`).
    pub answer: String,
    /// Column of the identifier. The default identifier consists of file name and line, counted
    /// from 0: `gsm8k-train-0` for GSM8K, `train-0` otherwise.
    pub id: String,
    /// Which fields a problem must have; if absent, those that the command needs.
    pub required: Option<Required>,
    /// Number of records to leave out at the start.
    pub offset: usize,
    /// Maximum number of records to read after the offset.
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
            required: None,
            offset: 0,
            limit: None,
        }
    }
}

/// Reads the problems of one file, or of all files that a `*` matches.
///
/// Without [`DatasetSettings::required`] a problem must have a demonstration and an answer.
///
/// # Errors
/// [`TasksError::Read`], [`TasksError::Parquet`], [`TasksError::FileKind`] and
/// [`TasksError::LineTooLong`] where a file cannot be read to its end;
/// [`TasksError::NoUsableRecord`] where every record is left out; [`TasksError::FixedColumns`];
/// [`TasksError::TooMuchText`] for problems beyond 4 GiB.
pub fn load_problems(settings: &DatasetSettings) -> Result<(Vec<Problem>, LoadReport), TasksError> {
    formats::check_names(settings)?;
    let mut loader = Loader {
        settings,
        required: settings.required.unwrap_or_default(),
        problems: Vec::new(),
        ids: BTreeSet::new(),
        bytes: 0,
        report: LoadReport::default(),
    };
    let limit = settings.limit.unwrap_or(usize::MAX);
    let end = settings.offset.saturating_add(limit);
    let mut index = 0;
    for path in files(&settings.path)? {
        if index >= end {
            break;
        }
        for record in Records::open(&path)? {
            if index >= settings.offset {
                loader.take(&path, record)?;
            } else if let Err(Fault::File(error)) = record {
                return Err(error);
            }
            index += 1;
            if index >= end {
                break;
            }
        }
    }
    let Loader {
        problems, report, ..
    } = loader;
    if problems.is_empty() && !report.skipped.is_empty() {
        return Err(TasksError::NoUsableRecord {
            path: settings.path.clone(),
            reasons: report.reasons(),
        });
    }
    Ok((problems, report))
}

/// The problems read so far.
struct Loader<'s> {
    settings: &'s DatasetSettings,
    required: Required,
    problems: Vec<Problem>,
    ids: BTreeSet<String>,
    bytes: usize,
    report: LoadReport,
}

impl Loader<'_> {
    /// Keeps a record as a problem, or counts it as left out.
    fn take(
        &mut self,
        path: &Path,
        record: Result<(usize, RawRecord), Fault>,
    ) -> Result<(), TasksError> {
        let (number, record) = match record {
            Ok((number, record)) => (number, Ok(record)),
            Err(Fault::Record(number, fault)) => (number, Err(fault)),
            Err(Fault::File(error)) => return Err(error),
        };
        let place = Place { path, number };
        match record.and_then(|record| self.problem(place, record)) {
            Err(fault) => self.report.skip(place, &fault),
            Ok((problem, notes)) => {
                self.bytes += problem.question.len();
                self.bytes += problem.demonstration.as_ref().map_or(0, String::len);
                if self.bytes > MAX_TEXT {
                    return Err(TasksError::TooMuchText {
                        path: self.settings.path.clone(),
                        limit: MAX_TEXT,
                    });
                }
                for note in notes {
                    self.report.note(place, note);
                }
                self.ids.insert(problem.id.clone());
                self.problems.push(problem);
                self.report.loaded += 1;
            }
        }
        Ok(())
    }

    /// The problem of a record, and notes on content that was ignored or changed.
    fn problem(
        &self,
        place: Place<'_>,
        record: RawRecord,
    ) -> Result<(Problem, Vec<String>), RecordFault> {
        let columns = record.parse()?;
        let record = Record { columns: &columns };
        let fields = formats::read(self.settings, &record)?;
        let (reasoning, stated) = match &fields.expert {
            Some(expert) => split_expert(expert),
            None => (String::new(), None),
        };
        let id = match record.text(&self.settings.id)? {
            Some(id) => id,
            None => default_id(self.settings, place),
        };
        let problem = Problem {
            id,
            question: fields.question.trim().to_owned(),
            demonstration: not_empty(reasoning),
            answer: fields.answer.and_then(not_empty).or(stated),
        };
        check_required(&problem, self.required, &record, &fields.absent)?;
        if self.ids.contains(&problem.id) {
            return Err(RecordFault::DuplicateId { id: problem.id });
        }
        let mut notes = fields.notes;
        if columns.non_finite > 0 {
            notes.push("NaN or an infinity, which JSON does not have, was read as null".to_owned());
        }
        Ok((problem, notes))
    }
}

/// The reasoning of an expert's text, and its answer, which is separate or in a box inside the
/// reasoning. A single number is an answer without reasoning.
fn split_expert(expert: &str) -> (String, Option<String>) {
    let plain = without_calculator_marks(expert);
    if is_bare_number(plain.trim()) {
        return (String::new(), Some(plain.trim().to_owned()));
    }
    let (reasoning, stated) = split_completion(&plain);
    let stated = stated.or_else(|| {
        let found = extract_lenient(&plain)?;
        (found.source != AnswerSource::LastNumber).then(|| found.text.to_owned())
    });
    (reasoning, stated)
}

/// Whether a text is one number and nothing else: `72`, `-1,072`, `3/4`, `$2.50`, `15%`.
fn is_bare_number(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_digit() || "+-.,/$%".contains(c);
    text.chars().all(is_part) && text.contains(|c: char| c.is_ascii_digit())
}

/// Fails for a problem that lacks a required field. The error names the column that does not exist.
fn check_required(
    problem: &Problem,
    required: Required,
    record: &Record<'_>,
    absent: &Absent,
) -> Result<(), RecordFault> {
    let demonstration = matches!(
        required,
        Required::Demonstration | Required::DemonstrationAndAnswer
    );
    let answer = matches!(
        required,
        Required::Answer | Required::DemonstrationAndAnswer
    );
    let detail = |column: &Option<String>| match column {
        Some(column) => format!(": {}", record.missing(column)),
        None => String::new(),
    };
    if problem.question.is_empty() {
        Err(RecordFault::EmptyQuestion)
    } else if demonstration && problem.demonstration.is_none() {
        let detail = detail(&absent.demonstration);
        Err(RecordFault::NoDemonstration { detail })
    } else if answer && problem.answer.is_none() {
        let detail = detail(&absent.answer);
        Err(RecordFault::NoAnswer { detail })
    } else {
        Ok(())
    }
}

/// The name of a record without an identifier: the file's name and the record's number, from 0.
fn default_id(settings: &DatasetSettings, place: Place<'_>) -> String {
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
    format!("{family}{stem}-{}", place.number - 1)
}

fn not_empty(text: String) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
