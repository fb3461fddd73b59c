//! Records of a data file, one at a time: JSON lines, a JSON array, records over several lines, or
//! parquet rows.
//!
//! The first bytes, and the ending `.parquet`, determine the kind. Files are not trusted: a record
//! has at most 16 MiB, and decompressed sizes are bounded (`text_file`, `rows`).

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::rows::Rows;
use super::values::{Layout, ValueFault, Values};
use crate::json::{self, Columns};
use crate::lines::{LineFault, Lines};
use crate::text_file::{self, TextReader};
use crate::{RecordFault, TasksError};

/// The records of one file.
pub(crate) struct Records {
    path: PathBuf,
    source: Source,
}

enum Source {
    Lines(Lines<TextReader>),
    Values(Values<TextReader>),
    Rows(Box<Rows>),
    /// Nothing follows an error of the file.
    Ended,
}

/// A record of a file, not parsed yet.
pub(crate) enum RawRecord {
    /// JSON that was not parsed yet.
    Text(String),
    /// A row of a parquet file.
    Row(Columns),
}

/// Why a record cannot be used.
pub(crate) enum Fault {
    /// The record with this number cannot be used; others may follow.
    Record(usize, RecordFault),
    /// The file cannot be read further.
    File(TasksError),
}

impl Fault {
    /// The fault as an error that names the file.
    pub(crate) fn error(self, path: &Path) -> TasksError {
        match self {
            Self::File(error) => error,
            Self::Record(number, fault) => TasksError::Record {
                path: path.to_owned(),
                number,
                fault,
            },
        }
    }
}

/// A record with its number in the file, from 1: the line, the element of the array, or the row.
pub(crate) type Numbered = Result<(usize, RawRecord), Fault>;

impl RawRecord {
    /// The record's columns.
    ///
    /// # Errors
    /// Those of [`json::parse`].
    pub(crate) fn parse(self) -> Result<Columns, RecordFault> {
        match self {
            Self::Text(text) => json::parse(&text),
            Self::Row(columns) => Ok(columns),
        }
    }
}

impl Records {
    /// Opens a file.
    ///
    /// # Errors
    /// [`TasksError::Read`], [`TasksError::Parquet`], [`TasksError::FileKind`].
    pub(crate) fn open(path: &Path) -> Result<Self, TasksError> {
        let has_ending = |ending: &str| {
            path.extension()
                .is_some_and(|found| found.eq_ignore_ascii_case(ending))
        };
        if path.is_dir() {
            return Err(TasksError::FileKind {
                path: path.to_owned(),
                reason: "a directory: name a file in it, or several with `*`",
            });
        }
        // A pipe cannot be read twice, and parquet cannot be read from a pipe.
        let is_parquet = has_ending("parquet")
            || path.is_file() && text_file::starts_with(path, text_file::PARQUET)?;
        let source = if is_parquet && !text_file::starts_with(path, b"version https://git-lfs")? {
            Source::Rows(Box::new(Rows::open(path)?))
        } else {
            text_source(path, text_file::open(path)?)?
        };
        Ok(Self {
            path: path.to_owned(),
            source,
        })
    }
}

/// The layout of a text, from its first line: `[` begins an array, a line that is `{` alone a
/// record over several lines.
fn text_source(path: &Path, mut reader: TextReader) -> Result<Source, TasksError> {
    let first = reader.fill_buf().map_err(|source| TasksError::Read {
        path: path.to_owned(),
        source,
    })?;
    let first = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first);
    let first = first.trim_ascii_start();
    let line = first.split(|&byte| byte == b'\n').next();
    let is_brace = line.is_some_and(|line| line.trim_ascii_end() == b"{") && first.len() > 1;
    if first.starts_with(b"[") && !is_array_a_line(first) {
        return Ok(Source::Values(Values::new(reader, Layout::Array)));
    }
    if is_brace {
        return Ok(Source::Values(Values::new(reader, Layout::Sequence)));
    }
    let is_table = path.extension().is_some_and(|ending| {
        ending.eq_ignore_ascii_case("csv") || ending.eq_ignore_ascii_case("tsv")
    });
    if is_table && !first.starts_with(b"{") {
        return Err(TasksError::FileKind {
            path: path.to_owned(),
            reason: "a table of text, which is not read: write it as JSON lines or parquet",
        });
    }
    Ok(Source::Lines(Lines::new(path, reader)))
}

/// Whether the first line is a complete array and another line follows: chats, one per line.
fn is_array_a_line(text: &[u8]) -> bool {
    let Some(end) = text.iter().position(|&byte| byte == b'\n') else {
        return false;
    };
    let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(&text[..end]).is_ok();
    is_whole && !text[end..].trim_ascii().is_empty()
}

impl Iterator for Records {
    type Item = Numbered;

    fn next(&mut self) -> Option<Self::Item> {
        let record = match &mut self.source {
            Source::Lines(lines) => lines.next_line()?.map_err(Fault::from),
            Source::Values(values) => values.next_value()?.map_err(|fault| match fault {
                ValueFault::Value(number, fault) => Fault::Record(number, fault),
                ValueFault::Text(source) => Fault::File(TasksError::Read {
                    path: self.path.clone(),
                    source,
                }),
            }),
            Source::Rows(rows) => {
                let row = rows.next_row()?;
                let row = row.map(|(number, columns)| (number, RawRecord::Row(columns)));
                if matches!(row, Err(Fault::File(_))) {
                    self.source = Source::Ended;
                }
                return Some(row);
            }
            Source::Ended => return None,
        };
        Some(record.map(|(number, text)| (number, RawRecord::Text(text))))
    }
}

impl From<LineFault> for Fault {
    fn from(fault: LineFault) -> Self {
        match fault {
            LineFault::Line(number, fault) => Self::Record(number, fault),
            LineFault::File(error) => Self::File(error),
        }
    }
}
