//! JSON values of a text that is not one record per line: an array of records, or records over
//! several lines.
//!
//! The text is split at the brackets and is never in memory as a whole. The parser checks whether a
//! value is JSON.

use std::io::{self, BufRead};

use crate::RecordFault;
use crate::lines::{MAX_LINE, MAX_PASSED_OVER};

/// Splits a text into the texts of its values.
pub(super) struct Values<R> {
    reader: R,
    layout: Layout,
    number: usize,
    limit: usize,
}

/// How values follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Elements of one array, whose opening bracket is still to be read.
    Array,
    /// One value after the other.
    Sequence,
    /// Elements of an array after its first.
    RestOfArray,
    /// Everything was read.
    Done,
}

/// Why a value cannot be used.
#[derive(Debug)]
pub(super) enum ValueFault {
    /// The value with this number, from 1, cannot be used.
    Value(usize, RecordFault),
    /// The text cannot be read further.
    Text(io::Error),
}

/// Why reading stops before the end of a text.
enum Stop {
    Text(io::Error),
    /// The text ends inside the array.
    CutShort,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Text(error)
    }
}

impl<R: BufRead> Values<R> {
    pub(super) fn new(reader: R, layout: Layout) -> Self {
        Self {
            reader,
            layout,
            number: 0,
            limit: MAX_LINE,
        }
    }

    /// The next value's number, from 1, and text; nothing after the end or after an error of the
    /// text.
    pub(super) fn next_value(&mut self) -> Option<Result<(usize, String), ValueFault>> {
        if self.layout == Layout::Done {
            return None;
        }
        let value = self.begin().and_then(|begun| match begun {
            true => Ok(Some(self.value()?)),
            false => Ok(None),
        });
        match value {
            Ok(None) => {
                self.layout = Layout::Done;
                None
            }
            Ok(Some(Ok(text))) => Some(Ok((self.number, text))),
            Ok(Some(Err(fault))) => Some(Err(ValueFault::Value(self.number, fault))),
            Err(stop) => {
                self.layout = Layout::Done;
                let reason = "EOF while parsing an array";
                Some(Err(match stop {
                    Stop::Text(error) => ValueFault::Text(error),
                    Stop::CutShort if self.number == 0 => ValueFault::Text(malformed(reason)),
                    // A truncated text loses its last element, as a file of lines does.
                    Stop::CutShort => {
                        let reason = reason.to_owned();
                        ValueFault::Value(self.number + 1, RecordFault::Json { reason })
                    }
                }))
            }
        }
    }

    /// Reads up to the next value; false at the end.
    fn begin(&mut self) -> Result<bool, Stop> {
        let first = self.layout == Layout::Array;
        if first {
            self.expect(b"[")?;
            self.layout = Layout::RestOfArray;
        }
        let next = self.peek()?;
        if self.layout == Layout::Sequence {
            return Ok(next.is_some());
        }
        match next {
            Some(b']') => {
                self.reader.consume(1);
                match self.peek()? {
                    None => Ok(false),
                    Some(_) => Err(malformed("trailing characters after the array").into()),
                }
            }
            Some(b',') if !first => {
                self.reader.consume(1);
                match self.peek()? {
                    Some(b']') => Err(malformed("trailing comma at the end of the array").into()),
                    Some(_) => Ok(true),
                    None => Err(Stop::CutShort),
                }
            }
            Some(_) if first => Ok(true),
            Some(_) => {
                let reason = format!("expected `,` or `]` after element {}", self.number);
                Err(malformed(&reason).into())
            }
            None => Err(Stop::CutShort),
        }
    }

    fn expect(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.peek()? {
            Some(found) if bytes.contains(&found) => {
                self.reader.consume(1);
                Ok(())
            }
            _ => Err(malformed("expected an array")),
        }
    }

