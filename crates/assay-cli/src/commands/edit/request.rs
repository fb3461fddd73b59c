//! The request for one edit, and the edit in the server's answer.

use std::ops::Range;

use assay_evals::scores::answer_start;
use assay_tasks::problem::Problem;
use assay_tasks::prompts::PromptSettings;
use assay_tasks::random::{StreamKey, text_key};
use assay_tasks::segments::{StepUnit, steps};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::EditArgs;

/// What the server is asked to do.
const INSTRUCTION: &str = "You write training data for a model that learns to recognise wrong reasoning. You receive a \
    problem, an expert's solution and one step of it. Rewrite this step so that it contains exactly one mistake that a \
    careful person could make. Keep its language, style and length, and do not hint at the mistake. Reply with the \
    rewritten step alone, on one line.";
/// Maximum length of a rewritten step: this many times the step's length, plus [`LONGER`].
const TIMES_LONGER: usize = 3;
const LONGER: usize = 80;

/// A step of a demonstration that is to be rewritten.
pub(super) struct EditRequest {
    /// Identifies the request in the file of edits.
    pub(super) key: String,
    id: String,
    question: String,
    /// The demonstration in the prompt style.
    text: String,
    /// The step, in bytes of `text`.
    step: Range<usize>,
    seed: u64,
}

/// A record of the file of edits: a wrong trace with its passage, see `WrongTrace`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Edit {
    pub(super) request: String,
    id: String,
    question: String,
    text: String,
    wrong_span: Span,
    /// The expert's step.
    original: String,
    /// The model that rewrote it.
    model: String,
}

/// Bytes of a text.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Span {
    start: usize,
    end: usize,
}

/// Why an answer of the server cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    NotJson,
    NoText,
    Cut,
    Same,
    SeveralLines,
    TooLong,
}

impl Rejected {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NotJson => "the answer is not JSON",
            Self::NoText => "the answer has no text in choices[0].message.content",
            Self::Cut => "the answer reached --max-tokens",
            Self::Same => "the step did not change",
            Self::SeveralLines => "the answer has several lines",
            Self::TooLong => "the answer is much longer than the step",
        }
    }
}

impl EditRequest {
    /// The requests for a problem: `--edits` different steps before the answer, in random order.
    pub(super) fn of(problem: &Problem, prompt: &PromptSettings, args: &EditArgs) -> Vec<Self> {
        let Some(text) = prompt.demonstration(problem) else {
            return Vec::new();
        };
        let answer = answer_start(&text);
        let mut steps = steps(&text, StepUnit::Sentence);
        steps.retain(|step| step.end <= answer);
        let mut stream = StreamKey::Edits.stream(args.seed, &[text_key(&problem.id)]);
        stream.shuffle(&mut steps);
        steps.truncate(args.edits);
        let request = |step: Range<usize>| {
            let place = format!("{}\n{}\n{}\n{step:?}", args.model, problem.question, text);
            Self {
                key: format!("{:016x}", text_key(&place)),
                id: problem.id.clone(),
                question: problem.question.clone(),
                text: text.clone(),
                step,
                // Servers read a seed as a signed 32-bit integer.
                seed: stream.next_u64() >> 34,
            }
        };
        steps.into_iter().map(request).collect()
    }

    /// The body of the request; every attempt has another seed.
    pub(super) fn body(&self, args: &EditArgs, attempt: usize) -> Value {
        let task = format!(
            "Problem:\n{}\n\nSolution:\n{}\n\nStep to rewrite:\n{}",
            self.question,
            self.text,
            self.original()
        );
        json!({
            "model": args.model,
            "messages": [
                { "role": "system", "content": INSTRUCTION },
                { "role": "user", "content": task },
            ],
            "max_tokens": args.max_tokens,
            "temperature": 1.0,
            "seed": self.seed + attempt as u64,
        })
    }

    fn original(&self) -> &str {
        &self.text[self.step.clone()]
    }

    /// The edit in an answer of the server.
    pub(super) fn edited(&self, answer: &[u8], model: &str) -> Result<Edit, Rejected> {
        let answer: Value = serde_json::from_slice(answer).map_err(|_| Rejected::NotJson)?;
        let choice = answer.pointer("/choices/0").ok_or(Rejected::NoText)?;
        if choice.get("finish_reason").and_then(Value::as_str) == Some("length") {
            return Err(Rejected::Cut);
        }
        let content = choice.pointer("/message/content").and_then(Value::as_str);
        let content = content.ok_or(Rejected::NoText)?;
        // Models that think aloud put their thoughts before the answer.
        let rewritten = content.rsplit("</think>").next().unwrap_or(content).trim();
        let original = self.original();
        if rewritten.is_empty() {
            return Err(Rejected::NoText);
        }
        if rewritten.contains(['\n', '\r']) {
            return Err(Rejected::SeveralLines);
        }
        if rewritten.len() > original.len() * TIMES_LONGER + LONGER {
            return Err(Rejected::TooLong);
        }
        if rewritten.split_whitespace().eq(original.split_whitespace()) {
            return Err(Rejected::Same);
        }
        let (before, after) = (&self.text[..self.step.start], &self.text[self.step.end..]);
        Ok(Edit {
            request: self.key.clone(),
            id: self.id.clone(),
            question: self.question.clone(),
            text: format!("{before}{rewritten}{after}"),
            wrong_span: Span {
                start: before.len(),
                end: before.len() + rewritten.len(),
            },
            original: original.to_owned(),
            model: model.to_owned(),
        })
    }
}

/// Number of characters of the messages of a request.
pub(super) fn prompt_characters(body: &Value) -> usize {
    let messages = body["messages"].as_array().into_iter().flatten();
    let contents = messages.filter_map(|message| message["content"].as_str());
    contents.map(|content| content.chars().count()).sum()
}
