//! Lines of a text file, one at a time, bounded in length and checked to be UTF-8.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use crate::text_file::{self, TextReader};
use crate::{RecordFault, TasksError};

/// Maximum length of a line, in bytes.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;
/// Maximum number of bytes that are skipped to find the end of a line that is too long.
pub(crate) const MAX_PASSED_OVER: u64 = 256 * 1024 * 1024;

/// Non-blank lines with their numbers, from 1.
///
/// A line that is too long or not UTF-8 is an error, after which the next lines can be read. An
/// error of the file itself ends the reading.
pub(crate) struct Lines<R> {
    path: PathBuf,
    reader: R,
    number: usize,
    limit: usize,
    max_passed_over: u64,
    /// Whether the end was reached, or the file could not be read.
    done: bool,
}

/// Why a line cannot be used.
#[derive(Debug)]
pub(crate) enum LineFault {
    /// The line with this number cannot be used.
    Line(usize, RecordFault),
    /// The file cannot be read further.
    File(TasksError),
}

impl Lines<TextReader> {
    /// Opens a text file, which may be compressed.
    pub(crate) fn open(path: &Path) -> Result<Self, TasksError> {
        Ok(Self::new(path, text_file::open(path)?))
    }
}

impl<R: BufRead> Lines<R> {
    /// Reads from an open reader; `path` only names it in errors.
    pub(crate) fn new(path: &Path, reader: R) -> Self {
        Self {
            path: path.to_owned(),
            reader,
            number: 0,
            limit: MAX_LINE,
            max_passed_over: MAX_PASSED_OVER,
            done: false,
        }
    }

    /// The next non-blank line.
    pub(crate) fn next_line(&mut self) -> Option<Result<(usize, String), LineFault>> {
        while !self.done {
            match self.read_line() {
                Ok(None) => self.done = true,
                Ok(Some(line)) => {
                    let line = match self.number {
                        1 => line.trim_start_matches('\u{feff}').to_owned(),
                        _ => line,
                    };
                    if !line.trim().is_empty() {
                        return Some(Ok((self.number, line)));
                    }
                }
                Err(fault) => {
                    self.done = matches!(fault, LineFault::File(_));
                    return Some(Err(fault));
                }
            }
        }
        None
    }

    fn read_line(&mut self) -> Result<Option<String>, LineFault> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader)
            .take(self.limit as u64 + 2)
            .read_until(b'\n', &mut bytes)
            .map_err(|source| self.unreadable(source))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let ended = bytes.last() == Some(&b'\n');
        if ended {
            bytes.pop();
        }
        if bytes.len() > self.limit {
            if !ended {
                self.pass_over_line()?;
            }
            let limit = self.limit;
            return Err(LineFault::Line(self.number, RecordFault::TooLong { limit }));
        }
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| LineFault::Line(self.number, RecordFault::InvalidUtf8))?;
        Ok(Some(text))
    }

    /// Reads to the end of a line without keeping it.
    fn pass_over_line(&mut self) -> Result<(), LineFault> {
        let mut left = self.max_passed_over;
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(source) => return Err(self.unreadable(source)),
            };
            let newline = buffer.iter().position(|&byte| byte == b'\n');
            let passed = newline.map_or(buffer.len(), |at| at + 1);
            let at_end = newline.is_some() || buffer.is_empty();
            self.reader.consume(passed);
            if at_end {
                return Ok(());
            }
            left = match left.checked_sub(passed as u64) {
                Some(left) => left,
                None => {
                    return Err(LineFault::File(TasksError::LineTooLong {
                        path: self.path.clone(),
                        line: self.number,
                        limit: self.limit,
                    }));
                }
            };
        }
    }

    fn unreadable(&self, source: io::Error) -> LineFault {
        LineFault::File(TasksError::Read {
            path: self.path.clone(),
            source,
        })
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<(usize, String), TasksError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.next_line()?;
        Some(line.map_err(|fault| fault.error(&self.path)))
    }
}

impl LineFault {
    /// The fault as an error that names the file.
    pub(crate) fn error(self, path: &Path) -> TasksError {
        match self {
            Self::File(error) => error,
            Self::Line(number, fault) => TasksError::Record {
                path: path.to_owned(),
                number,
                fault,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], limit: usize) -> Vec<Result<(usize, String), TasksError>> {
        let mut lines = Lines::new(Path::new("data.jsonl"), bytes);
        lines.limit = limit;
        lines.take(5).collect()
    }

    #[test]
    fn blank_lines_are_counted_and_skipped() {
        let lines: Vec<_> = read("\u{feff}a\n\n \r\nb".as_bytes(), 9)
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(lines, [(1, "a".to_string()), (4, "b".to_string())]);
    }

    #[test]
    fn a_bad_line_is_named_and_skipped() {
        let lines = read(b"ok\n\xff\xfe\n1234567890\nend\n", 9);
        let told: Vec<String> = lines
            .into_iter()
            .map(|line| line.map_or_else(|error| error.to_string(), |(_, line)| line))
            .collect();
        let expected = [
            "ok",
            "data.jsonl:2: invalid UTF-8",
            "data.jsonl:3: line longer than 9 bytes",
            "end",
        ];
        assert_eq!(told, expected);
        assert!(read(b"12345", 5)[0].is_ok());
        assert!(read(b"123456", 5)[0].is_err());
    }

    #[test]
    fn a_line_without_end_ends_the_file() {
        let endless = io::BufReader::new(io::repeat(b'0'));
        let mut lines = Lines::new(Path::new("data.jsonl"), endless);
        (lines.limit, lines.max_passed_over) = (10, 1 << 20);
        let error = lines.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "data.jsonl:1: line longer than 10 bytes");
        assert!(lines.next().is_none());
    }
}
