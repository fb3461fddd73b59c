//! Reads and writes traces: `traces.jsonl`, traces of other programs, and step traces
//! (`step_traces`).
//!
//! Numbers are written with the fewest digits that read back to the same f32. A file is written
//! under a temporary name in the destination's folder and then renamed, so a reader sees either the
//! old file or the complete new one.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use crate::TasksError;
use crate::datasets::records::{Fault, RawRecord, Records};
use crate::lines::Lines;
pub use crate::step_traces::{StepTrace, holds_step_traces, read_step_traces};
use crate::text_file::TextReader;
use crate::trace::ScoredTrace;

/// Reads `traces.jsonl` one trace at a time, each checked by [`check_trace`].
pub struct TraceReader {
    path: PathBuf,
    lines: Lines<TextReader>,
}

impl TraceReader {
    /// Opens a file.
    ///
    /// # Errors
    /// [`TasksError::Read`].
    pub fn open(path: &Path) -> Result<Self, TasksError> {
        Ok(Self {
            path: path.to_owned(),
            lines: Lines::open(path)?,
        })
    }
}

impl Iterator for TraceReader {
    type Item = Result<ScoredTrace, TasksError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.lines.next()?;
        Some(line.and_then(|(number, line)| parse_trace(&self.path, number, &line)))
    }
}

/// Writes `traces.jsonl`; the destination does not change before [`TraceWriter::finish`].
pub struct TraceWriter {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl TraceWriter {
    /// Starts a temporary file in the folder of `path`, which must exist.
    ///
    /// # Errors
    /// [`TasksError::Write`].
    pub fn create(path: &Path) -> Result<Self, TasksError> {
        let file = temporary_in_folder_of(path).map_err(|source| write_error(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 18, file),
        })
    }

    /// Appends one trace.
    ///
    /// # Errors
    /// The errors of [`check_trace`], [`TasksError::Encode`], [`TasksError::Write`].
    pub fn write(&mut self, trace: &ScoredTrace) -> Result<(), TasksError> {
        check_trace(trace, &format!("trace {}", trace.id))?;
        let mut line = serde_json::to_vec(trace).map_err(|source| TasksError::Encode {
            id: trace.id.clone(),
            source,
        })?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| write_error(&self.path, source))
    }

    /// Synchronises the file with the disk and moves it to its destination.
    ///
    /// # Errors
    /// [`TasksError::Write`].
    pub fn finish(self) -> Result<(), TasksError> {
        let path = self.path;
        let persist = |file: BufWriter<NamedTempFile>| {
            let file = file.into_inner().map_err(|error| error.into_error())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(folder_of(&path))?.sync_all()
        };
        persist(self.file).map_err(|source| write_error(&path, source))
    }
}

/// Reads all traces of `traces.jsonl`.
///
/// # Errors
/// The first error of a [`TraceReader`].
pub fn read_traces(path: &Path) -> Result<Vec<ScoredTrace>, TasksError> {
    TraceReader::open(path)?.collect()
}

/// Writes `traces.jsonl` atomically.
///
/// # Errors
/// The first error of a [`TraceWriter`].
pub fn write_traces(path: &Path, traces: &[ScoredTrace]) -> Result<(), TasksError> {
    let mut writer = TraceWriter::create(path)?;
    for trace in traces {
        writer.write(trace)?;
    }
    writer.finish()
}

/// Reads traces of other programs. A record is one trace, or one problem with its `traces`.
///
/// The file is JSON lines, a JSON array or parquet. A record with `token_ids` is a trace of assay
/// and keeps all its fields. A missing generator becomes `unknown`.
///
/// # Errors
/// [`TasksError::Record`], [`TasksError::Json`] or [`TasksError::Column`] naming file and record;
/// the errors of [`check_trace`]. The file cannot be read.
pub fn read_foreign_traces(path: &Path) -> Result<Vec<ScoredTrace>, TasksError> {
    let mut traces = Vec::new();
    for record in Records::open(path)? {
        let (number, record) = record.map_err(|fault| fault.error(path))?;
        traces.extend(traces_of(path, number, record)?);
    }
    Ok(traces)
}

/// Traces from records in memory, each the text of a JSON object in the format of
/// [`read_foreign_traces`]. `name` replaces the file's name in errors.
///
/// # Errors
/// As [`read_foreign_traces`].
pub fn parse_traces(name: &Path, records: &[String]) -> Result<Vec<ScoredTrace>, TasksError> {
    let mut traces = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let record = RawRecord::Text(record.clone());
        traces.extend(traces_of(name, index + 1, record)?);
    }
    Ok(traces)
}

