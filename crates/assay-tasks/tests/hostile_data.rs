//! Malformed data files: every one is an error that names the file, the line and the cause.
#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fs;
use std::path::Path;

use assay_tasks::TasksError;
use assay_tasks::datasets::{DatasetFormat, DatasetSettings, load_problems};
use assay_tasks::trace_io::{read_foreign_traces, read_step_traces, read_traces};

/// A file's content and a part of the expected error.
type Case<'c> = (&'c [u8], &'c str);

const JSON: &str = "not the expected JSON";

/// The error of a result with its causes, or `ok` and the number of records.
fn told<T>(result: Result<Vec<T>, TasksError>) -> String {
    let error = match result {
        Ok(records) => return format!("ok {}", records.len()),
        Err(error) => error,
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// Counts malformed cases for the table in docs/reliability.md.
#[allow(clippy::print_stdout)] // tools/reliability reads it
fn tried(cases: usize) {
    println!("\nMALFORMED {cases}");
}

#[track_caller]
fn check<T>(cases: &[Case<'_>], read: impl Fn(&Path) -> Result<Vec<T>, TasksError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stranger.jsonl");
    tried(cases.len());
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let text = told(read(&path));
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(160)]).into_owned();
        assert!(
            text.contains(expected),
            "{shown}: {text:?} lacks {expected:?}"
        );
        let named = text.starts_with("ok") || text.contains("stranger.jsonl");
        assert!(named, "{text:?} names no file");
    }
}

fn deep(open: &str, close: &str) -> Vec<u8> {
    let n = 200_000;
    format!("{{\"question\":{}1{}}}", open.repeat(n), close.repeat(n)).into_bytes()
}

fn problems_of(path: &Path, format: DatasetFormat, offset: usize) -> Result<Vec<()>, TasksError> {
    let settings = DatasetSettings {
        path: path.to_owned(),
        format,
        offset,
        ..DatasetSettings::default()
    };
    Ok(load_problems(&settings)?.0.iter().map(|_| ()).collect())
}

#[test]
fn problems() {
    let (lists, maps, long) = (deep("[", "]"), deep("{\"a\":", "}"), vec![b'x'; 17 << 20]);
    let cases: &[Case<'_>] = &[
        (b"", "ok 0"),
        (b"\n\n \r\n", "ok 0"),
        (b"\0", JSON),
        (b"\0\0\0\0\n", JSON),
        (b"nonsense", JSON),
        (b"null", "invalid type: null"),
        (b"true", JSON),
        (b"3", JSON),
        (b"\"text\"", JSON),
        (b"[]", "ok 0"),
        (b"[1", JSON),
        (b"[{}", ":1: column `question` is missing"),
        (b"{", "EOF"),
        (b"{}", ":1: column `question` is missing"),
        (b"{}\x00", "trailing characters"),
        (b"{} {}", "trailing characters"),
        (b"{}}", "trailing characters"),
        (b"{\"question\":\"a\",}", "trailing comma"),
        (b"{'question':'a'}", "key must be a string"),
        (b"{question:1}", "key must be a string"),
        (b"{\"question\" \"a\"}", "expected `:`"),
        (b"{\"question\":\"a}", "EOF while parsing a string"),
        (b"{\"question\":\"a\\", "EOF while parsing"),
        (b"{\"question\":\"\\x41\"}", "invalid escape"),
        (b"{\"question\":\"\\ud800\"}", "unpaired surrogate \\ud800"),
        (b"{\"question\":\"\\udc00\"}", "unpaired surrogate \\udc00"),
        (b"{\"question\":\"a\tb\"}", "control character"),
        (b"{\"question\":\"a\0b\"}", "control character"),
        (b"{\"question\":NaN}", "empty question"),
        (b"{\"question\":Infinity}", "empty question"),
        (b"{\"question\":-Infinity}", "empty question"),
        (b"{\"question\":1e999}", "number out of range"),
        (b"{\"question\":01}", "invalid number"),
        (b"{\"question\":+1}", JSON),
        (b"{\"question\":.5}", JSON),
        (b"{\"question\":null}", "empty question"),
        (
            b"{\"question\":true}",
            "`question` is neither a text nor a number",
        ),
        (
            b"{\"question\":[]}",
            "`question` is neither a text nor a number",
        ),
        (
            b"{\"question\":{}}",
            "`question` is neither a text nor a number",
        ),
        (
            b"{\"question\":\"a\",\"answer\":[[]]}",
            "`answer` is neither",
        ),
        (
            b"{\"question\":\"a\",\"answer\":\"b\",\"id\":[]}",
            "`id` is neither",
        ),
        (b"\xff\xfe{\0}\0", "UTF-16"),
        (b"\xc0\xaf", "invalid UTF-8 (stranger.jsonl:1)"),
        (b"\xed\xa0\x80", "invalid UTF-8 (stranger.jsonl:1)"),
        (
            b"{\"question\":\"\xf4\x90\x80\x80\"}",
            "invalid UTF-8 (stranger.jsonl:1)",
        ),
        (b"\x1f\x8b\x08\0\0\0\0\0", "cannot read"),
        (
            b"\n\n{\"question\":\"\xff\"}",
            "invalid UTF-8 (stranger.jsonl:3)",
        ),
        (b"\xef\xbb\xbf{}", "`question` is missing"),
        (&lists, "recursion limit exceeded"),
        (&maps, "recursion limit exceeded"),
        (&long, "line longer than 16777216 bytes (stranger.jsonl:1)"),
    ];
    check(cases, |path| problems_of(path, DatasetFormat::Gsm8k, 0));
}

