//! Problems from records of every layout.

use std::fs;

use super::*;

fn load(
    bytes: &[u8],
    change: impl FnOnce(&mut DatasetSettings),
) -> Result<(Vec<Problem>, LoadReport), TasksError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.jsonl");
    fs::write(&path, bytes).unwrap();
    let mut settings = DatasetSettings {
        path,
        ..DatasetSettings::default()
    };
    change(&mut settings);
    load_problems(&settings)
}

const GSM8K: &str = concat!(
    r#"{"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\n48+24 = $<<48+24=72>>72.\n#### 1,072"}"#,
    "\n\n",
    r#"{"question": "No steps?", "answer": " #### 5"}"#,
    "\n",
    r#"{"question": "No end?", "answer": "one step"}"#,
    "\n",
    r#"{"question": " ", "answer": "a\n#### 5"}"#,
    "\n",
    r#"{"question": "Named", "answer": "1+1 = 2\n#### 2", "id": "mine"}"#,
);

#[test]
fn gsm8k_is_read_as_published() {
    let (problems, report) = load(GSM8K.as_bytes(), |_| {}).unwrap();
    assert_eq!(
        problems[0],
        Problem {
            id: "gsm8k-train-0".into(),
            question: "How many?".into(),
            demonstration: Some("48/2 = 24 clips.\n48+24 = $72.".into()),
            answer: Some("1,072".into()),
        }
    );
    assert_eq!(
        (problems.len(), problems[1].id.as_str(), report.loaded),
        (2, "mine", 2)
    );
    let skipped: Vec<_> = report
        .skipped
        .iter()
        .map(|(reason, records)| (reason.as_str(), records.count))
        .collect();
    assert_eq!(
        skipped,
        [
            ("empty question", 1),
            ("no answer", 1),
            ("no demonstration", 1)
        ]
    );
}

#[test]
fn offset_limit_and_required_choose_records() {
    let (problems, _) = load(GSM8K.as_bytes(), |settings| {
        settings.required = Some(Required::Question);
        settings.offset = 1;
        settings.limit = Some(2);
    })
    .unwrap();
    assert_eq!(
        problems.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(),
        ["gsm8k-train-2", "gsm8k-train-3"]
    );
    assert_eq!(
        (
            problems[0].answer.as_deref(),
            problems[1].demonstration.as_deref()
        ),
        (Some("5"), Some("one step"))
    );
}

#[test]
fn columns_may_have_any_name_and_numbers() {
    let line = r#"{"prompt": "Q", "cot": "a\nb\n\\boxed{3}", "gold": 3.5, "key": 7}"#;
    let (problems, _) = load(line.as_bytes(), |settings| {
        settings.format = DatasetFormat::Columns;
        (settings.question, settings.demonstration) = ("prompt".into(), "cot".into());
        (settings.answer, settings.id) = ("gold".into(), "key".into());
    })
    .unwrap();
    assert_eq!(
        (problems[0].id.as_str(), problems[0].answer.as_deref()),
        ("7", Some("3.5"))
    );
    assert_eq!(
        problems[0].demonstration.as_deref(),
        Some("a\nb\n\\boxed{3}")
    );
}

#[test]
fn the_last_assistant_turn_is_the_demonstration() {
    let line = r#"{"messages": [{"role": "user", "content": "old"}, {"role": "assistant", "content": "x"},
        {"role": "user", "content": "new"}, {"role": "assistant", "content": "<think>\ny\n</think>\n<answer>4</answer>"}]}"#
        .replace('\n', "");
    let (problems, _) = load(line.as_bytes(), |settings| {
        settings.format = DatasetFormat::Messages
    })
    .unwrap();
    assert_eq!(
        problems[0],
        Problem {
            id: "train-0".into(),
            question: "new".into(),
            demonstration: Some("y".into()),
            answer: Some("4".into())
        }
    );
}

/// The records kept, and the report's lines.
fn told(bytes: &[u8], change: impl FnOnce(&mut DatasetSettings)) -> (usize, Vec<String>) {
    let (problems, report) = load(bytes, change).unwrap();
    (problems.len(), report.lines())
}