/// The traces of one record, of assay or of another program.
fn traces_of(
    path: &Path,
    number: usize,
    record: RawRecord,
) -> Result<Vec<ScoredTrace>, TasksError> {
    let text = match &record {
        RawRecord::Text(text) => Some(text.clone()),
        RawRecord::Row(_) => None,
    };
    let columns = record.parse();
    let is_ours = match (&columns, &text) {
        (Ok(columns), _) => columns.values.contains_key("token_ids"),
        (Err(_), Some(text)) => text.contains("\"token_ids\""),
        (Err(_), None) => false,
    };
    match text {
        // Parsed from the text, so that each number is rounded to 32 bits only once.
        Some(text) if is_ours => Ok(vec![parse_trace(path, number, &text)?]),
        _ => {
            let columns = columns.map_err(|fault| Fault::Record(number, fault).error(path))?;
            foreign_traces(path, number, columns.values)
        }
    }
}

/// The traces of one record.
fn foreign_traces(
    path: &Path,
    number: usize,
    columns: Map<String, Value>,
) -> Result<Vec<ScoredTrace>, TasksError> {
    let record = ForeignLine::deserialize(Value::Object(columns)).map_err(|source| {
        let path = path.to_owned();
        TasksError::Json {
            path,
            line: number,
            source,
        }
    })?;
    let column = |problem| TasksError::Column {
        path: path.to_owned(),
        line: number,
        column: "text".to_owned(),
        problem,
    };
    match (record.text.clone(), &record.traces) {
        (Some(text), None) => {
            let only = ForeignTrace {
                text,
                generator: record.generator.clone(),
                correct: record.correct,
            };
            Ok(vec![record.trace(&only)])
        }
        (None, Some(several)) => Ok(several.iter().map(|one| record.trace(one)).collect()),
        (None, None) => Err(column("is missing, and so is `traces`")),
        (Some(_), Some(_)) => Err(column("is there as well as `traces`")),
    }
}

/// Checks that the token arrays have one length, that offsets ascend on character boundaries inside
/// the text, and that every number is finite. `place` names the trace in errors.
///
/// `token_rewards` may be empty in a trace without rewards.
///
/// # Errors
/// [`TasksError::Length`], [`TasksError::Offset`], [`TasksError::NonFinite`].
pub fn check_trace(trace: &ScoredTrace, place: &str) -> Result<(), TasksError> {
    check_lengths(trace, place)?;
    check_offsets(trace, place)?;
    let rewards = trace
        .token_rewards
        .iter()
        .map(|reward| reward.unwrap_or(0.0));
    check_finite(place, "token_rewards", rewards.enumerate())?;
    for (field, values) in optional_arrays(trace) {
        check_finite(place, field, values.iter().copied().enumerate())?;
    }
    check_finite(
        place,
        "scores",
        trace.scores.iter().map(|(name, score)| (name, *score)),
    )
}

/// A text, or a number as it is written.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum TextOrNumber {
    Text(String),
    Number(serde_json::Number),
}

impl TextOrNumber {
    pub(crate) fn text(&self) -> String {
        match self {
            TextOrNumber::Text(text) => text.clone(),
            TextOrNumber::Number(number) => number.to_string(),
        }
    }
}

#[derive(Deserialize)]
struct ForeignLine {
    id: TextOrNumber,
    question: String,
    answer: Option<TextOrNumber>,
    text: Option<String>,
    generator: Option<String>,
    correct: Option<bool>,
    traces: Option<Vec<ForeignTrace>>,
}

#[derive(Deserialize)]
struct ForeignTrace {
    text: String,
    generator: Option<String>,
    correct: Option<bool>,
}

impl ForeignLine {
    fn trace(&self, one: &ForeignTrace) -> ScoredTrace {
        ScoredTrace {
            id: self.id.text(),
            question: self.question.clone(),
            generator: one.generator.clone().unwrap_or_else(|| "unknown".into()),
            text: one.text.clone(),
            answer: self.answer.as_ref().map(TextOrNumber::text),
            correct: one.correct,
            ..ScoredTrace::default()
        }
    }
}

