//! The errors of reading, writing and checking task data.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// An error of this crate. Each names the file and place that it concerns.
#[derive(Debug, Error)]
pub enum TasksError {
    /// A file could not be opened or read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file could not be created, written, synchronised or renamed.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A line is not the JSON that was expected.
    #[error("{path}:{line}: not the expected JSON")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A record of a data file cannot be used.
    #[error("{path}:{number}: {fault}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Number of the line, of the row or of the array's element, from 1.
        number: usize,
        /// What is wrong with the record.
        fault: RecordFault,
    },
    /// A file is of an unsupported kind.
    #[error("{path}: {reason}")]
    FileKind {
        /// The file.
        path: PathBuf,
        /// What the file is, and what to do with it.
        reason: &'static str,
    },
    /// A data set has records, and none of them can be used.
    #[error("{path}: no record can be used: {reasons}")]
    NoUsableRecord {
        /// The file, or the pattern of files.
        path: PathBuf,
        /// The reasons with their counts and the first records they apply to.
        reasons: String,
    },
    /// A column was named for a layout whose columns are fixed.
    #[error(
        "format `{format}` has fixed columns, so `{setting} = \"{column}\"` is invalid: only gsm8k, columns and messages \
         take column names"
    )]
    FixedColumns {
        /// The layout, as settings name it.
        format: String,
        /// The setting that names the column.
        setting: &'static str,
        /// The column.
        column: String,
    },
    /// A parquet file is malformed or too large.
    #[error("{path}: not readable as parquet")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        source: parquet::errors::ParquetError,
    },
    /// The problems have too much text for memory.
    #[error("{path}: more than {limit} bytes of text; read a part of it with `limit` and `offset`")]
    TooMuchText {
        /// The file, or the pattern of files.
        path: PathBuf,
        /// The maximum number of bytes.
        limit: usize,
    },
    /// A record could not be turned into JSON.
    #[error("cannot encode trace {id}")]
    Encode {
        /// The trace's problem identifier.
        id: String,
        /// The encoder's reason.
        source: serde_json::Error,
    },
    /// A line holds bytes that are not UTF-8.
    #[error("{path}:{line}: invalid UTF-8")]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
    /// A line is longer than any record may be.
    #[error("{path}:{line}: line longer than {limit} bytes")]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The maximum length of a line, in bytes.
        limit: usize,
    },
    /// A trace lacks a column, or the column has another type.
    #[error("{path}:{line}: column `{column}` {problem}")]
    Column {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The column's name.
        column: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A per-token array has another length than the token identifiers.
    #[error("{place}: `{field}` has {found} entries, expected {expected}")]
    Length {
        /// File and line, or the trace's identifier when it is being written.
        place: String,
        /// The field's name.
        field: &'static str,
        /// Entries expected.
        expected: usize,
        /// Entries found.
        found: usize,
    },
    /// A token's byte range is not a range of its text.
    #[error("{place}: `token_offsets[{index}]` {problem}")]
    Offset {
        /// File and line, or the trace's identifier when it is being written.
        place: String,
        /// The token.
        index: usize,
        /// What is wrong with the range.
        problem: &'static str,
    },
    /// A number is NaN or infinite.
    #[error("{place}: `{field}` is not finite at {key}")]
    NonFinite {
        /// File and line, or the trace's identifier when it is being written.
        place: String,
        /// The field's name.
        field: &'static str,
        /// The token's index, or the score's name.
        key: String,
    },
    /// No perturbation has this name.
    #[error("unknown perturbation `{name}`, the nearest is `{nearest}`")]
    UnknownPerturbation {
        /// The name as given.
        name: String,
        /// The nearest known name.
        nearest: String,
    },
    /// A registry without perturbations cannot make negatives.
    #[error("the list of perturbations is empty")]
    NoPerturbation,
    /// Another process appends to the file of labels.
    #[error("{path}: another process writes labels to it; stop that one, or name another file")]
    LabelsInUse {
        /// The file.
        path: PathBuf,
    },
    /// A file of labels has, or would have, too many bytes.
    #[error("{path}: a file of labels has at most {limit} bytes; name a new file")]
    LabelsFull {
        /// The file.
        path: PathBuf,
        /// The maximum number of bytes.
        limit: u64,
    },
    /// A label is longer than a line may be.
    #[error("the label has more than {limit} bytes with its question and text")]
    LabelTooLong {
        /// The maximum number of bytes.
        limit: usize,
    },
    /// Two problem sets that must be disjoint are not.
    #[error("{first} and {second} share {count} problems, among them {examples:?}")]
    Overlap {
        /// One set's role: `train`, `validation` or `test`.
        first: &'static str,
        /// The other set's role.
        second: &'static str,
        /// How many problems of the second set occur in the first.
        count: usize,
        /// The first few of them: an identifier, or a question where only the questions agree.
        examples: Vec<String>,
    },
    /// The generated task cannot be made with these settings.
    #[error("arithmetic task: {problem}")]
    Arithmetic {
        /// What is wrong with the settings.
        problem: String,
    },
    /// The generated task in words cannot be made with these settings.
    #[error("deduction task: {problem}")]
    Deduction {
        /// What is wrong with the settings.
        problem: String,
    },
}

