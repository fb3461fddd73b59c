//! Reads JSON lines `{"text", "gold"}` or `{"answer", "gold"}` from standard input and prints, for
//! each, whether they agree.
//!
//! `text` is a whole completion, `answer` a bare answer. `tools/golden/answers_math_verify.py`
//! compares the output with math-verify.

use std::io::{BufRead, Write};

use assay_tasks::answers::{Answer, check, same_answer};
use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let record: Value = serde_json::from_str(&line?)?;
        let field = |name: &str| record.get(name).and_then(Value::as_str);
        let gold = field("gold").unwrap_or_default();
        let (predicted, correct) = match field("text") {
            Some(text) => {
                let checked = check(text, Some(gold));
                (checked.predicted.unwrap_or_default(), checked.correct)
            }
            None => {
                let answer = field("answer").unwrap_or_default();
                (answer.to_owned(), Some(same_answer(answer, gold)))
            }
        };
        let reading = Answer::read(&predicted).to_string();
        let line = json!({"predicted": predicted, "reading": reading, "correct": correct});
        writeln!(out, "{line}")?;
    }
    Ok(())
}
