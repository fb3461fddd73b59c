//! Data files in published formats (parquet, compressed lines, the layouts of MedReason, MMLU-Pro,
//! AIME and Countdown) and hostile files. The binary files come from tools/golden/datasets.py.

#![allow(clippy::unwrap_used, clippy::panic)] // tests stop where something is not as expected

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use assay_tasks::TasksError;
use assay_tasks::answers::same_answer;
use assay_tasks::datasets::{DatasetFormat, DatasetSettings, Required, load_problems};
use assay_tasks::problem::Problem;
use assay_tasks::random::Stream;
use assay_tasks::trace_io::{holds_step_traces, read_step_traces};

fn data(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    tests.join(name)
}

fn load(path: PathBuf, format: DatasetFormat) -> Result<Vec<Problem>, TasksError> {
    let settings = DatasetSettings {
        path,
        format,
        required: Some(Required::Question),
        ..DatasetSettings::default()
    };
    Ok(load_problems(&settings)?.0)
}

/// Reads a temporary file with one record per line.
fn line(text: &str, format: DatasetFormat) -> Result<Problem, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.jsonl");
    fs::write(&path, text.replace('\n', " ")).unwrap();
    let loaded = load(path, format).map_err(|error| error.to_string())?;
    Ok(loaded.into_iter().next().unwrap())
}

/// The published files are two parquet shards and JSON lines; all three have the same contents.
#[test]
fn gsm8k_reads_the_same_from_every_container() {
    let shards = load(data("train-*-of-*.parquet"), DatasetFormat::Gsm8k).unwrap();
    let lines = load(data("gsm8k.jsonl.zst"), DatasetFormat::Gsm8k).unwrap();
    assert_eq!((shards.len(), lines.len()), (3, 3));
    for (left, right) in shards.iter().zip(&lines) {
        let fields = |p: &Problem| {
            (
                p.question.clone(),
                p.demonstration.clone(),
                p.answer.clone(),
            )
        };
        assert_eq!(fields(left), fields(right));
    }
    assert_eq!(shards[2].id, "gsm8k-train-00001-of-00002-0");
    assert_eq!(
        shards[0].demonstration.as_deref(),
        Some("48/2 = 24 clips.\n48+24 = 72.")
    );
    assert_eq!(shards[2].question, "Umlaut ä?");
}

#[test]
fn parquet_chats_cross_row_groups() {
    let problems = load(data("chats.parquet"), DatasetFormat::Messages).unwrap();
    assert_eq!(problems[1].question, "3+2?");
    assert_eq!(problems[1].demonstration.as_deref(), Some("3+2 = 5"));
    assert_eq!(problems[1].answer.as_deref(), Some("5"));
}

#[test]
fn mmlu_pro_has_lettered_options() {
    let problems = load(data("mmlu_pro.parquet"), DatasetFormat::MmluPro).unwrap();
    assert_eq!(
        problems[0].question,
        "Which is a prime?\n\nA. four\nB. seven\nC. nine"
    );
    assert_eq!(problems[0].answer.as_deref(), Some("B"));
    let reasoning = problems[0].demonstration.as_deref().unwrap();
    assert!(
        reasoning.starts_with("Seven has two divisors."),
        "{reasoning}"
    );
    assert_eq!(problems[1].demonstration, None);
    assert!(same_answer("(B) seven", "B") && !same_answer("C", "B"));
    let wrong = r#"{"question": "Q", "options": ["x"], "answer": "B"}"#;
    let error = line(wrong, DatasetFormat::MmluPro).unwrap_err();
    assert!(
        error.ends_with("1: column `answer` is the letter of no option (test.jsonl:1)"),
        "{error}"
    );
}

#[test]
fn medreason_takes_the_right_options_letter() {
    let record = r#"{"dataset_name": "made", "id_in_dataset": 1, "question": "Which vitamin is ascorbic acid?",
        "answer": "Vitamin C. Explanation: ascorbic acid is vitamin C.", "reasoning": "Finding paths.\nIt is C.",
        "options": "Answer Choices:\nA. Vitamin A\nB. Vitamin C\nC. Vitamin D"}"#;
    let problem = line(record, DatasetFormat::Medreason).unwrap();
    assert_eq!(
        problem.question,
        "Which vitamin is ascorbic acid?\n\nA. Vitamin A\nB. Vitamin C\nC. Vitamin D"
    );
    assert_eq!(problem.answer.as_deref(), Some("B"));
    assert_eq!(
        problem.demonstration.as_deref(),
        Some("Finding paths.\nIt is C.")
    );
    assert!(same_answer("B. Vitamin C", "B") && !same_answer("Vitamin C deficiency", "B"));
    let free = r#"{"question": "Q", "answer": "Vitamin C.", "reasoning": "r", "options": ""}"#;
    let problem = line(free, DatasetFormat::Medreason).unwrap();
    assert_eq!(
        (problem.question.as_str(), problem.answer.as_deref()),
        ("Q", Some("Vitamin C."))
    );
}