/// Why one record of a data file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordFault {
    /// The text is not JSON, or not of the expected shape.
    #[error("not the expected JSON: {reason}")]
    Json {
        /// The parser's reason.
        reason: String,
    },
    /// The record is a JSON value, but no object.
    #[error("not the expected JSON: invalid type: {found}, expected an object")]
    NotAnObject {
        /// The type of the value.
        found: &'static str,
    },
    /// The bytes are not UTF-8.
    #[error("invalid UTF-8")]
    InvalidUtf8,
    /// A string has an unpaired UTF-16 surrogate, which is not a character.
    #[error(
        "unpaired surrogate {escape} in a string: it is half of a UTF-16 pair and no character"
    )]
    UnpairedSurrogate {
        /// The escape sequence.
        escape: String,
    },
    /// The record is longer than any record may be.
    #[error("line longer than {limit} bytes")]
    TooLong {
        /// The maximum length, in bytes.
        limit: usize,
    },
    /// A column is missing.
    #[error("column `{column}` is missing; the columns are {columns}")]
    MissingColumn {
        /// The column's name.
        column: String,
        /// The names of the columns that exist.
        columns: String,
    },
    /// A column has another type than expected, or a value that cannot be used.
    #[error("column `{column}` {problem}")]
    Column {
        /// The column's name.
        column: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The question has no text.
    #[error("empty question")]
    EmptyQuestion,
    /// The record has no demonstration, and the command needs one.
    #[error("no demonstration{detail}")]
    NoDemonstration {
        /// The column that was looked for and does not exist, if any.
        detail: String,
    },
    /// The record has no gold answer, and the command needs one.
    #[error("no answer{detail}")]
    NoAnswer {
        /// The column that was looked for and does not exist, if any.
        detail: String,
    },
    /// An earlier record of the data set has the same identifier.
    #[error("identifier `{id}` occurs twice")]
    DuplicateId {
        /// The identifier.
        id: String,
    },
}

impl RecordFault {
    /// The parser's error as a fault. It names only the column, since a record is parsed as one
    /// line.
    pub(crate) fn json(error: &serde_json::Error) -> Self {
        let reason = error
            .to_string()
            .replace(" at line 1 column ", " at column ");
        Self::Json { reason }
    }

    /// The reason without details of single records, so that records can be counted by it.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Json { .. } | Self::NotAnObject { .. } => "not the expected JSON".to_owned(),
            Self::UnpairedSurrogate { .. } => "unpaired surrogate in a string".to_owned(),
            Self::MissingColumn { column, .. } => format!("column `{column}` is missing"),
            Self::NoDemonstration { .. } => "no demonstration".to_owned(),
            Self::NoAnswer { .. } => "no answer".to_owned(),
            Self::DuplicateId { .. } => "identifier occurs twice".to_owned(),
            other => other.to_string(),
        }
    }
}
