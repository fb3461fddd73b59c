//! What became of a file's records: how many were kept, which were left out and why.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::RecordFault;

/// Number of records that a report names for each reason.
const MAX_NAMED: usize = 3;

/// What became of a file's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Records kept.
    pub loaded: usize,
    /// Records left out, by reason: `empty question`, `no answer`, `not the expected JSON`, ...
    pub skipped: BTreeMap<String, Counted>,
    /// Records kept of which something was not used or was changed, by what it is.
    pub notes: BTreeMap<String, Counted>,
}

/// Records that have something in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// How many there are.
    pub count: usize,
    /// The first three: file name and number of the record, and details where the records differ in
    /// them.
    pub first: Vec<String>,
}

/// A record by its file and its number in the file, from 1.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) path: &'p Path,
    pub(super) number: usize,
}

impl LoadReport {
    /// One line for every reason and every note: `left out 2: no answer (train.jsonl:3,
    /// train.jsonl:9)`.
    pub fn lines(&self) -> Vec<String> {
        let skipped = self.skipped.iter();
        let skipped =
            skipped.map(|(reason, records)| format!("left out {}", records.described(reason)));
        let notes = self.notes.iter();
        let notes = notes.map(|(note, records)| format!("note for {}", records.described(note)));
        skipped.chain(notes).collect()
    }

    /// Counts a record that is left out.
    pub(super) fn skip(&mut self, place: Place<'_>, fault: &RecordFault) {
        let (kind, detail) = (fault.kind(), fault.to_string());
        let detail = (detail != kind).then_some(detail);
        let counted = self.skipped.entry(kind).or_default();
        counted.add(place, detail);
    }

    /// Counts the record of this number in a file as left out.
    pub(crate) fn skip_record(&mut self, path: &Path, number: usize, fault: &RecordFault) {
        self.skip(Place { path, number }, fault);
    }

    /// Counts a record that is kept and has something worth a note.
    pub(super) fn note(&mut self, place: Place<'_>, note: String) {
        self.notes.entry(note).or_default().add(place, None);
    }

    /// The reasons of all records that were left out, in one line.
    pub(crate) fn reasons(&self) -> String {
        let reasons = self.skipped.iter();
        let reasons = reasons.map(|(reason, records)| records.described(reason));
        reasons.collect::<Vec<_>>().join("; ")
    }
}

impl Counted {
    fn add(&mut self, place: Place<'_>, detail: Option<String>) {
        self.count += 1;
        if self.first.len() == MAX_NAMED {
            return;
        }
        let name = place.path.file_name().unwrap_or(place.path.as_os_str());
        let place = format!("{}:{}", name.to_string_lossy(), place.number);
        self.first.push(match detail {
            Some(detail) => format!("{place}: {detail}"),
            None => place,
        });
    }

    /// `2: reason (first, second)`.
    fn described(&self, reason: &str) -> String {
        let more = if self.count > self.first.len() {
            ", ..."
        } else {
            ""
        };
        format!("{}: {reason} ({}{more})", self.count, self.first.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_and_the_first_named() {
        let mut report = LoadReport::default();
        for number in 1..=5 {
            let path = Path::new("runs/a.jsonl");
            report.skip(Place { path, number }, &RecordFault::EmptyQuestion);
        }
        let id = "x".to_owned();
        let path = Path::new("b.jsonl");
        let place = Place { path, number: 9 };
        report.skip(place, &RecordFault::DuplicateId { id });
        report.note(place, "something".into());
        assert_eq!(
            report.lines(),
            [
                "left out 5: empty question (a.jsonl:1, a.jsonl:2, a.jsonl:3, ...)",
                "left out 1: identifier occurs twice (b.jsonl:9: identifier `x` occurs twice)",
                "note for 1: something (b.jsonl:9)"
            ]
        );
    }
}