#[test]
fn aime_answers_are_integers() {
    let one = r#"{"ID": "2024-I-1", "Problem": "Find n.", "Solution": "Trivially,\nn = 33.", "Answer": 33}"#;
    let other = r#"{"id": 1, "problem": "Find n.", "answer": "033", "url": "x"}"#;
    for record in [one, other] {
        let problem = line(record, DatasetFormat::Aime).unwrap();
        assert_eq!(
            (problem.question.as_str(), problem.answer.as_deref()),
            ("Find n.", Some("33"))
        );
    }
    assert!(same_answer("033", "33") && !same_answer("34", "33"));
    for wrong in ["1000", "-1", "3.5", "\"n\""] {
        let record = format!(r#"{{"problem": "P", "answer": {wrong}}}"#);
        let error = line(&record, DatasetFormat::Aime).unwrap_err();
        assert!(
            error.contains("`answer` is not an integer from 0 to 999"),
            "{error}"
        );
    }
}

#[test]
fn countdown_answers_are_evaluated() {
    let problems = load(data("countdown.parquet"), DatasetFormat::Countdown).unwrap();
    let gold = problems[1].answer.as_deref().unwrap();
    assert_eq!(gold, "24 from 3, 3, 8, 8");
    assert!(
        problems[1].question.contains("3, 3, 8, 8") && problems[1].question.contains("equals 24")
    );
    assert!(same_answer("8 / (3 - 8/3)", gold));
    assert!(!same_answer("24", gold) && !same_answer("8*3", gold));
    for wrong in [
        r#"{"target": 1}"#,
        r#"{"target": 1, "nums": []}"#,
        r#"{"target": 1, "nums": [1.5]}"#,
    ] {
        let error = line(wrong, DatasetFormat::Countdown).unwrap_err();
        assert!(
            error.contains("`nums` is not a list of 1 to 32 integers"),
            "{error}"
        );
    }
}

/// 875 bytes that hold 2^26 numbers in one row.
#[test]
fn too_wide_rows_are_refused_unread() {
    let error = load(data("list_bomb.parquet"), DatasetFormat::MmluPro).unwrap_err();
    let TasksError::Parquet { source, .. } = error else {
        panic!("{error}");
    };
    assert!(
        source.to_string().contains("more than 2^25 values"),
        "{source}"
    );
}

/// A line of 2^28 zeroes in some kilobytes.
#[test]
fn a_compressed_line_without_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.jsonl.zst");
    let zeroes = vec![b'0'; 1 << 25];
    fs::write(&path, zstd::encode_all(zeroes.as_slice(), 3).unwrap()).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 1 << 14);
    let error = load(path, DatasetFormat::Gsm8k).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("1: line longer than 16777216 bytes (bomb.jsonl.zst:1)"),
        "{error}"
    );
}

/// Every codec that parquet files have in practice, in pages of both versions.
#[test]
fn parquet_is_read_in_every_codec() {
    let expected = load(data("chats.parquet"), DatasetFormat::Messages).unwrap();
    for codec in ["gzip", "gzip_v2", "brotli", "lz4"] {
        let path = data(&format!("chats_{codec}.parquet"));
        let found = load(path, DatasetFormat::Messages).unwrap();
        let texts = |problems: &[Problem]| -> Vec<(String, Option<String>)> {
            let fields = problems
                .iter()
                .map(|p| (p.question.clone(), p.answer.clone()));
            fields.collect()
        };
        assert_eq!(texts(&found), texts(&expected), "{codec}");
    }
}

#[test]
fn verl_has_chats_and_answer_structs() {
    let problems = load(data("verl.parquet"), DatasetFormat::Columns).unwrap();
    let found: Vec<(&str, Option<&str>)> = problems
        .iter()
        .map(|problem| (problem.question.as_str(), problem.answer.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("How many clips?", Some("72")),
            ("How many pens?", Some("5"))
        ]
    );
    let settings = DatasetSettings {
        path: data("verl.parquet"),
        format: DatasetFormat::Columns,
        question: "prompt".into(),
        demonstration: "extra_info.answer".into(),
        answer: "extra_info.index".into(),
        ..DatasetSettings::default()
    };
    let (problems, report) = load_problems(&settings).unwrap();
    assert_eq!(problems[0].demonstration.as_deref(), Some("48/2 = 24."));
    assert_eq!(problems[1].answer.as_deref(), Some("1"));
    assert_eq!(
        report.lines(),
        [
            "note for 1: a system turn is not used: the prompt style's takes its place (verl.parquet:1)"
        ]
    );
}

#[test]
fn parquet_chats_have_parts_and_thinking() {
    let problems = load(data("parts.parquet"), DatasetFormat::Messages).unwrap();
    assert_eq!(problems[0].question, "2+2?");
    assert_eq!(problems[0].demonstration.as_deref(), Some("2+2 = 4"));
    assert_eq!(problems[0].answer.as_deref(), Some("4"));
}

