//! The chosen answer in OpenAI's formats: one object, or chunks of a stream.

use serde::Serialize;

use super::Shape;
use super::choose::Chosen;
use super::generate::Plan;
use crate::answers::{
    AnswerTurn, CandidateView, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, Choice,
    Completion, CompletionChunk, Delta, TextChoice, TextChunkChoice, Usage,
};
use crate::app::{App, unix_seconds};
use crate::routes::rerank::ranked;

/// A chosen answer and how it was chosen.
pub(crate) struct Answer {
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    text: String,
    finish_reason: &'static str,
    usage: Usage,
    choice: Choice,
    include_usage: bool,
}

/// An answer as one object.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Whole {
    Chat(ChatCompletion),
    Text(Completion),
}

/// A part of a streamed answer.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Chunk {
    Chat(ChatChunk),
    Text(CompletionChunk),
}

/// What a chunk adds to the answer.
enum Part {
    /// The turn begins.
    Role,
    Text(String),
    /// The answer ends; includes how it was chosen.
    End,
    Usage,
}

impl Answer {
    pub(crate) fn new(app: &App, plan: &Plan, chosen: Chosen) -> Self {
        let choice = choice(app, plan, &chosen);
        let samples = &chosen.samples;
        let usage = Usage::new(samples.prompt_tokens, samples.completion_tokens);
        let sample = &samples.samples[chosen.place];
        let prefix = match plan.shape {
            Shape::Chat => "chatcmpl",
            Shape::Text => "cmpl",
        };
        Self {
            shape: plan.shape,
            id: format!("{prefix}-{}-{}", app.started, plan.number),
            created: unix_seconds(),
            model: plan.model.clone(),
            text: sample.text.clone(),
            finish_reason: sample.finish_reason,
            usage,
            choice,
            include_usage: plan.options.include_usage,
        }
    }

    /// The answer as one object.
    pub(crate) fn whole(self) -> Whole {
        match self.shape {
            Shape::Chat => Whole::Chat(ChatCompletion {
                id: self.id,
                created: self.created,
                model: self.model,
                object: "chat.completion",
                choices: [ChatChoice {
                    message: AnswerTurn {
                        role: "assistant",
                        content: self.text,
                        refusal: (),
                    },
                    index: 0,
                    finish_reason: self.finish_reason,
                    logprobs: (),
                }],
                usage: self.usage,
                assay: self.choice,
            }),
            Shape::Text => Whole::Text(Completion {
                id: self.id,
                created: self.created,
                model: self.model,
                object: "text_completion",
                choices: [TextChoice {
                    text: self.text,
                    index: 0,
                    finish_reason: self.finish_reason,
                    logprobs: (),
                }],
                usage: self.usage,
                assay: self.choice,
            }),
        }
    }

    /// The answer as chunks: words, then the finish reason with the choice, then the usage if
    /// requested.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let role = (self.shape == Shape::Chat).then_some(Part::Role);
        let words = self.text.split_inclusive(' ');
        let words = words.map(|word| Part::Text(word.to_owned()));
        let usage = self.include_usage.then_some(Part::Usage);
        let parts = role
            .into_iter()
            .chain(words)
            .chain([Part::End])
            .chain(usage);
        parts.map(|part| match self.shape {
            Shape::Chat => Chunk::Chat(self.chat_chunk(part)),
            Shape::Text => Chunk::Text(self.text_chunk(part)),
        })
    }

    fn chat_chunk(&self, part: Part) -> ChatChunk {
        let mut chunk = ChatChunk {
            id: self.id.clone(),
            created: self.created,
            model: self.model.clone(),
            object: "chat.completion.chunk",
            choices: Vec::new(),
            assay: None,
            usage: None,
        };
        let (delta, finish_reason) = match part {
            Part::Role => {
                let delta = Delta {
                    role: Some("assistant"),
                    content: Some(String::new()),
                };
                (delta, None)
            }
            Part::Text(text) => {
                let delta = Delta {
                    role: None,
                    content: Some(text),
                };
                (delta, None)
            }
            Part::End => {
                chunk.assay = Some(self.choice.clone());
                (Delta::default(), Some(self.finish_reason))
            }
            Part::Usage => {
                chunk.usage = Some(self.usage);
                return chunk;
            }
        };
        chunk.choices.push(ChatChunkChoice {
            index: 0,
            delta,
            finish_reason,
            logprobs: (),
        });
        chunk
    }

    fn text_chunk(&self, part: Part) -> CompletionChunk {
        let mut chunk = CompletionChunk {
            id: self.id.clone(),
            created: self.created,
            model: self.model.clone(),
            object: "text_completion",
            choices: Vec::new(),
            assay: None,
            usage: None,
        };
        let (text, finish_reason) = match part {
            Part::Role => (String::new(), None),
            Part::Text(text) => (text, None),
            Part::End => {
                chunk.assay = Some(self.choice.clone());
                (String::new(), Some(self.finish_reason))
            }
            Part::Usage => {
                chunk.usage = Some(self.usage);
                return chunk;
            }
        };
        chunk.choices.push(TextChunkChoice {
            index: 0,
            text,
            finish_reason,
            logprobs: (),
        });
        chunk
    }
}

/// How the answer was chosen: the selector, the samples in order of sampling, and their ranking by
/// score.
fn choice(app: &App, plan: &Plan, chosen: &Chosen) -> Choice {
    let options = &plan.options;
    let samples = &chosen.samples.samples;
    let view = options.view;
    let scores: Vec<Option<f64>> = samples.iter().map(|s| view.score(&s.trace)).collect();
    let candidates = samples.iter().enumerate().map(|(index, sample)| {
        let probability = app.models.probability(options.reward, &sample.trace);
        let rewards = || view.token_rewards(index, &sample.trace, probability);
        CandidateView {
            index,
            score: scores[index],
            probability,
            predicted_answer: sample.trace.predicted_answer.clone(),
            finish_reason: sample.finish_reason,
            text: options.return_candidates.then(|| sample.text.clone()),
            rewards: options.return_candidates.then(rewards),
        }
    });
    Choice {
        n: samples.len(),
        selector: options.selector.name(),
        reward: app.models.rewards[options.reward].name.clone(),
        score: view.score.name(),
        chosen: chosen.place,
        ranking: ranked(&scores),
        candidates: candidates.collect(),
    }
}