/// A malformed record before the offset is skipped like any other. A file that cannot be read is an
/// error.
#[test]
fn records_before_the_offset_are_passed_over() {
    let cases: &[Case<'_>] = &[
        (b"\xff\n{}", "ok 0"),
        (b"{}\n\xff", "ok 0"),
        (b"{}", "ok 0"),
        (b"\x1f\x8b\x08\0", "cannot read"),
    ];
    check(cases, |path| {
        problems_of(path, DatasetFormat::Gsm8k, usize::MAX)
    });
    let dir = tempfile::tempdir().unwrap();
    let text = told(problems_of(dir.path(), DatasetFormat::Gsm8k, usize::MAX));
    assert!(text.contains("a directory: name a file in it"), "{text}");
}

#[test]
fn chats() {
    let cases: &[Case<'_>] = &[
        (b"{}", "column `messages` is missing"),
        (b"{\"messages\":null}", "`messages` is not a list of turns"),
        (
            b"{\"messages\":\"hi\"}",
            "`messages` is not a list of turns",
        ),
        (b"{\"messages\":[1]}", "a turn that is not an object"),
        (b"{\"messages\":[]}", "has no user turn"),
        (b"{\"messages\":[{}]}", "has a turn without a `role`"),
        (b"{\"messages\":[{\"role\":\"user\"}]}", "empty question"),
        (
            b"{\"messages\":[{\"role\":\"root\",\"content\":\"a\"}]}",
            "unknown role `root`",
        ),
        (
            b"{\"messages\":[{\"role\":\"user\",\"content\":true}]}",
            "content is not text",
        ),
        (
            b"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"audio\"}]}]}",
            "part of type `audio`",
        ),
        (
            b"{\"messages\":[{\"role\":\"user\",\"content\":[7]}]}",
            "a part that is not text",
        ),
        (
            b"{\"messages\":[{\"role\":\"user\",\"content\":null}]}",
            "empty question",
        ),
        (
            b"{\"messages\":[{\"role\":\"user\",\"content\":\"Q\"}]}",
            "no demonstration",
        ),
        (
            b"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}",
            "has no user turn",
        ),
    ];
    check(cases, |path| problems_of(path, DatasetFormat::Messages, 0));
}

/// A valid trace with one field replaced or removed.
fn trace(field: &str, value: &str) -> Vec<u8> {
    let mut fields = vec![
        ("id", "\"a\""),
        ("question", "\"q\""),
        ("generator", "\"g\""),
        ("text", "\"h\u{e9}llo\""),
        ("token_ids", "[1,2,3]"),
        ("token_offsets", "[[0,1],[1,3],[3,6]]"),
        ("token_rewards", "[0.5,null,-1.0]"),
        ("scores", "{\"mean\":0.5}"),
    ];
    fields.retain(|(name, _)| *name != field);
    if !value.is_empty() {
        fields.push((field, value));
    }
    let body: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", body.join(",")).into_bytes()
}

