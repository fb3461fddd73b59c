//! `assay edit` against servers that answer honestly, wrongly or not at all.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use assay_tasks::wrong_traces::read_wrong_traces;
use serde_json::{Value, json};

use crate::commands::World;

/// A server's answer to the step of a request.
#[derive(Clone, Copy)]
enum Manner {
    /// Status 200 with this choice.
    Choice(fn(&str) -> Value),
    /// A status and a body.
    Raw(u16, &'static str),
    /// The request is read and never answered.
    Stalled,
}

const HONEST: Manner = Manner::Choice(|step| said(&format!("{step}9")));

fn said(text: &str) -> Value {
    json!({ "message": { "content": text }, "finish_reason": "stop" })
}

struct Server {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut stalled = Vec::new();
            for stream in listener.incoming() {
                seen.fetch_add(1, Ordering::Relaxed);
                if let Ok(Some(stream)) = answer(stream.unwrap(), manner) {
                    stalled.push(stream);
                }
            }
        });
        Self { url, requests }
    }
}

/// Answers one request; returns the connection of a request that stays without an answer.
fn answer(stream: TcpStream, manner: Manner) -> std::io::Result<Option<TcpStream>> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap();
    let task = body["messages"][1]["content"].as_str().unwrap();
    let step = task.lines().last().unwrap();
    let (status, text) = match manner {
        Manner::Choice(choice) => (200, json!({ "choices": [choice(step)] }).to_string()),
        Manner::Raw(status, text) => (status, text.to_owned()),
        Manner::Stalled => return Ok(Some(stream)),
    };
    let mut stream = stream;
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())?;
    Ok(None)
}

fn command(server: &Server) -> String {
    let url = &server.url;
    format!(
        "edit --problems problems.jsonl --server {url} --model m --attempts 1 --timeout 2 --out edits.jsonl --json"
    )
}

#[test]
fn edits_are_wrong_traces_with_a_passage() {
    let world = World::new();
    let server = Server::start(HONEST);
    let counts = world.json(&command(&server));
    let made = counts["edited"].as_u64().unwrap();
    assert!(
        made >= 6 && counts["known"] == 0 && counts["unusable"] == 0,
        "{counts}"
    );
    let wrong = read_wrong_traces(&world.path("edits.jsonl"))
        .unwrap()
        .traces;
    assert_eq!(wrong.len() as u64, made);
    for trace in &wrong {
        let question = trace.question.as_deref().unwrap();
        let problem = world.problems.iter().find(|p| p.question == question);
        let problem = problem.unwrap();
        let passage = trace.wrong_span.clone().unwrap();
        let mut right = trace.text.clone();
        assert_eq!(right.remove(passage.end - 1), '9');
        let (reasoning, answer) = (problem.demonstration.as_ref(), problem.answer.as_ref());
        let expert = format!("{}\n#### {}", reasoning.unwrap(), answer.unwrap());
        assert_eq!(right, expert, "only the passage differs");
    }
    // A second time nothing is left to ask. What a killed process left behind is removed.
    let mut file = fs::read(world.path("edits.jsonl")).unwrap();
    let whole = file.clone();
    file.extend_from_slice(b"{\"request\":\"00");
    fs::write(world.path("edits.jsonl"), file).unwrap();
    let asked = server.requests.load(Ordering::Relaxed);
    let again = world.json(&command(&server));
    assert_eq!(again, json!({ "edited": 0, "known": made, "unusable": 0 }));
    assert_eq!(server.requests.load(Ordering::Relaxed), asked);
    assert_eq!(fs::read(world.path("edits.jsonl")).unwrap(), whole);
}

#[test]
fn unusable_edits_are_refused_with_a_reason() {
    let world = World::new();
    let cases: [(Manner, &str); 9] = [
        (Manner::Choice(said), "the step did not change"),
        (
            Manner::Choice(|step| said(&format!("{step}9\nmore"))),
            "several lines",
        ),
        (
            Manner::Choice(|step| said(&step.repeat(99))),
            "much longer than the step",
        ),
        (Manner::Choice(|_| said(" ")), "no text"),
        (
            Manner::Choice(|_| json!({ "finish_reason": "length" })),
            "--max-tokens",
        ),
        (Manner::Raw(200, "<html>"), "not JSON"),
        (Manner::Raw(401, "no key"), "status 401: no key"),
        (Manner::Raw(503, "busy"), "status 503: busy (tried 1 times)"),
        (Manner::Stalled, "timeout"),
    ];
    for (manner, expected) in cases {
        let server = Server::start(manner);
        let output = world.assay(&command(&server));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains(expected) && error.contains(&server.url),
            "{error}"
        );
        assert!(
            read_wrong_traces(&world.path("edits.jsonl"))
                .unwrap()
                .traces
                .is_empty()
        );
    }
}

#[test]
fn other_files_are_not_appended_to() {
    let world = World::new();
    let server = Server::start(HONEST);
    for content in ["{\"question\": \"a\"}\n", "{\"quest", "text"] {
        fs::write(world.path("edits.jsonl"), content).unwrap();
        let error = world.refused(&command(&server));
        assert!(
            error.contains("something other than edits (line 1)"),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(world.path("edits.jsonl")).unwrap(),
            content
        );
    }
    assert_eq!(server.requests.load(Ordering::Relaxed), 0);
}

#[test]
fn a_dry_run_sends_nothing() {
    let world = World::new();
    let server = Server::start(HONEST);
    let output = world.assay(&format!("{} --dry-run", command(&server)));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(" requests to http://") && text.contains("Step to rewrite:"),
        "{text}"
    );
    assert_eq!(server.requests.load(Ordering::Relaxed), 0);
    assert!(!world.path("edits.jsonl").exists());
}
