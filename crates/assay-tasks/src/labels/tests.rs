use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::TasksError;

struct World {
    dir: TempDir,
}

impl World {
    fn new(lines: &[u8]) -> Self {
        let world = Self {
            dir: TempDir::new().unwrap(),
        };
        fs::write(world.path(), lines).unwrap();
        world
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("labels.jsonl")
    }

    fn read(&self) -> Labels {
        read_labels(&self.path()).unwrap()
    }

    fn open(&self) -> OpenedLabels {
        LabelFile::open(&self.path()).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }
}

fn error(start: usize, end: usize) -> Option<FirstError> {
    let token = Some(start);
    Some(FirstError { start, end, token })
}

fn label(text: &str, first_error: Option<FirstError>, annotator: &str) -> Label {
    let label = Label {
        question: "1 + 1?".to_owned(),
        text: text.to_owned(),
        first_error,
        annotator: annotator.to_owned(),
        time: 7,
        ..Label::default()
    };
    label.checked().unwrap()
}

fn line(text: &str, annotator: &str, first_error: serde_json::Value) -> String {
    json!({ "question": "q", "text": text, "first_error": first_error, "annotator": annotator })
        .to_string()
        + "\n"
}

#[test]
fn a_label_is_one_line_as_documented() {
    let world = World::new(b"");
    let file = world.open().file;
    file.append(&label("é = 3", error(5, 6), " Ada ")).unwrap();
    let written = String::from_utf8(world.bytes()).unwrap();
    let expected = format!(
        r#"{{"trace":"{}","question":"1 + 1?","text":"é = 3","first_error":{{"start":5,"end":6,"token":5}},"annotator":"Ada","time":7}}"#,
        trace_key(" 1 + 1?\n", "é = 3")
    );
    assert_eq!(written, expected + "\n");
    assert_eq!(world.read().labels, [label("é = 3", error(5, 6), "Ada")]);
}

#[test]
fn the_last_label_of_an_annotator_counts() {
    let world = World::new(b"");
    let file = world.open().file;
    let withdrawn = Label {
        withdrawn: true,
        ..label("b", None, "Ada")
    };
    for label in [
        label("a", error(0, 1), "Ada"),
        label("b", error(0, 1), "Ada"),
        label("a", None, "Bob"),
        label("a", None, "Ada"),
        withdrawn,
    ] {
        file.append(&label).unwrap();
    }
    let read = world.read();
    assert_eq!(
        read.labels,
        [label("a", None, "Ada"), label("a", None, "Bob")]
    );
    assert_eq!((read.replaced, read.withdrawn), (1, 1));
    let names = |file: &LabelFile| -> Vec<String> {
        let marks = file.marks(9).into_iter();
        marks.map(|mark| mark.annotator).collect()
    };
    assert_eq!(names(&file), ["Ada", "Bob"], "the newest first");
    assert_eq!(file.marks(1).len(), 1);
    drop(file);
    let again = world.open().file;
    assert_eq!((names(&again).len(), again.count()), (2, 2));
}