pub(crate) fn parse_trace(
    path: &Path,
    number: usize,
    line: &str,
) -> Result<ScoredTrace, TasksError> {
    let trace: ScoredTrace = serde_json::from_str(line).map_err(|source| {
        let foreign = serde_json::from_str::<Value>(line)
            .is_ok_and(|value| value.is_object() && value.get("token_ids").is_none());
        match foreign {
            true => TasksError::Column {
                path: path.to_owned(),
                line: number,
                column: "token_ids".to_owned(),
                problem: "is missing: no reward has read these traces, `assay score` makes one read them",
            },
            false => TasksError::Json {
                path: path.to_owned(),
                line: number,
                source,
            },
        }
    })?;
    check_trace(&trace, &format!("{}:{number}", path.display()))?;
    Ok(trace)
}

fn optional_arrays(trace: &ScoredTrace) -> impl Iterator<Item = (&'static str, &Vec<f32>)> {
    let arrays = [
        ("policy_logprobs", &trace.policy_logprobs),
        ("sampling_logprobs", &trace.sampling_logprobs),
        ("entropies", &trace.entropies),
    ];
    arrays
        .into_iter()
        .filter_map(|(field, values)| values.as_ref().map(|values| (field, values)))
}

fn check_lengths(trace: &ScoredTrace, place: &str) -> Result<(), TasksError> {
    let expected = trace.token_ids.len();
    let check = |field, found| {
        if found == expected {
            return Ok(());
        }
        Err(TasksError::Length {
            place: place.to_owned(),
            field,
            expected,
            found,
        })
    };
    check("token_offsets", trace.token_offsets.len())?;
    if !trace.token_rewards.is_empty() {
        check("token_rewards", trace.token_rewards.len())?;
    }
    optional_arrays(trace).try_for_each(|(field, values)| check(field, values.len()))
}

fn check_offsets(trace: &ScoredTrace, place: &str) -> Result<(), TasksError> {
    let mut last = (0, 0);
    for (index, &(start, end)) in trace.token_offsets.iter().enumerate() {
        let problem = if start > end {
            "ends before it starts"
        } else if end > trace.text.len() {
            "ends outside the text"
        } else if start < last.0 || end < last.1 {
            "lies before the token in front of it"
        } else if !trace.text.is_char_boundary(start) || !trace.text.is_char_boundary(end) {
            "cuts a character"
        } else {
            last = (start, end);
            continue;
        };
        return Err(TasksError::Offset {
            place: place.to_owned(),
            index,
            problem,
        });
    }
    Ok(())
}

fn check_finite<K: ToString>(
    place: &str,
    field: &'static str,
    values: impl Iterator<Item = (K, f32)>,
) -> Result<(), TasksError> {
    for (key, value) in values {
        if !value.is_finite() {
            return Err(TasksError::NonFinite {
                place: place.to_owned(),
                field,
                key: key.to_string(),
            });
        }
    }
    Ok(())
}