const TRACES: &[(&str, &str, &str)] = &[
    ("seed", "7", "ok 1"),
    ("seed", "-1", JSON),
    ("seed", "1e3", JSON),
    ("seed", "18446744073709551616", JSON),
    ("id", "", "missing field `id`"),
    ("id", "1", JSON),
    ("question", "", "missing field `question`"),
    ("text", "", "missing field `text`"),
    ("text", "null", JSON),
    ("generator", "", "missing field `generator`"),
    (
        "token_ids",
        "[1,2]",
        "`token_offsets` has 3 entries, expected 2",
    ),
    ("token_ids", "[1,2,-3]", JSON),
    ("token_ids", "[1,2,4294967296]", JSON),
    ("token_ids", "[1,2,1.5]", JSON),
    ("token_ids", "\"123\"", JSON),
    (
        "token_offsets",
        "[[0,1],[1,3]]",
        "`token_offsets` has 2 entries, expected 3",
    ),
    (
        "token_offsets",
        "[[0,1],[1,3],[3,7]]",
        "`token_offsets[2]` ends outside the text",
    ),
    (
        "token_offsets",
        "[[0,1],[1,3],[3,18446744073709551615]]",
        "ends outside the text",
    ),
    (
        "token_offsets",
        "[[0,1],[1,3],[5,4]]",
        "`token_offsets[2]` ends before it starts",
    ),
    (
        "token_offsets",
        "[[0,1],[1,2],[2,6]]",
        "`token_offsets[1]` cuts a character",
    ),
    (
        "token_offsets",
        "[[0,1],[3,6],[1,3]]",
        "`token_offsets[2]` lies before the token",
    ),
    (
        "token_offsets",
        "[[0,4],[1,3],[3,6]]",
        "`token_offsets[1]` lies before the token",
    ),
    ("token_offsets", "[[0,1],[1,3],[3]]", JSON),
    ("token_offsets", "[[0,1],[1,3],[3,4,5]]", JSON),
    ("token_offsets", "[[0,1],[1,3],[-1,4]]", JSON),
    ("token_offsets", "[[0,1],[1,3],[3.0,4]]", JSON),
    (
        "token_rewards",
        "[0.5]",
        "`token_rewards` has 1 entries, expected 3",
    ),
    (
        "token_rewards",
        "[0,0,0,0]",
        "`token_rewards` has 4 entries, expected 3",
    ),
    ("token_rewards", "[0,1e39,0]", "number out of range"),
    ("token_rewards", "[0,1e999,0]", JSON),
    ("token_rewards", "[0,NaN,0]", JSON),
    ("token_rewards", "[0,\"1\",0]", JSON),
    (
        "policy_logprobs",
        "[0]",
        "`policy_logprobs` has 1 entries, expected 3",
    ),
    ("policy_logprobs", "[0,0,-1e300]", "number out of range"),
    ("policy_logprobs", "[0,null,0]", JSON),
    (
        "sampling_logprobs",
        "[]",
        "`sampling_logprobs` has 0 entries, expected 3",
    ),
    ("sampling_logprobs", "[1e40,0,0]", "number out of range"),
    (
        "entropies",
        "[0,0]",
        "`entropies` has 2 entries, expected 3",
    ),
    ("entropies", "[0,0,1e40]", "number out of range"),
    ("scores", "{\"mean\":1e40}", "number out of range"),
    ("scores", "{\"mean\":null}", JSON),
    ("scores", "[1]", JSON),
    ("correct", "\"yes\"", JSON),
    ("correct", "1", JSON),
    ("finish_reason", "\"bored\"", "unknown variant `bored`"),
    ("prompt_token_ids", "[-1]", JSON),
    ("prompt_token_ids", "{}", JSON),
    ("answer", "[]", JSON),
];