#[test]
fn records_that_cannot_be_used_are_named() {
    let good = line("3 + 4", "Ada", json!({ "start": 0, "end": 1 }));
    let long = "x".repeat(MAX_LABEL_BYTES);
    for (bad, reason) in [
        ("garbage".to_owned(), "not the expected JSON"),
        ("[1, 2]".to_owned(), "not the expected JSON"),
        ("{\"text\": \"half".to_owned(), "not the expected JSON"),
        (
            line(&long, "Ada", json!(null)),
            "line longer than 1048576 bytes",
        ),
        (
            line("é", "A", json!({ "start": 1, "end": 2 })),
            "cuts a character",
        ),
        (
            line("abc", "A", json!({ "start": 1, "end": 4 })),
            "ends past the text",
        ),
        (
            line("abc", "A", json!({ "start": 2, "end": 1 })),
            "ends before it starts",
        ),
        (
            line("abc", "A", json!({ "start": 1, "end": 1 })),
            "is empty",
        ),
        (
            line("abc", "A", json!({ "start": -1, "end": 1 })),
            "whole numbers",
        ),
        (
            line("abc", "A", json!({ "start": 0.5, "end": 1 })),
            "whole numbers",
        ),
        (
            line("abc", "A", json!({ "start": 1e300, "end": 1 })),
            "whole numbers",
        ),
        (
            line("abc", "A", json!("1")),
            "is a string, expected an object or null",
        ),
        (line(" ", "A", json!(null)), "`text` is missing or empty"),
        (
            line("abc", &"n".repeat(65), json!(null)),
            "longer than 64 characters",
        ),
        (
            line("abc", "a\u{7}", json!(null)),
            "holds a control character",
        ),
        (line("abc", "A", json!("?")).replace("\"?\"", "NaN"), "NaN"),
        (
            r#"{"question": "q", "text": "t"}"#.to_owned(),
            "`first_error` is missing",
        ),
        (
            r#"{"question": 7, "text": "t", "first_error": null}"#.to_owned(),
            "`question` is a number",
        ),
    ] {
        let world = World::new(format!("{good}{}\n{good}", bad.trim_end()).as_bytes());
        let read = world.read();
        let said = read.notes().join("\n");
        assert_eq!((read.labels.len(), read.replaced), (1, 1), "{said}");
        assert!(said.contains(reason), "{reason}: {said}");
        assert!(said.contains("labels.jsonl:2"), "{reason}: {said}");
    }
    let world = World::new(&[good.as_bytes(), b"\xff\xfe\n", good.as_bytes()].concat());
    assert!(world.read().notes()[0].contains("invalid UTF-8 (labels.jsonl:2)"));
}

#[test]
fn the_end_of_a_turn_can_be_wrong() {
    let world = World::new(line("abc", "A", json!({ "start": 3, "end": 3 })).as_bytes());
    assert_eq!(world.read().labels[0].first_error.unwrap().start, 3);
}

#[test]
fn half_a_line_is_removed_when_opened() {
    let world = World::new(b"");
    let file = world.open().file;
    file.append(&label("a", None, "Ada")).unwrap();
    let whole = world.bytes();
    file.append(&label("b", None, "Ada")).unwrap();
    drop(file);
    let both = world.bytes();
    for cut in whole.len() + 1..both.len() - 1 {
        fs::write(world.path(), &both[..cut]).unwrap();
        let opened = world.open();
        let removed = RepairedTail::Removed((cut - whole.len()) as u64);
        assert_eq!(opened.repaired, Some(removed));
        assert_eq!(opened.labels.labels.len(), 1);
        assert!(opened.labels.report.skipped.is_empty());
        assert_eq!(world.bytes(), whole);
        opened.file.append(&label("b", None, "Ada")).unwrap();
        assert_eq!(world.bytes(), both);
    }
    // Only the line end is missing, or assay did not write the line.
    for open in [&both[..both.len() - 1], b"{\"trace\":\"0\"}\nnot ours"] {
        let whole = [&both[..], open].concat();
        fs::write(world.path(), &whole).unwrap();
        let opened = world.open();
        assert_eq!(opened.repaired, Some(RepairedTail::Ended));
        assert_eq!(world.bytes(), [&whole[..], b"\n"].concat());
    }
    // The first line of all.
    fs::write(world.path(), &whole[..20]).unwrap();
    assert_eq!(world.open().repaired, Some(RepairedTail::Removed(20)));
    assert_eq!(world.bytes(), b"");
}

#[test]
fn a_failed_append_leaves_nothing_behind() {
    let world = World::new(b"");
    let mut file = world.open().file;
    file.append(&label("a", None, "Ada")).unwrap();
    let before = world.bytes();
    file.limit = before.len() as u64 + 20;
    let full = file.append(&label("b", None, "Ada")).unwrap_err();
    assert!(matches!(full, TasksError::LabelsFull { .. }), "{full}");
    let long = file.append(&label(&"b".repeat(MAX_LABEL_BYTES), None, "Ada"));
    assert!(matches!(long, Err(TasksError::LabelTooLong { .. })));
    assert_eq!((world.bytes(), file.count()), (before.clone(), 1));
    file.limit = MAX_LABELS_BYTES;
    // An incomplete line that a failed write could not remove is removed before the next write.
    fs::write(world.path(), [&before[..], b"{\"tra"].concat()).unwrap();
    file.tear(before.len() as u64);
    file.append(&label("b", None, "Ada")).unwrap();
    assert_eq!(world.read().labels.len(), 2);
    assert!(world.read().report.skipped.is_empty());
}

