//! Rows of a parquet file as records.
//!
//! Files are not trusted: before a row is read, the schema, the number of values and the expansion
//! of every page are checked. A row has at most 16 MiB of text.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Number, Value};

use super::records::Fault;
use super::{footer, pages};
use crate::json::Columns;
use crate::lines::MAX_LINE;
use crate::{RecordFault, TasksError};

/// Maximum number of values in all columns of one row group.
const MAX_GROUP_VALUES: usize = 1 << 25;
/// Maximum number of bytes that a column of one row group may expand to, as the file itself states
/// it.
const MAX_GROUP_BYTES: i64 = 2 << 30;
/// The only key of the object that replaces bytes that are not text.
const BINARY: &str = "\0binary";
/// The only key of the object that replaces a column of an unsupported type.
const UNREADABLE: &str = "\0unreadable";

/// The rows of one file.
pub(super) struct Rows {
    path: PathBuf,
    rows: RowIter<'static>,
    /// Columns of types that are not read.
    unreadable: Vec<String>,
    number: usize,
}

impl Rows {
    /// Opens a file and checks it.
    ///
    /// # Errors
    /// [`TasksError::Parquet`].
    pub(super) fn open(path: &Path) -> Result<Self, TasksError> {
        let (rows, unreadable) =
            unpanicked(|| open_rows(path)).map_err(|source| parquet_error(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            rows,
            unreadable,
            number: 0,
        })
    }

    /// The next row's number, from 1, and columns.
    pub(super) fn next_row(&mut self) -> Option<Result<(usize, Columns), Fault>> {
        let row = unpanicked(|| self.rows.next().transpose());
        self.number += 1;
        let row = match row {
            Ok(row) => row?,
            Err(source) => return Some(Err(Fault::File(parquet_error(&self.path, source)))),
        };
        let texts = row.get_column_iter().map(|(_, field)| text_bytes(field));
        if texts.sum::<usize>() > MAX_LINE {
            let fault = RecordFault::TooLong { limit: MAX_LINE };
            return Some(Err(Fault::Record(self.number, fault)));
        }
        let mut columns = Columns::default();
        for (name, field) in row.get_column_iter() {
            let value = value(field, &mut columns.non_finite);
            columns.values.insert(name.clone(), value);
        }
        for name in &self.unreadable {
            columns.values.insert(name.clone(), marker(UNREADABLE));
        }
        Some(Ok((self.number, columns)))
    }
}

/// The problem of a value that replaces unsupported content.
pub(super) fn problem_of_marker(value: &Value) -> Option<&'static str> {
    let object = value.as_object()?;
    if object.contains_key(BINARY) {
        return Some("holds bytes that are not UTF-8 text");
    }
    let unreadable = object.contains_key(UNREADABLE);
    unreadable.then_some("has a parquet type that is not read: a map, or a list in an old layout")
}

fn marker(kind: &str) -> Value {
    let object: Map<String, Value> = [(kind.to_owned(), Value::Null)].into_iter().collect();
    Value::Object(object)
}

/// A field as JSON; numbers that are not finite are null and counted.
fn value(field: &Field, non_finite: &mut usize) -> Value {
    let mut float = |number: Option<Number>| match number {
        Some(number) => Value::Number(number),
        None => {
            *non_finite += 1;
            Value::Null
        }
    };
    match field {
        // The shortest digits of the 32-bit number, not those of the equal 64-bit number.
        Field::Float(number) => float(shortest(&number.to_string())),
        Field::Float16(number) => float(shortest(&number.to_string())),
        Field::Double(number) => float(Number::from_f64(*number)),
        // A decimal without digits after the point is written with the point.
        Field::Decimal(_) => match field.to_json_value() {
            Value::String(digits) => Value::String(digits.trim_end_matches('.').to_owned()),
            other => other,
        },
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => marker(BINARY),
        },
        Field::Group(row) => {
            let mut object = Map::new();
            for (name, field) in row.get_column_iter() {
                object.insert(name.clone(), value(field, non_finite));
            }
            Value::Object(object)
        }
        Field::ListInternal(list) => {
            let elements = list.elements().iter();
            Value::Array(elements.map(|field| value(field, non_finite)).collect())
        }
        other => other.to_json_value(),
    }
}

/// A finite number of few digits as a 64-bit number.
fn shortest(digits: &str) -> Option<Number> {
    Number::from_f64(digits.parse().ok()?)
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is caught here and returned as an error; a panic hook need not
/// report it.
pub fn catches_panics() -> bool {
    CATCHING.get()
}

/// Runs the parquet reader, which panics on some damaged files, and returns its panics as errors.
/// Reading ends with the first error, so a reader that panicked is not used again.
fn unpanicked<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    CATCHING.set(true);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    CATCHING.set(false);
    caught.unwrap_or_else(|_| {
        let reason = "the file is damaged: its reader gave up".to_owned();
        Err(ParquetError::General(reason))
    })
}

/// The rows of a parquet file, and the names of the columns that are left out because of their
/// types.
fn open_rows(path: &Path) -> Result<(RowIter<'static>, Vec<String>), ParquetError> {
    let mut file = File::open(path)?;
    footer::check(&mut file)?;
    let reader = SerializedFileReader::new(file.try_clone()?)?;
    let schema = reader.metadata().file_metadata().schema();
    let (fields, left_out): (Vec<TypePtr>, Vec<TypePtr>) = schema
        .get_fields()
        .iter()
        .cloned()
        .partition(|field| is_readable(field));
    let projection = Type::group_type_builder(schema.name())
        .with_fields(fields)
        .build()?;
    for group in 0..reader.num_row_groups() {
        check_group(&reader, &mut file, group)?;
    }
    let left_out = left_out.iter().map(|field| field.name().to_owned());
    let left_out = left_out.collect();
    let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection))?;
    Ok((rows, left_out))
}

/// Fails for a row group that would expand beyond the bounds.
fn check_group(
    reader: &SerializedFileReader<File>,
    file: &mut File,
    index: usize,
) -> Result<(), ParquetError> {
    let refuse = |reason: &str| {
        let reason = format!("row group {index} {reason}; write the file with smaller row groups");
        Err(ParquetError::General(reason))
    };
    let group = reader.get_row_group(index)?;
    let mut values = 0_usize;
    for column in 0..group.num_columns() {
        let chunk = group.metadata().column(column);
        check_codec(chunk)?;
        if chunk.uncompressed_size() > MAX_GROUP_BYTES {
            return refuse("has a column of more than 2 GiB");
        }
        let mut pages = group.get_column_page_reader(column)?;
        while let Some(page) = pages.peek_next_page()? {
            values = values.saturating_add(page.num_levels.unwrap_or(0));
            if values > MAX_GROUP_VALUES {
                return refuse("holds more than 2^25 values");
            }
            pages.skip_next_page()?;
        }
        pages::check(file, chunk)?;
    }
    Ok(())
}

/// Fails for an unsupported codec; the error names it.
fn check_codec(chunk: &ColumnChunkMetaData) -> Result<(), ParquetError> {
    match chunk.compression() {
        Compression::LZO => Err(ParquetError::General(
            "it is compressed with LZO, which is not read; snappy, gzip, brotli, lz4 and zstd are"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Whether the row reader takes this type: values, groups of them, and lists in the three-level
/// form.
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
fn text_bytes(field: &Field) -> usize {
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