fn write_error(path: &Path, source: std::io::Error) -> TasksError {
    TasksError::Write {
        path: path.to_owned(),
        source,
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A temporary file in the destination's folder, with the permissions of an ordinary new file.
fn temporary_in_folder_of(path: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    builder.prefix(".traces-").tempfile_in(folder_of(path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::trace::FinishReason;

    fn example() -> ScoredTrace {
        ScoredTrace {
            id: "p".into(),
            question: "Q".into(),
            generator: "g".into(),
            seed: Some(u64::MAX),
            text: "é 26".into(),
            token_ids: vec![5, 6, 0],
            token_offsets: vec![(0, 2), (2, 5), (5, 5)],
            token_rewards: vec![Some(0.1), None, Some(-0.0)],
            policy_logprobs: Some(vec![-0.3, f32::MIN_POSITIVE / 4.0, -1e-30]),
            scores: [("mean".to_string(), 1.0 / 3.0)].into(),
            finish_reason: Some(FinishReason::Stop),
            ..ScoredTrace::default()
        }
    }

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traces.jsonl");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn traces_are_replaced_whole_and_read_back_equal() {
        let (folder, path) = file(b"old");
        let mut writer = TraceWriter::create(&path).unwrap();
        writer.write(&example()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let unwritable = ScoredTrace {
            scores: [("mean".to_string(), f32::NAN)].into(),
            ..example()
        };
        let error = writer.write(&unwritable).unwrap_err();
        assert_eq!(error.to_string(), "trace p: `scores` is not finite at mean");
        writer.finish().unwrap();
        let back = read_traces(&path).unwrap();
        assert_eq!(back, [example()]);
        assert!(back[0].token_rewards[2].unwrap().is_sign_negative());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn malformed_traces_name_line_and_field() {
        type Change = fn(&mut ScoredTrace);
        let cases: [(Change, &str); 8] = [
            (
                |t| t.token_rewards.truncate(1),
                "`token_rewards` has 1 entries, expected 3",
            ),
            (
                |t| t.token_offsets.truncate(2),
                "`token_offsets` has 2 entries, expected 3",
            ),
            (
                |t| t.policy_logprobs = Some(vec![]),
                "`policy_logprobs` has 0 entries, expected 3",
            ),
            (
                |t| t.entropies = Some(vec![1.0]),
                "`entropies` has 1 entries, expected 3",
            ),
            (
                |t| t.token_offsets[1] = (1, 5),
                "`token_offsets[1]` cuts a character",
            ),
            (
                |t| t.token_offsets[2] = (5, 6),
                "`token_offsets[2]` ends outside the text",
            ),
            (
                |t| t.token_offsets[1] = (5, 2),
                "`token_offsets[1]` ends before it starts",
            ),
            (
                |t| t.token_offsets[2] = (0, 2),
                "`token_offsets[2]` lies before the token in front of it",
            ),
        ];
        for (change, message) in cases {
            let mut trace = example();
            change(&mut trace);
            let lines = [
                serde_json::to_string(&example()).unwrap(),
                serde_json::to_string(&trace).unwrap(),
            ]
            .join("\n");
            let (_folder, path) = file(lines.as_bytes());
            assert!(
                read_traces(&path)
                    .unwrap_err()
                    .to_string()
                    .ends_with(&format!("traces.jsonl:2: {message}"))
            );
            assert!(TraceWriter::create(&path).unwrap().write(&trace).is_err());
        }
        let (_folder, path) = file(b"{\"id\": 1");
        assert!(
            read_traces(&path)
                .unwrap_err()
                .to_string()
                .ends_with("traces.jsonl:1: not the expected JSON")
        );
    }

    #[test]
    fn foreign_traces_come_in_two_shapes() {
        let ours = serde_json::to_string(&example()).unwrap();
        let lines = [
            r#"{"id": "a", "question": "Q", "text": "A: 1", "answer": 2, "correct": false}"#,
            r#"{"id": 3, "question": "R", "traces": [{"text": "x", "generator": "m"}, {"text": "y", "correct": true}]}"#,
            &ours,
        ];
        let (_folder, path) = file(lines.join("\n").as_bytes());
        let traces = read_foreign_traces(&path).unwrap();
        let brief: Vec<_> = traces
            .iter()
            .map(|t| {
                (
                    t.id.as_str(),
                    t.generator.as_str(),
                    t.text.as_str(),
                    t.correct,
                )
            })
            .collect();
        assert_eq!(
            brief,
            [
                ("a", "unknown", "A: 1", Some(false)),
                ("3", "m", "x", None),
                ("3", "unknown", "y", Some(true)),
                ("p", "g", "é 26", None)
            ]
        );
        assert_eq!(
            (traces[0].answer.as_deref(), &traces[3]),
            (Some("2"), &example())
        );
        for bad in [
            r#"{"id": "a", "question": "Q"}"#,
            r#"{"id": "a", "question": "Q", "text": "", "traces": []}"#,
            "[1]",
        ] {
            let (_folder, path) = file(bad.as_bytes());
            assert!(
                read_foreign_traces(&path)
                    .unwrap_err()
                    .to_string()
                    .contains("traces.jsonl:1")
            );
        }
    }

    proptest! {
        #[test]
        fn numbers_read_back_to_the_same_bits(bits in proptest::collection::vec(any::<u32>(), 1..20)) {
            let values: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|value| value.is_finite()).collect();
            let trace = ScoredTrace {
                token_ids: vec![0; values.len()],
                token_offsets: vec![(0, 0); values.len()],
                token_rewards: values.iter().map(|&value| Some(value)).collect(),
                policy_logprobs: Some(values.clone()),
                ..example()
            };
            let back: ScoredTrace = serde_json::from_str(&serde_json::to_string(&trace).unwrap()).unwrap();
            for (index, value) in values.iter().enumerate() {
                prop_assert_eq!(back.token_rewards[index].map(f32::to_bits), Some(value.to_bits()));
                prop_assert_eq!(back.policy_logprobs.as_ref().unwrap()[index].to_bits(), value.to_bits());
            }
        }
    }
}