#[test]
fn bad_records_are_counted_and_left_out() {
    let good = |id: usize| format!(r#"{{"question": "Q", "answer": "a\n#### 1", "id": {id}}}"#);
    let bad: [(&[u8], &str); 9] = [
        (
            b"{\"question\": ",
            "not the expected JSON (train.jsonl:2: not the expected JSON: EOF while parsing a value at column 13)",
        ),
        (
            b"[]",
            "not the expected JSON (train.jsonl:2: not the expected JSON: invalid type: list, expected an object)",
        ),
        (b"\xff", "invalid UTF-8 (train.jsonl:2)"),
        (
            br#"{"problem": "Q", "a": {"b": 1}}"#,
            "column `question` is missing (train.jsonl:2: column `question` is missing; the columns are `problem`, `a.b`)",
        ),
        (
            br#"{"question": []}"#,
            "column `question` is neither a text nor a number but a list (train.jsonl:2)",
        ),
        (
            br#"{"question": null, "answer": "a\n#### 1"}"#,
            "empty question (train.jsonl:2)",
        ),
        (
            br#"{"question": "Q", "answer": null}"#,
            "no demonstration (train.jsonl:2)",
        ),
        (
            br#"{"question": "Q\ud800"}"#,
            "unpaired surrogate in a string (train.jsonl:2: unpaired surrogate \\ud800 in a string: it is half of a \
             UTF-16 pair and no character)",
        ),
        (
            br#"{"question": "Q", "answer": "a\n#### 1", "id": 1}"#,
            "identifier occurs twice (train.jsonl:2: identifier `1` occurs twice)",
        ),
    ];
    for (bytes, reason) in bad {
        let file = [good(1).as_bytes(), b"\n", bytes, b"\n", good(2).as_bytes()].concat();
        let expected = format!("left out 1: {reason}");
        assert_eq!(told(&file, |_| {}), (2, vec![expected]));
    }
}

#[test]
fn a_file_without_usable_records_is_an_error() {
    let lines = br#"{"problem": "Q", "solution": "a"}
{"problem": "R", "solution": "b"}
nonsense"#;
    let message = load(lines, |_| {}).unwrap_err().to_string();
    assert!(
        message.ends_with(
            "train.jsonl: no record can be used: 2: column `question` is missing (train.jsonl:1: column `question` is \
             missing; the columns are `problem`, `solution`, train.jsonl:2: column `question` is missing; the columns are \
             `problem`, `solution`); 1: not the expected JSON (train.jsonl:3: not the expected JSON: expected ident at \
             column 2)"
        ),
        "{message}"
    );
    assert!(load_problems(&DatasetSettings::default()).is_err());
    assert_eq!(told(b"\n", |_| {}), (0, vec![]));
}

#[test]
fn a_missing_required_column_is_named() {
    let line = br#"{"question": "Q", "cot": "a", "level": 3}"#;
    let message = load(line, |settings| {
        settings.format = DatasetFormat::Columns;
        settings.required = Some(Required::Answer);
    });
    let message = message.unwrap_err().to_string();
    assert!(
        message.contains(
            "no answer: column `answer` is missing; the columns are `question`, `cot`, `level`"
        ),
        "{message}"
    );
}

#[test]
fn nan_is_read_as_null_and_noted() {
    let lines = br#"{"question": "Q", "answer": "a\n#### 1", "score": NaN}
{"question": "R", "answer": NaN}
{"question": "S", "answer": "a\n#### 2", "x": [1, -Infinity]}"#;
    assert_eq!(
        told(lines, |_| {}),
        (
            2,
            vec![
                "left out 1: no demonstration (train.jsonl:2)".to_owned(),
                "note for 2: NaN or an infinity, which JSON does not have, was read as null (train.jsonl:1, \
                 train.jsonl:3)"
                    .to_owned()
            ]
        )
    );
}

#[test]
fn arrays_and_records_over_lines_are_read() {
    let record =
        |n: usize| format!("{{\n  \"question\": \"Q{n}\",\n  \"answer\": \"a\\n#### {n}\"\n}}");
    let array = format!("[{},\n 7, {}]", record(1), record(2));
    let sequence = format!("{}\n\n{}\n", record(1), record(2));
    let one_line = array.replace('\n', "");
    for (text, ids) in [
        (&array, ["gsm8k-train-0", "gsm8k-train-2"]),
        (&one_line, ["gsm8k-train-0", "gsm8k-train-2"]),
        (&sequence, ["gsm8k-train-0", "gsm8k-train-1"]),
    ] {
        let (problems, report) = load(text.as_bytes(), |_| {}).unwrap();
        let found: Vec<&str> = problems.iter().map(|problem| problem.id.as_str()).collect();
        assert_eq!(found, ids, "{text}");
        assert_eq!(problems[1].answer.as_deref(), Some("2"));
        assert_eq!(report.skipped.len(), usize::from(text.contains('7')));
    }
}

#[test]
fn a_truncated_array_keeps_its_whole_records() {
    let text = br#"[{"question": "Q", "answer": "a\n#### 1"}, {"question": "R", "ans"#;
    let (kept, lines) = told(text, |_| {});
    assert_eq!((kept, lines.len()), (1, 1));
    assert!(lines[0].contains("EOF while parsing a string"), "{lines:?}");
}

#[test]
fn a_box_alone_holds_the_gold_answer() {
    let line =
        br#"{"problem": "What is 40+2?", "solution": "We get $40+2=\\boxed{42}$. So it is done."}"#;
    let (problems, report) =
        load(line, |settings| settings.format = DatasetFormat::Columns).unwrap();
    assert_eq!(problems[0].answer.as_deref(), Some("42"));
    let reasoning = problems[0].demonstration.as_deref();
    assert_eq!(reasoning, Some("We get $40+2=\\boxed{42}$. So it is done."));
    assert_eq!(
        report.lines(),
        [
            "note for 1: there is no column `demonstration`: `solution` is used (train.jsonl:1)",
            "note for 1: there is no column `question`: `problem` is used (train.jsonl:1)"
        ]
    );
}

#[test]
fn named_columns_are_never_replaced_by_usual_ones() {
    let line = br#"{"problem": "Q", "solution": "a\n#### 1", "Answer": "2"}"#;
    let with = |question: &str, answer: &str| {
        load(line, |settings| {
            settings.format = DatasetFormat::Columns;
            settings.question = question.into();
            settings.answer = answer.into();
        })
    };
    assert_eq!(
        with("problem", "answer").unwrap().0[0].answer.as_deref(),
        Some("2")
    );
    assert_eq!(
        with("problem", "gold").unwrap().0[0].answer.as_deref(),
        Some("1")
    );
    let message = with("prompt", "answer").unwrap_err().to_string();
    assert!(
        message.contains("column `prompt` is missing; the columns are `problem`"),
        "{message}"
    );
}

#[test]
fn answers_are_texts_numbers_booleans_or_lists() {
    for (answer, expected) in [
        ("\"x\"", "x"),
        ("3.50", "3.50"),
        (
            "123456789012345678901234567890",
            "123456789012345678901234567890",
        ),
        ("true", "true"),
        ("[\"7\"]", "7"),
        ("[\"7\", 8]", "7, 8"),
    ] {
        let line = format!(r#"{{"question": "Q", "cot": "a", "answer": {answer}}}"#);
        let (problems, _) = load(line.as_bytes(), |settings| {
            settings.format = DatasetFormat::Columns;
            settings.demonstration = "cot".into();
        })
        .unwrap();
        assert_eq!(problems[0].answer.as_deref(), Some(expected));
    }
}

#[test]
fn an_answer_alone_is_no_demonstration() {
    for (answer, gold, demonstration) in [
        ("72", Some("72"), None),
        ("\"-1,072\"", Some("-1,072"), None),
        ("false", Some("false"), None),
        ("[\"7\"]", Some("7"), None),
        ("\"one step\"", None, Some("one step")),
        ("\"1+1 = 2\\n#### 2\"", Some("2"), Some("1+1 = 2")),
    ] {
        let line = format!(r#"{{"question": "Q", "answer": {answer}}}"#);
        let (problems, _) = load(line.as_bytes(), |settings| {
            settings.required = Some(Required::Question);
        })
        .unwrap();
        let found = (
            problems[0].answer.as_deref(),
            problems[0].demonstration.as_deref(),
        );
        assert_eq!(found, (gold, demonstration), "{answer}");
    }
}

#[test]
fn demonstrations_may_be_lists_of_steps() {
    let line = br#"{"question": "Q", "steps": ["1+1 = 2", "2+2 = 4"], "answer": 4}"#;
    let (problems, _) = load(line, |settings| {
        settings.format = DatasetFormat::Columns;
        settings.demonstration = "steps".into();
    })
    .unwrap();
    assert_eq!(
        problems[0].demonstration.as_deref(),
        Some("1+1 = 2\n2+2 = 4")
    );
}

#[test]
fn alpaca_asks_the_instruction_with_its_input() {
    let line = br#"{"instruction": "Add.", "input": "1, 2", "output": "1+2 = 3\n#### 3"}"#;
    let (problems, _) = load(line, |settings| settings.format = DatasetFormat::Columns).unwrap();
    assert_eq!(problems[0].question, "Add.\n\n1, 2");
    assert_eq!(problems[0].answer.as_deref(), Some("3"));
}

#[test]
fn chats_stand_in_columns_of_any_layout() {
    let user = r#"{"role": "user", "content": "Q"}"#;
    let assistant = r##"{"role": "assistant", "content": "a\n#### 1"}"##;
    let lines = [
        format!(r#"{{"messages": [{user}, {assistant}]}}"#),
        r##"{"thread": [{"role": "prompter", "text": "Q"}, {"role": "assistant", "text": "a\n#### 1"}]}"##.to_owned(),
        r##"{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "a\n#### 1"}]}"##.to_owned(),
        format!(r#"{{"prompt": [{user}], "completion": [{assistant}]}}"#),
        format!(r#"{{"prompt": [{user}], "chosen": [{user}, {assistant}], "rejected": []}}"#),
    ];
    for line in lines {
        for format in [DatasetFormat::Messages, DatasetFormat::Columns] {
            // Only a layout of chats looks for less usual names.
            if format == DatasetFormat::Columns && line.contains("thread") {
                continue;
            }
            let (problems, _) = load(line.as_bytes(), |settings| settings.format = format).unwrap();
            let found = (
                &problems[0].question,
                &problems[0].demonstration,
                &problems[0].answer,
            );
            assert_eq!(
                found,
                (&"Q".into(), &Some("a".into()), &Some("1".into())),
                "{line}"
            );
        }
    }
}

#[test]
fn chats_may_be_records_by_themselves() {
    let chat = |n: u32| {
        format!(
            r#"[{{"from": "human", "value": "Q{n}"}}, {{"from": "gpt", "value": "a\n\\boxed{{{n}}}"}}]"#
        )
    };
    for text in [
        format!("[{}, {}]", chat(1), chat(2)),
        format!("{}\n{}\n", chat(1), chat(2)),
    ] {
        let messages = |settings: &mut DatasetSettings| settings.format = DatasetFormat::Messages;
        let (problems, _) = load(text.as_bytes(), messages).unwrap();
        let answers: Vec<_> = problems.iter().map(|p| p.answer.as_deref()).collect();
        assert_eq!(answers, [Some("1"), Some("2")], "{text}");
    }
}

#[test]
fn chat_reasoning_belongs_to_the_demonstration() {
    let line = br##"{"messages": [{"role": "user", "content": "Q"},
        {"role": "assistant", "reasoning_content": "3+4 = 7", "content": "So it is seven.\n#### 7"}]}"##;
    let line = String::from_utf8_lossy(line).replace('\n', "");
    let (problems, _) = load(line.as_bytes(), |settings| {
        settings.format = DatasetFormat::Messages
    })
    .unwrap();
    let reasoning = problems[0].demonstration.as_deref().unwrap();
    assert!(
        reasoning.starts_with("3+4 = 7\n") && reasoning.ends_with("\nSo it is seven."),
        "{reasoning}"
    );
    assert_eq!(problems[0].answer.as_deref(), Some("7"));
}

#[test]
fn fixed_layouts_refuse_names_of_columns() {
    let error = load(b"{}", |settings| {
        settings.format = DatasetFormat::Aime;
        settings.question = "Problem".into();
    });
    let message = error.unwrap_err().to_string();
    assert!(
        message.starts_with("format `aime` has fixed columns, so `question = \"Problem\"`"),
        "{message}"
    );
}
