//! Records of a data file, one at a time: JSON lines, zstd-compressed or not, and parquet rows.
//!
//! The ending of the name says which. Files are not trusted: a line has at most 16 MiB, a compressed file at most
//! [`MOST_DECOMPRESSED`] bytes, a row group of a parquet file at most [`MOST_GROUP_VALUES`] values.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use parquet::basic::{ConvertedType, LogicalType, Repetition};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value};

use super::footer;
use crate::TasksError;
use crate::lines::{LONGEST_LINE, Lines};

/// Bytes that a compressed file may expand to.
const MOST_DECOMPRESSED: u64 = 64 << 30;
/// Values that the columns of one row group may hold together.
const MOST_GROUP_VALUES: usize = 1 << 25;
/// Bytes that a parquet column of one row group may expand to, as the file itself states it.
const MOST_GROUP_BYTES: i64 = 2 << 30;
/// Window of zstd, as a power of two: the largest that the format recommends to accept.
const ZSTD_WINDOW: u32 = 27;

/// A record and its number in the file, from 1: the line, or the row.
pub(super) type Numbered = (usize, Map<String, Value>);

/// The records of one file.
pub(super) enum Records {
    Lines {
        path: PathBuf,
        lines: Lines<Box<dyn BufRead>>,
    },
    Rows {
        path: PathBuf,
        rows: RowIter<'static>,
        number: usize,
    },
}

impl Records {
    pub(super) fn open(path: &Path) -> Result<Self, TasksError> {
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        let ending = ending.as_ref().and_then(|ending| ending.to_str());
        if ending == Some("parquet") {
            let rows = unpanicked(|| rows(path)).map_err(|source| parquet_error(path, source))?;
            return Ok(Self::Rows {
                path: path.to_owned(),
                rows,
                number: 0,
            });
        }
        let reading = |source| TasksError::Read {
            path: path.to_owned(),
            source,
        };
        let file = BufReader::with_capacity(1 << 18, File::open(path).map_err(reading)?);
        let reader: Box<dyn BufRead> = match ending {
            Some("zst") => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(file).map_err(reading)?;
                decoder.window_log_max(ZSTD_WINDOW).map_err(reading)?;
                Box::new(BufReader::new(Bounded {
                    inner: decoder,
                    left: MOST_DECOMPRESSED,
                }))
            }
            _ => Box::new(file),
        };
        Ok(Self::Lines {
            path: path.to_owned(),
            lines: Lines::new(path, reader),
        })
    }
}

impl Iterator for Records {
    type Item = Result<Numbered, TasksError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Lines { path, lines } => Some(lines.next()?.and_then(|(number, line)| {
                let record = serde_json::from_str(&line).map_err(|source| TasksError::Json {
                    path: path.clone(),
                    line: number,
                    source,
                })?;
                Ok((number, record))
            })),
            Self::Rows { path, rows, number } => {
                let row = unpanicked(|| rows.next().transpose());
                *number += 1;
                let row = match row {
                    Ok(row) => row?,
                    Err(source) => return Some(Err(parquet_error(path, source))),
                };
                let texts = row.get_column_iter().map(|(_, field)| text_bytes(field));
                if texts.sum::<usize>() > LONGEST_LINE {
                    return Some(Err(TasksError::LineTooLong {
                        path: path.clone(),
                        line: *number,
                        limit: LONGEST_LINE,
                    }));
                }
                match row.to_json_value() {
                    Value::Object(record) => Some(Ok((*number, record))),
                    _ => None,
                }
            }
        }
    }
}

/// Fails instead of expanding without end.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!("it expands to more than {MOST_DECOMPRESSED} bytes"))
        })?;
        Ok(read)
    }
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is caught here and told as an error, so that a program's panic hook need not tell it.
pub fn catches_panics() -> bool {
    CATCHING.get()
}

/// Runs the parquet reader, which panics on some damaged files, and gives its panics as errors; reading ends with the
/// first error, so that a reader that panicked is not asked again.
fn unpanicked<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    CATCHING.set(true);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    CATCHING.set(false);
    caught.unwrap_or_else(|_| {
        let reason = "the file is damaged: its reader gave up".to_owned();
        Err(ParquetError::General(reason))
    })
}

/// The rows of a parquet file, without columns of types that no field of a problem has.
fn rows(path: &Path) -> Result<RowIter<'static>, ParquetError> {
    let mut file = File::open(path)?;
    footer::check(&mut file)?;
    let file = SerializedFileReader::new(file)?;
    let schema = file.metadata().file_metadata().schema();
    let fields: Vec<TypePtr> = schema
        .get_fields()
        .iter()
        .filter(|field| is_readable(field))
        .cloned()
        .collect();
    let projection = Type::group_type_builder(schema.name())
        .with_fields(fields)
        .build()?;
    for group in 0..file.num_row_groups() {
        check_group(&file, group)?;
    }
    RowIter::from_file_into(Box::new(file)).project(Some(projection))
}

/// Refuses a row group that would expand beyond bounds; page headers are counted, nothing is decompressed.
fn check_group(file: &SerializedFileReader<File>, index: usize) -> Result<(), ParquetError> {
    let refuse = |what: &str| {
        let reason = format!("row group {index} {what}; write the file with smaller row groups");
        Err(ParquetError::General(reason))
    };
    let group = file.get_row_group(index)?;
    let mut values = 0_usize;
    for column in 0..group.num_columns() {
        if group.metadata().column(column).uncompressed_size() > MOST_GROUP_BYTES {
            return refuse("has a column of more than 2 GiB");
        }
        let mut pages = group.get_column_page_reader(column)?;
        while let Some(page) = pages.peek_next_page()? {
            values = values.saturating_add(page.num_levels.unwrap_or(0));
            if values > MOST_GROUP_VALUES {
                return refuse("holds more than 2^25 values");
            }
            pages.skip_next_page()?;
        }
    }
    Ok(())
}

/// Whether the row reader takes this type: values, groups of them, and lists in the three-level form.
fn is_readable(field: &Type) -> bool {
    if field.is_primitive() {
        return true;
    }
    let info = field.get_basic_info();
    let repeated = info.has_repetition() && info.repetition() == Repetition::REPEATED;
    let list = info.converted_type() == ConvertedType::LIST
        || info.logical_type_ref() == Some(&LogicalType::List);
    let other = info.converted_type() != ConvertedType::NONE || info.logical_type_ref().is_some();
    if repeated || field.get_fields().is_empty() || (other && !list) {
        return false;
    }
    if !list {
        return field.get_fields().iter().all(|inner| is_readable(inner));
    }
    let [elements] = field.get_fields() else {
        return false;
    };
    let of_list = elements.get_basic_info();
    of_list.has_repetition()
        && of_list.repetition() == Repetition::REPEATED
        && of_list.converted_type() == ConvertedType::NONE
        && !elements.is_primitive()
        && elements.get_fields().len() == 1
        && is_readable(&elements.get_fields()[0])
}

/// Bytes of the texts of a field.
fn text_bytes(field: &parquet::record::Field) -> usize {
    use parquet::record::Field;
    match field {
        Field::Str(text) => text.len(),
        Field::Bytes(bytes) => bytes.len(),
        Field::Group(row) => row
            .get_column_iter()
            .map(|(_, field)| text_bytes(field))
            .sum(),
        Field::ListInternal(list) => list.elements().iter().map(text_bytes).sum(),
        _ => 8,
    }
}

fn parquet_error(path: &Path, source: ParquetError) -> TasksError {
    TasksError::Parquet {
        path: path.to_owned(),
        source,
    }
}
