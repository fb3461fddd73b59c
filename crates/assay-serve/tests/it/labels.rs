//! Labels that people make: stored in the file, listed, and refused if invalid.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use assay_serve::{Limits, ServeSettings};
use assay_tasks::labels::{LabelFile, read_labels};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{answered, get, message, post, refused};
use crate::world::{Running, models};

struct World {
    dir: TempDir,
    server: Option<Running>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            dir: TempDir::new().unwrap(),
            server: None,
        };
        world.start();
        world
    }

    /// A server, after an earlier one has ended.
    fn start(&mut self) {
        self.server = None;
        // The last tasks of the earlier server may still hold the file for a moment.
        let opened = (0..200).find_map(|_| {
            let opened = LabelFile::open(&self.path()).ok();
            if opened.is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened
        });
        let opened = opened.unwrap();
        let settings = ServeSettings {
            labels: Some(Arc::new(opened.file)),
            limits: Limits {
                body_bytes: 4000,
                text_bytes: 1000,
                ..Limits::default()
            },
            ..ServeSettings::default()
        };
        self.server = Some(Running::new(models(None), settings));
    }

    fn server(&self) -> &Running {
        self.server.as_ref().unwrap()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("labels.jsonl")
    }

    fn listed(&self) -> Value {
        get(self.server(), "/v1/labels").json()
    }
}

/// A label of a text of the arithmetic task.
fn label(change: Value) -> Value {
    let mut label = json!({
        "question": "1+1=",
        "text": "1+1=3",
        "verdict": "wrong",
        "first_error": { "start": 4, "end": 5, "token": 4 },
        "annotator": "Ada",
    });
    for (name, value) in change.as_object().unwrap() {
        label[name] = value.clone();
    }
    label
}

#[test]
fn labels_are_kept_and_listed_again() {
    let mut world = World::new();
    let listed = world.listed();
    assert_eq!(
        (&listed["enabled"], &listed["total"]),
        (&json!(true), &json!(0))
    );
    let rewards = json!({ "question": "1+1=", "text": "1+1=3" });
    let scored = answered(world.server(), "/v1/rewards", &rewards)["data"][0].clone();
    let text = scored["text"].as_str().unwrap();
    let (start, end) = (&scored["offsets"][1][0], &scored["offsets"][1][1]);
    let second = json!({ "start": start, "end": end, "token": 1 });
    let wrong = label(json!({ "text": text, "first_error": second }));
    let kept = answered(world.server(), "/v1/labels", &wrong);
    assert_eq!(kept["trace"], scored["trace"], "one name for one text");
    let right =
        json!({ "text": text, "verdict": "correct", "first_error": null, "annotator": "Bob" });
    answered(world.server(), "/v1/labels", &label(right));
    let read = read_labels(&world.path()).unwrap().labels;
    assert_eq!(read.len(), 2);
    assert_eq!(json!(read[0].first_error), second);
    assert_eq!(
        (read[1].first_error, read[1].annotator.as_str()),
        (None, "Bob")
    );
    assert!(read[0].time > 1_700_000_000);
    let listed = world.listed();
    assert_eq!(listed["data"][0]["annotator"], "Bob", "the newest first");
    assert_eq!(listed["data"][1], kept);
    world.start();
    assert_eq!(world.listed()["total"], 2, "as before the restart");
    let taken_back = json!({ "text": text, "verdict": "withdrawn", "first_error": null });
    let kept = answered(world.server(), "/v1/labels", &label(taken_back));
    assert_eq!(kept["verdict"], "withdrawn");
    assert_eq!(world.listed()["total"], 1);
    assert_eq!(fs::read_to_string(world.path()).unwrap().lines().count(), 3);
}

#[test]
fn without_a_file_labels_are_refused() {
    let server = Running::default_of(models(None));
    let refusal = refused(&server, "/v1/labels", &label(json!({})));
    assert_eq!(refusal, (404, "labels_off".to_owned(), Value::Null));
    let listed = get(&server, "/v1/labels").json();
    assert_eq!(
        (&listed["enabled"], &listed["data"]),
        (&json!(false), &json!([]))
    );
}

#[test]
fn labels_that_cannot_be_used_are_refused() {
    let world = World::new();
    let range = |start: usize, end: usize| json!({ "first_error": { "start": start, "end": end } });
    for (change, expected) in [
        (json!({ "annotator": " " }), "`annotator`: is empty"),
        (
            json!({ "annotator": "a".repeat(65) }),
            "`annotator`: is longer than 64",
        ),
        (json!({ "text": "" }), "`text`: is missing or empty"),
        (
            json!({ "question": "\n" }),
            "`question`: is missing or empty",
        ),
        (json!({ "first_error": null }), "`first_error`: is missing"),
        (
            json!({ "verdict": "correct" }),
            "`first_error`: goes only with",
        ),
        (json!({ "verdict": "maybe" }), "`verdict`: expected"),
        (range(4, 6), "`first_error`: ends past the text"),
        (range(5, 4), "`first_error`: ends before it starts"),
        (
            json!({ "text": "1+1=é", "first_error": { "start": 5, "end": 6 } }),
            "`first_error`: cuts a character",
        ),
        (
            json!({ "first_error": { "start": -1, "end": 6 } }),
            "`first_error.start`",
        ),
        (
            json!({ "text": "1".repeat(1001) }),
            "`text`: has 1001 bytes",
        ),
    ] {
        let said = message(world.server(), "/v1/labels", &label(change.clone()));
        assert!(said.contains(expected), "{change}: {said}");
    }
    let large = label(json!({ "question": "1".repeat(5000) }));
    let answer = post(world.server(), "/v1/labels", &large);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "body_too_large")
    );
    assert_eq!(fs::read(world.path()).unwrap(), b"", "nothing was written");
}

#[test]
fn many_labels_at_once_are_whole_lines() {
    let world = World::new();
    std::thread::scope(|scope| {
        for who in 0..6 {
            let world = &world;
            scope.spawn(move || {
                for _ in 0..5 {
                    let name = json!({ "annotator": format!("person {who}") });
                    answered(world.server(), "/v1/labels", &label(name));
                }
            });
        }
    });
    let read = read_labels(&world.path()).unwrap();
    assert_eq!((read.labels.len(), read.replaced), (6, 24));
    assert!(read.report.skipped.is_empty());
    assert_eq!(world.listed()["total"], 6);
}