#[test]
fn parquet_types_keep_their_digits_and_letters() {
    let with = |answer: &str| {
        let settings = DatasetSettings {
            path: data("types.parquet"),
            format: DatasetFormat::Columns,
            answer: answer.into(),
            required: Some(Required::Question),
            ..DatasetSettings::default()
        };
        load_problems(&settings)
    };
    let (problems, report) = with("answer").unwrap();
    assert_eq!(problems[0].question, "Bytes ä?");
    assert_eq!(problems[0].demonstration.as_deref(), Some("a"));
    let digits = "123456789012345678901234567890";
    assert_eq!(problems[0].answer.as_deref(), Some(digits));
    let left_out = "left out 1: column `solution` holds bytes that are not UTF-8 text";
    let refused = report.skipped.keys().next().unwrap();
    assert!(left_out.ends_with(refused.as_str()), "{refused}");
    assert_eq!(with("small").unwrap().0[0].answer.as_deref(), Some("0.1"));
    assert_eq!(with("yes").unwrap().0[0].answer.as_deref(), Some("true"));
    let message = with("flags").unwrap_err().to_string();
    assert!(
        message.contains("has a parquet type that is not read: a map"),
        "{message}"
    );
}

/// A page that states 100 bytes and expands to 4 MiB.
#[test]
fn a_page_of_wrong_size_is_refused() {
    let error = load(data("lying_page.parquet"), DatasetFormat::Gsm8k).unwrap_err();
    let TasksError::Parquet { source, .. } = error else {
        panic!("{error}");
    };
    let message = source.to_string();
    assert!(
        message.contains("expands to another size than it states"),
        "{message}"
    );
}

#[test]
fn lines_compressed_with_gzip_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let line = |n: u32| format!("{{\"question\": \"Q{n}\", \"answer\": \"a\\n#### {n}\"}}\n");
    // Two members in one file, as parallel writers produce them. The name does not matter.
    let members = [packed(line(1).as_bytes()), packed(line(2).as_bytes())].concat();
    let array = packed(format!("[{},{}]", line(1), line(2)).as_bytes());
    for (name, bytes) in [("a.jsonl.gz", members), ("b.json", array)] {
        let path = dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let problems = load(path.clone(), DatasetFormat::Gsm8k).unwrap();
        assert_eq!(problems[1].question, "Q2", "{name}");
        assert_eq!(problems.len(), 2);
        fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        let error = load(path, DatasetFormat::Gsm8k).unwrap_err();
        assert!(matches!(error, TasksError::Read { .. }), "{error}");
    }
}

/// A line that expands to 32 MiB, then a good one.
#[test]
fn a_gzip_bomb_costs_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.jsonl.gz");
    let mut text = vec![b'0'; 1 << 25];
    text.extend_from_slice(b"\n{\"question\": \"Q\", \"answer\": \"a\"}");
    fs::write(&path, packed(&text)).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 1 << 18);
    let problems = load(path, DatasetFormat::Gsm8k).unwrap();
    assert_eq!(problems.len(), 1);
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn step_traces_are_read_from_parquet() {
    let path = data("processbench.parquet");
    assert!(holds_step_traces(&path).unwrap());
    assert!(!holds_step_traces(&data("chats.parquet")).unwrap());
    let (traces, _) = read_step_traces(&path).unwrap();
    assert_eq!((traces[0].label, traces[1].label), (Some(1), None));
    assert_eq!(traces[0].steps, ["a", "b"]);
    assert_eq!(traces[1].id, "gsm8k-1");
}

/// A file truncated anywhere or with any bytes changed is read or is an error; nothing panics.
#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.parquet");
    let mut stream = Stream::new(11, &[]);
    let mut refused = 0;
    for (name, format) in [
        ("mmlu_pro.parquet", DatasetFormat::MmluPro),
        ("chats.parquet", DatasetFormat::Messages),
        ("countdown.parquet", DatasetFormat::Countdown),
        ("train-00000-of-00002.parquet", DatasetFormat::Gsm8k),
        ("chats_gzip.parquet", DatasetFormat::Messages),
        ("chats_gzip_v2.parquet", DatasetFormat::Messages),
        ("verl.parquet", DatasetFormat::Columns),
        ("parts.parquet", DatasetFormat::Messages),
    ] {
        let whole = fs::read(data(name)).unwrap();
        for round in 0..150 {
            let mut bytes = whole.clone();
            if round % 10 == 0 {
                bytes.truncate((stream.uniform_f64() * whole.len() as f64) as usize);
            } else {
                for _ in 0..=round % 4 {
                    let at = (stream.uniform_f64() * whole.len() as f64) as usize;
                    bytes[at] = (stream.uniform_f64() * 256.0) as u8;
                }
            }
            fs::write(&path, &bytes).unwrap();
            refused += usize::from(load(path.clone(), format).is_err());
        }
    }
    assert!(refused > 300, "{refused} of 1200");
    let missing = load(dir.path().join("none-*.parquet"), DatasetFormat::Gsm8k);
    assert!(missing.unwrap_err().to_string().contains("none-*.parquet"));
}
