//! The chosen answer in OpenAI's shapes: whole, or as chunks of a stream.

use serde_json::{Value, json};

use super::Shape;
use super::choose::Chosen;
use super::generate::Plan;
use crate::app::{App, unix_seconds};
use crate::routes::rerank::ranked;

/// A chosen answer with what is said of it.
pub(crate) struct Answer {
    shape: Shape,
    text: String,
    finish_reason: &'static str,
    /// `id`, `created`, `model`.
    head: Value,
    usage: Value,
    /// How the answer was chosen.
    assay: Value,
    include_usage: bool,
}

impl Answer {
    pub(crate) fn new(app: &App, plan: &Plan, chosen: Chosen) -> Self {
        let assay = choice(app, plan, &chosen);
        let (prompt, completion) = (
            chosen.samples.prompt_tokens,
            chosen.samples.completion_tokens,
        );
        let sample = &chosen.samples.samples[chosen.place];
        let prefix = match plan.shape {
            Shape::Chat => "chatcmpl",
            Shape::Text => "cmpl",
        };
        let id = format!("{prefix}-{}-{}", app.started, plan.number);
        Self {
            shape: plan.shape,
            text: sample.text.clone(),
            finish_reason: sample.finish_reason,
            head: json!({ "id": id, "created": unix_seconds(), "model": plan.model }),
            usage: json!({
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }),
            assay,
            include_usage: plan.options.include_usage,
        }
    }

    /// The answer as one object.
    pub(crate) fn whole(&self) -> Value {
        let mut choice = match self.shape {
            Shape::Chat => {
                json!({ "message": { "role": "assistant", "content": self.text, "refusal": null } })
            }
            Shape::Text => json!({ "text": self.text }),
        };
        choice["index"] = 0.into();
        choice["finish_reason"] = self.finish_reason.into();
        choice["logprobs"] = Value::Null;
        let mut whole = self.object("");
        whole["choices"] = json!([choice]);
        whole["usage"] = self.usage.clone();
        whole["assay"] = self.assay.clone();
        whole
    }

    /// The answer as chunks: words, then the finish reason with the choice, then the usage if it was asked for.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Value> {
        let first = matches!(self.shape, Shape::Chat)
            .then(|| self.chunk(json!({ "role": "assistant", "content": "" }), None));
        let words = self.text.split_inclusive(' ').map(|word| match self.shape {
            Shape::Chat => self.chunk(json!({ "content": word }), None),
            Shape::Text => self.chunk(json!(word), None),
        });
        let nothing = match self.shape {
            Shape::Chat => json!({}),
            Shape::Text => json!(""),
        };
        let mut last = self.chunk(nothing, Some(self.finish_reason));
        last["assay"] = self.assay.clone();
        let usage = self.include_usage.then(|| {
            let mut chunk = self.object(".chunk");
            chunk["choices"] = json!([]);
            chunk["usage"] = self.usage.clone();
            chunk
        });
        first.into_iter().chain(words).chain([last]).chain(usage)
    }

    fn chunk(&self, delta: Value, finish_reason: Option<&str>) -> Value {
        let content = match self.shape {
            Shape::Chat => "delta",
            Shape::Text => "text",
        };
        let mut chunk = self.object(".chunk");
        chunk["choices"] = json!([
            { "index": 0, content: delta, "finish_reason": finish_reason, "logprobs": null }
        ]);
        chunk
    }

    fn object(&self, suffix: &str) -> Value {
        let mut object = self.head.clone();
        object["object"] = match self.shape {
            Shape::Chat => format!("chat.completion{suffix}").into(),
            Shape::Text => "text_completion".into(),
        };
        object
    }
}

/// How the answer was chosen: the selector, the samples in the order they were drawn, their ranking by score.
fn choice(app: &App, plan: &Plan, chosen: &Chosen) -> Value {
    let options = &plan.options;
    let samples = &chosen.samples.samples;
    let scores: Vec<Option<f32>> = samples
        .iter()
        .map(|sample| options.view.score(&sample.trace))
        .collect();
    let candidates: Vec<Value> = samples
        .iter()
        .enumerate()
        .map(|(index, sample)| {
            let probability = app.models.probability(options.reward, &sample.trace);
            let mut candidate = json!({
                "index": index,
                "score": scores[index],
                "probability": probability,
                "predicted_answer": sample.trace.predicted_answer,
                "finish_reason": sample.finish_reason,
            });
            if options.return_candidates {
                candidate["text"] = sample.text.clone().into();
                candidate["rewards"] =
                    options
                        .view
                        .token_rewards(index, &sample.trace, probability);
            }
            candidate
        })
        .collect();
    json!({
        "n": samples.len(),
        "selector": options.selector.name(),
        "reward": app.models.rewards[options.reward].name,
        "score": options.view.score.name(),
        "chosen": chosen.place,
        "ranking": ranked(&scores),
        "candidates": candidates,
    })
}