#[test]
fn one_process_writes_at_a_time() {
    let world = World::new(b"");
    let first = world.open();
    let second = LabelFile::open(&world.path()).unwrap_err();
    assert!(matches!(second, TasksError::LabelsInUse { .. }), "{second}");
    drop(first);
    world.open();
}

#[test]
fn other_files_are_not_appended_to() {
    let problem = b"{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"q\"}";
    for other in [&problem[..], b"\x1f\x8b\x08", b"[\n{}]", b"PAR1", b"a note"] {
        let world = World::new(other);
        let said = LabelFile::open(&world.path()).unwrap_err().to_string();
        assert!(said.contains("labels.jsonl"), "{said}");
        assert_eq!(world.bytes(), other, "it is as it was");
    }
    let missing = PathBuf::from("/nowhere/labels.jsonl");
    assert!(matches!(
        LabelFile::open(&missing),
        Err(TasksError::Write { .. })
    ));
}

#[test]
fn most_annotators_decide_on_a_trace() {
    let lines = [
        ("abcdef", "A", json!({ "start": 4, "end": 5 })),
        ("abcdef", "B", json!({ "start": 1, "end": 2 })),
        ("abcdef", "C", json!(null)),
        ("x", "A", json!(null)),
        ("y", "A", json!(null)),
        ("y", "B", json!({ "start": 0, "end": 1 })),
        ("uvw", "A", json!({ "start": 2, "end": 3 })),
        ("uvw", "B", json!({ "start": 0, "end": 1 })),
        ("uvw", "C", json!({ "start": 1, "end": 2 })),
    ];
    let lines = lines.map(|(text, annotator, error)| line(text, annotator, error));
    let world = World::new(lines.concat().as_bytes());
    let labels = world.read();
    let consensus = labels.consensus();
    let told = consensus.traces.iter().map(|trace| {
        let start = trace.first_error.map(|error| error.start);
        (trace.text, start, trace.annotators)
    });
    let told: Vec<(&str, Option<usize>, usize)> = told.collect();
    assert_eq!(
        told,
        [("abcdef", Some(1), 3), ("x", None, 1), ("uvw", Some(1), 3)]
    );
    assert_eq!(consensus.undecided, 1);
}

#[test]
fn a_mark_stands_where_its_text_is_unchanged() {
    let mark = error(4, 5).unwrap();
    assert!(mark.stands_in("abc d\n#### 7", "abc d\nThe answer is 7"));
    assert!(!mark.stands_in("abc d", "abc e"));
    assert!(!mark.stands_in("abc d", "abc"));
    assert!(!mark.stands_in("abc", "abc d"));
}

#[test]
fn files_of_labels_are_recognised() {
    for (lines, expected) in [
        (line("a", "A", json!(null)), true),
        (format!("garbage\n{}", line("a", "A", json!(null))), true),
        ("{\"id\": 1, \"text\": \"t\"}\n".to_owned(), false),
        (String::new(), false),
    ] {
        let world = World::new(lines.as_bytes());
        assert_eq!(holds_labels(&world.path()).unwrap(), expected, "{lines}");
    }
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let world = World::new(&bytes);
        let _ = read_labels(&world.path());
        let _ = LabelFile::open(&world.path());
    }

    #[test]
    fn accepted_ranges_cut_no_character(
        text in "[aé😀\n]{1,8}", start in 0usize..40, length in 0usize..40,
    ) {
        let range = json!({ "start": start, "end": start + length });
        let world = World::new(line(&text, "A", range).as_bytes());
        for label in world.read().labels {
            let error = label.first_error.unwrap();
            prop_assert!(label.text.get(error.start..error.end).is_some());
        }
    }
}
