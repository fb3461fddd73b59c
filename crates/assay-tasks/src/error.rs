//! Every way in which reading, writing or checking task data fails.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What went wrong, where, and with which file.
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
    /// A parquet file is malformed, or larger than is read.
    #[error("{path}: not readable as parquet")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        source: parquet::errors::ParquetError,
    },
    /// Problems hold more text than is kept in memory.
    #[error("{path}: more than {limit} bytes of text; read a part of it with `limit` and `offset`")]
    TooMuchText {
        /// The file, or the pattern of files.
        path: PathBuf,
        /// The most bytes.
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
        /// The longest line accepted, in bytes.
        limit: usize,
    },
    /// A record lacks a column, or the column has another type.
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
    /// Two records of one data set carry the same identifier.
    #[error("{path}:{line}: identifier `{id}` occurs twice")]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// Line number of the second record, from 1.
        line: usize,
        /// The identifier.
        id: String,
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
}
