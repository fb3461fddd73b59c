//! Lines of a text file, one at a time, bounded in length and checked to be UTF-8.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::TasksError;

/// The longest line that is read, in bytes.
pub(crate) const LONGEST_LINE: usize = 16 * 1024 * 1024;

/// Non-blank lines with their numbers, from 1; nothing after an error.
pub(crate) struct Lines<R> {
    path: PathBuf,
    reader: R,
    number: usize,
    limit: usize,
    /// After an error or the end: what follows a broken line is not looked at.
    done: bool,
}

impl Lines<BufReader<File>> {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Self, TasksError> {
        let file = File::open(path).map_err(|source| TasksError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::new(path, BufReader::with_capacity(1 << 18, file)))
    }
}

impl<R: BufRead> Lines<R> {
    /// Reads from an open reader; `path` only names it in errors.
    pub(crate) fn new(path: &Path, reader: R) -> Self {
        Self {
            path: path.to_owned(),
            reader,
            number: 0,
            limit: LONGEST_LINE,
            done: false,
        }
    }

    fn read_line(&mut self) -> Result<Option<String>, TasksError> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader)
            .take(self.limit as u64 + 2)
            .read_until(b'\n', &mut bytes)
            .map_err(|source| TasksError::Read {
                path: self.path.clone(),
                source,
            })?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.len() > self.limit {
            return Err(TasksError::LineTooLong {
                path: self.path.clone(),
                line: self.number,
                limit: self.limit,
            });
        }
        let text = String::from_utf8(bytes).map_err(|_| TasksError::InvalidUtf8 {
            path: self.path.clone(),
            line: self.number,
        })?;
        Ok(Some(text))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<(usize, String), TasksError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            match self.read_line() {
                Ok(None) => self.done = true,
                Ok(Some(line)) => {
                    let line = if self.number == 1 {
                        line.trim_start_matches('\u{feff}').to_owned()
                    } else {
                        line
                    };
                    if !line.trim().is_empty() {
                        return Some(Ok((self.number, line)));
                    }
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        None
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
    fn invalid_utf8_and_long_lines_name_the_line() {
        let error = read(b"ok\n\xff\xfe\n", 9).remove(1).unwrap_err();
        assert_eq!(error.to_string(), "data.jsonl:2: invalid UTF-8");
        let error = read(b"12345\n123456\n", 5).remove(1).unwrap_err();
        assert_eq!(error.to_string(), "data.jsonl:2: line longer than 5 bytes");
        assert!(read(b"12345", 5)[0].is_ok());
        assert_eq!(read(b"\xff\nok\n", 9).len(), 1);
    }
}