#[test]
fn scored_traces() {
    let files: Vec<(Vec<u8>, &str)> = TRACES
        .iter()
        .map(|(field, value, expected)| (trace(field, value), *expected))
        .collect();
    let cases: Vec<Case<'_>> = files
        .iter()
        .map(|(bytes, expected)| (bytes.as_slice(), *expected))
        .collect();
    check(&cases, |path| {
        assert_eq!(told(read_foreign_traces(path)), told(read_traces(path)));
        read_traces(path)
    });
    let second = [
        trace("seed", "1"),
        b"\n".to_vec(),
        trace("token_ids", "[1]"),
    ]
    .concat();
    check(&[(&second, ":2: `token_offsets`")], read_traces);
}

#[test]
fn foreign_traces() {
    let with = |rest: &str| format!("{{\"id\":1,\"question\":\"q\",{rest}}}").into_bytes();
    let files = [
        (Vec::new(), "ok 0"),
        (b"{}".to_vec(), "missing field `id`"),
        (b"[]".to_vec(), "ok 0"),
        (b"null".to_vec(), JSON),
        (b"{\"id\":1,\"question\":2,\"text\":\"t\"}".to_vec(), JSON),
        (
            b"{\"id\":[],\"question\":\"q\",\"text\":\"t\"}".to_vec(),
            JSON,
        ),
        (
            b"{\"id\":null,\"question\":\"q\",\"text\":\"t\"}".to_vec(),
            JSON,
        ),
        (
            b"{\"id\":1e999,\"question\":\"q\",\"text\":\"t\"}".to_vec(),
            JSON,
        ),
        (
            with("\"generator\":\"g\""),
            "column `text` is missing, and so is `traces`",
        ),
        (
            with("\"text\":\"t\",\"traces\":[]"),
            "column `text` is there as well as `traces`",
        ),
        (with("\"text\":5"), JSON),
        (with("\"traces\":{}"), JSON),
        (with("\"traces\":[\"t\"]"), JSON),
        (with("\"traces\":[{}]"), "missing field `text`"),
        (
            with("\"traces\":[{\"text\":\"t\",\"correct\":\"no\"}]"),
            JSON,
        ),
        (with("\"traces\":[]"), "ok 0"),
        (with("\"text\":\"t\",\"token_ids\":3"), JSON),
        (with("\"text\":\"t\",\"generator\":7"), JSON),
    ];
    let cases: Vec<Case<'_>> = files.iter().map(|(b, e)| (b.as_slice(), *e)).collect();
    check(&cases, read_foreign_traces);
}

#[test]
fn step_traces() {
    let with = |steps: &str, label: &str| {
        format!("{{\"id\":1,\"problem\":\"p\",\"steps\":{steps},\"label\":{label}}}").into_bytes()
    };
    let files = [
        (Vec::new(), "ok 0"),
        (b"[]".to_vec(), "ok 0"),
        (b"[".to_vec(), "EOF"),
        (b"[{}]".to_vec(), "missing field"),
        (b"[1]".to_vec(), JSON),
        (b"[[]]".to_vec(), JSON),
        (b"[]]".to_vec(), "trailing characters"),
        (b"\xff".to_vec(), "invalid UTF-8"),
        (b"[\"\xff\"]".to_vec(), "invalid UTF-8"),
        (
            b"{\"id\":1,\"problem\":\"p\",\"steps\":[]}".to_vec(),
            "missing field `label`",
        ),
        (
            b"{\"steps\":[],\"label\":0}".to_vec(),
            "missing field `problem`",
        ),
        (with("[\"a\"]", "-1"), "ok 1"),
        (with("[\"a\"]", "1"), "column `label` names no step"),
        (with("[\"a\"]", "-2"), "column `label` names no step"),
        (
            with("[\"a\"]", "-9223372036854775808"),
            "column `label` names no step",
        ),
        (with("[]", "0"), "column `label` names no step"),
        (with("[\"a\"]", "9223372036854775808"), JSON),
        (with("[\"a\"]", "0.5"), JSON),
        (with("[\"a\"]", "null"), JSON),
        (with("\"a\"", "0"), JSON),
        (with("[1]", "0"), JSON),
        (with("null", "0"), JSON),
    ];
    let cases: Vec<Case<'_>> = files.iter().map(|(b, e)| (b.as_slice(), *e)).collect();
    check(&cases, |path| Ok(read_step_traces(path)?.0));
}