    /// The next byte that is not white space, which is skipped; a byte order mark is white
    /// space.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let is_space = |byte: &u8| byte.is_ascii_whitespace() || b"\xef\xbb\xbf".contains(byte);
            let spaces = buffer.iter().take_while(|byte| is_space(byte)).count();
            let (next, empty) = (buffer.get(spaces).copied(), buffer.is_empty());
            self.reader.consume(spaces);
            if next.is_some() || empty {
                return Ok(next);
            }
        }
    }

    /// Reads one value, which begins here, up to the byte after its end.
    fn value(&mut self) -> io::Result<Result<String, RecordFault>> {
        self.number += 1;
        let (mut text, mut length) = (Vec::new(), 0_u64);
        let mut scanner = Scanner::default();
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                // The parser says what is missing.
                self.layout = Layout::Done;
                break;
            }
            let (taken, ended) = scanner.scan(buffer);
            length += taken as u64;
            if length <= self.limit as u64 {
                text.extend_from_slice(&buffer[..taken]);
            }
            self.reader.consume(taken);
            if ended {
                break;
            }
            if length > MAX_PASSED_OVER {
                let reason = format!(
                    "element {} is longer than {} bytes",
                    self.number, self.limit
                );
                return Err(malformed(&reason));
            }
        }
        if length > self.limit as u64 {
            return Ok(Err(RecordFault::TooLong { limit: self.limit }));
        }
        Ok(String::from_utf8(text).map_err(|_| RecordFault::InvalidUtf8))
    }
}

/// Finds the end of a value.
#[derive(Default)]
struct Scanner {
    depth: u64,
    in_string: bool,
    escaped: bool,
    begun: bool,
}

impl Scanner {
    /// How many of these bytes belong to the value, and whether it ends with them.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return (at + 1, true);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => return (at + 1, true),
                // A number or a word ends before a byte that cannot belong to it.
                b']' | b',' if self.depth == 0 && self.begun => return (at, true),
                byte if byte.is_ascii_whitespace() && self.depth == 0 => return (at, true),
                _ => {}
            }
            self.begun = true;
        }
        (bytes.len(), false)
    }
}

fn malformed(reason: &str) -> io::Error {
    let reason = format!("not the expected JSON: {reason}");
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of a text, or their faults. The reader returns few bytes at a time.
    fn values(text: &[u8], layout: Layout, limit: usize) -> Vec<String> {
        let reader = io::BufReader::with_capacity(3, text);
        let mut values = Values::new(reader, layout);
        values.limit = limit;
        let next = || values.next_value();
        std::iter::from_fn(next)
            .map(|value| match value {
                Ok((_, text)) => text,
                Err(ValueFault::Value(number, fault)) => format!("{number}: {fault}"),
                Err(ValueFault::Text(error)) => error.to_string(),
            })
            .collect()
    }

    #[test]
    fn an_array_is_cut_at_its_elements() {
        let text = b"\xef\xbb\xbf [ {\"a\": \"]},{\\\"\"} ,\n[1,[2]], 3,\"x,\" ,null ]\n ";
        assert_eq!(
            values(text, Layout::Array, 99),
            ["{\"a\": \"]},{\\\"\"}", "[1,[2]]", "3", "\"x,\"", "null"]
        );
        assert!(values(b"[]", Layout::Array, 9).is_empty());
    }

    #[test]
    fn records_may_stand_over_several_lines() {
        let text = b"{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}";
        assert_eq!(
            values(text, Layout::Sequence, 99),
            ["{\n  \"a\": 1\n}", "{\n  \"a\": 2\n}"]
        );
    }

    #[test]
    fn what_is_no_array_is_an_error() {
        for (text, expected) in [
            (b"[".as_slice(), "EOF while parsing an array"),
            (
                b"[{}",
                "2: not the expected JSON: EOF while parsing an array",
            ),
            (
                b"[1,",
                "2: not the expected JSON: EOF while parsing an array",
            ),
            (b"[1,]", "trailing comma"),
            (b"[1 2]", "expected `,` or `]` after element 1"),
            (b"[1]]", "trailing characters"),
            (b"{}", "expected an array"),
        ] {
            let found = values(text, Layout::Array, 99);
            let last = found.last().unwrap();
            assert!(last.contains(expected), "{last}");
        }
    }

    #[test]
    fn a_long_element_is_passed_over() {
        let text = b"[{\"a\": \"123456789012345\"}, {\"a\": 1}, \"\xff\", 2]";
        assert_eq!(
            values(text, Layout::Array, 10),
            [
                "1: line longer than 10 bytes",
                "{\"a\": 1}",
                "3: invalid UTF-8",
                "2"
            ]
        );
    }
}
