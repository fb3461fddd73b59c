//! The report on a file's records: how many were kept, and which were left out and why.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::RecordFault;

/// Maximum number of records that a report names for each reason.
const MAX_NAMED: usize = 3;
/// Maximum number of reasons and of notes that are counted separately; hostile files could have one
/// per record.
const MAX_REASONS: usize = 32;
/// Maximum length of a reason or of a record's details, in characters.
const MAX_TEXT: usize = 400;
/// The reason under which further ones are counted.
const OTHER: &str = "other reasons";

/// The report on a file's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Records kept.
    pub loaded: usize,
    /// Records left out, by reason: `empty question`, `no answer`, `not the expected JSON`, ...
    pub skipped: BTreeMap<String, Counted>,
    /// Records of which some content was ignored or changed, by the note on it.
    pub notes: BTreeMap<String, Counted>,
}

/// The records of one reason or note.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Their number.
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
        counted(&mut self.skipped, kind).add(place, detail);
    }

    /// Counts the record of this number in a file as left out.
    pub(crate) fn skip_record(&mut self, path: &Path, number: usize, fault: &RecordFault) {
        self.skip(Place { path, number }, fault);
    }

    /// Counts a kept record under a note.
    pub(super) fn note(&mut self, place: Place<'_>, note: String) {
        counted(&mut self.notes, note).add(place, None);
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
            Some(detail) => format!("{place}: {}", shortened(&detail)),
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

/// The records that are counted under a reason.
fn counted(reasons: &mut BTreeMap<String, Counted>, reason: String) -> &mut Counted {
    let reason = shortened(&reason);
    let is_known = reasons.contains_key(&reason) || reasons.len() < MAX_REASONS;
    let reason = if is_known { reason } else { OTHER.to_owned() };
    reasons.entry(reason).or_default()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
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

    #[test]
    fn reasons_of_hostile_files_are_bounded() {
        let mut report = LoadReport::default();
        for number in 0..100 {
            let fault = RecordFault::Column {
                column: number.to_string(),
                problem: "ä".repeat(1000),
            };
            let path = Path::new("a.jsonl");
            report.skip(Place { path, number }, &fault);
        }
        assert_eq!(report.skipped.len(), 33);
        assert_eq!(report.skipped["other reasons"].count, 68);
        let length = |text: &String| text.chars().count();
        assert_eq!(report.skipped.keys().map(length).max(), Some(403));
    }
}
