//! Where the samples of a request come from: the policy of this process, or an upstream server.

use std::sync::Arc;

use assay_lm::draw::SamplingSettings;
use assay_lm::sampling::Completion;
use assay_tasks::message::{Message, Role};
use assay_tasks::random::Stream;
use assay_tasks::trace::ScoredTrace;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Shape;
use super::options::Options;
use crate::app::App;
use crate::fields::Fields;
use crate::models::{Generator, POLICY, ServedPolicy};
use crate::refusal::Refusal;

/// Key of the streams of served samples.
const SERVE: u64 = 0x5e;
/// Tokens of an answer whose request names no limit.
const MAX_TOKENS: usize = 512;
/// Most stop texts of a request.
const STOPS: usize = 16;
/// Fields of OpenAI's requests that change nothing here.
const HARMLESS: [&str; 11] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "reasoning_effort",
    "verbosity",
    "priority",
];

/// One sampled answer, not yet scored.
pub(crate) struct Sample {
    /// The answer as it was sampled, cut at a stop text.
    pub(crate) text: String,
    pub(crate) finish_reason: &'static str,
    /// Sum of the policy's token log-probabilities, where they are known.
    pub(crate) logprob: Option<f64>,
    /// What the critic reads.
    pub(crate) trace: ScoredTrace,
}

/// The samples of a request and what they cost.
pub(crate) struct Samples {
    pub(crate) samples: Vec<Sample>,
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
}

/// A request that is ready to be sampled.
pub(crate) struct Plan {
    pub(crate) options: Options,
    pub(crate) shape: Shape,
    /// The model's name in the answer.
    pub(crate) model: String,
    /// The number of the request.
    pub(crate) number: u64,
    /// What the critic takes for the question.
    question: String,
    source: Source,
}

enum Source {
    Local {
        prompt: Vec<u32>,
        draw: SamplingSettings,
        max_tokens: usize,
        seed: Option<u64>,
        stops: Vec<String>,
    },
    Upstream {
        body: Map<String, Value>,
    },
}

/// A turn's content: a string, or parts of which only texts are read.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Plan {
    /// Reads what is to be answered and how it is drawn; refuses what cannot be.
    pub(crate) async fn new(
        app: &Arc<App>,
        options: Options,
        mut fields: Fields,
        shape: Shape,
    ) -> Result<Self, Refusal> {
        let asked = Asked::take(app, &mut fields, shape)?;
        let question = asked.question.clone();
        let (source, model) = match &app.models.generator {
            None => {
                let message =
                    "no policy is served here; start the server with --policy or --upstream";
                return Err(Refusal::status(
                    axum::http::StatusCode::NOT_FOUND,
                    "no_policy",
                    message,
                ));
            }
            Some(Generator::Local(served)) => {
                let known = [POLICY.to_owned()];
                if let Some(other) = options.model.as_ref().filter(|name| *name != POLICY) {
                    return Err(Refusal::unknown_model("model", other, &known));
                }
                let source = local(app, served, (&options, asked), fields).await?;
                (source, POLICY.to_owned())
            }
            Some(Generator::Upstream(_)) => {
                let model = options.model.clone();
                let model = model.ok_or_else(|| Refusal::field("model", "is missing"))?;
                let mut body = fields.into_rest();
                body.insert("model".to_owned(), Value::from(model.clone()));
                body.insert(asked.name.to_owned(), asked.raw);
                (Source::Upstream { body }, model)
            }
        };
        Ok(Self {
            options,
            shape,
            model,
            number: app.next_number(),
            question,
            source,
        })
    }
}

/// What is to be answered.
struct Asked {
    /// The field it stood in, and its value.
    name: &'static str,
    raw: Value,
    question: String,
    /// Turns of a chat; none for a text to be continued.
    messages: Vec<Message>,
}

impl Asked {
    fn take(app: &App, fields: &mut Fields, shape: Shape) -> Result<Self, Refusal> {
        match shape {
            Shape::Chat => {
                let raw: Value = fields.require("messages")?;
                let messages = messages(app, &raw)?;
                let question = messages.iter().rfind(|turn| turn.role == Role::User);
                let question = question
                    .map(|turn| turn.content.clone())
                    .ok_or_else(|| Refusal::field("messages", "holds no turn of the user"))?;
                Ok(Self {
                    name: "messages",
                    raw,
                    question,
                    messages,
                })
            }
            Shape::Text => {
                let raw: Value = fields.require("prompt")?;
                let question = match &raw {
                    Value::String(text) => Some(text),
                    Value::Array(texts) if texts.len() == 1 => match &texts[0] {
                        Value::String(text) => Some(text),
                        _ => None,
                    },
                    _ => None,
                };
                let message = "must be one string; token ids and several prompts are not taken";
                let question = question.ok_or_else(|| Refusal::field("prompt", message))?;
                app.ensure_text("prompt", question)?;
                if question.is_empty() {
                    return Err(Refusal::field("prompt", "is empty"));
                }
                Ok(Self {
                    name: "prompt",
                    question: question.clone(),
                    raw,
                    messages: Vec::new(),
                })
            }
        }
    }
}

fn messages(app: &App, raw: &Value) -> Result<Vec<Message>, Refusal> {
    let turns: Vec<Turn> = serde::Deserialize::deserialize(raw)
        .map_err(|error: serde_json::Error| Refusal::field("messages", error.to_string()))?;
    app.ensure_count("messages", turns.len())?;
    let mut messages = Vec::with_capacity(turns.len());
    for (index, turn) in turns.into_iter().enumerate() {
        let param = format!("messages[{index}]");
        let role = match turn.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            _ => {
                let message = "has a role other than system, developer, user and assistant";
                return Err(Refusal::field(param, message));
            }
        };
        let content = match turn.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                if parts.iter().any(|part| part.kind != "text") {
                    return Err(Refusal::field(param, "has a part that is no text"));
                }
                let texts: Vec<String> = parts.into_iter().map(|part| part.text).collect();
                texts.join("\n")
            }
            None => return Err(Refusal::field(param, "has no content")),
        };
        app.ensure_text(&param, &content)?;
        messages.push(Message { role, content });
    }
    Ok(messages)
}

/// Reads how the policy of this process is to draw, and encodes its prompt.
async fn local(
    app: &Arc<App>,
    served: &ServedPolicy,
    (options, asked): (&Options, Asked),
    mut fields: Fields,
) -> Result<Source, Refusal> {
    let draw = take_draw(&mut fields)?;
    let wanted: Option<usize> = fields.take_any(&["max_completion_tokens", "max_tokens"])?;
    let seed: Option<u64> = fields.take("seed")?;
    let stops = take_stops(&mut fields)?;
    fields.finish(&HARMLESS)?;
    let prompt = encode_prompt(app, options.reward, asked).await?;
    if prompt.is_empty() {
        return Err(Refusal::field("prompt", "is empty"));
    }
    let positions = served.model.transformer.config().max_positions;
    let room = positions.saturating_sub(prompt.len());
    if room == 0 || wanted.is_some_and(|tokens| tokens > room) {
        let message = format!(
            "the prompt has {} tokens and the model {positions} positions: at most {room} tokens can be asked for",
            prompt.len()
        );
        return Err(Refusal::too_long("max_tokens", message));
    }
    let max_tokens = wanted.unwrap_or(MAX_TOKENS.min(room));
    if max_tokens == 0 || max_tokens > app.limits.decode_tokens {
        let most = app.limits.decode_tokens;
        let message = format!("must lie between 1 and {most}, not {max_tokens}");
        return Err(Refusal::field("max_tokens", message));
    }
    app.ensure_tokens(prompt.len() + options.samples * max_tokens)?;
    Ok(Source::Local {
        prompt,
        draw,
        max_tokens,
        seed,
        stops,
    })
}

fn take_draw(fields: &mut Fields) -> Result<SamplingSettings, Refusal> {
    let default = SamplingSettings::default();
    let top_k = match fields.take::<i64>("top_k")? {
        None | Some(-1) => 0,
        Some(k) => {
            usize::try_from(k).map_err(|_| Refusal::field("top_k", "must be -1 or at least 0"))?
        }
    };
    let draw = SamplingSettings {
        temperature: fields.take("temperature")?.unwrap_or(default.temperature),
        top_p: fields.take("top_p")?.unwrap_or(default.top_p),
        top_k,
    };
    if !(0.0..=10.0).contains(&draw.temperature) {
        return Err(Refusal::field("temperature", "must lie between 0 and 10"));
    }
    if !(draw.top_p > 0.0 && draw.top_p <= 1.0) {
        return Err(Refusal::field("top_p", "must lie above 0 and be at most 1"));
    }
    let unsupported = "is not supported by the policy of this server";
    let zero = |value: &Value| value.as_f64() == Some(0.0);
    for name in ["presence_penalty", "frequency_penalty", "min_p"] {
        fields.refuse_unless(name, zero, unsupported)?;
    }
    let one = |value: &Value| value.as_f64() == Some(1.0);
    fields.refuse_unless("repetition_penalty", one, unsupported)?;
    let empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    fields.refuse_unless("logit_bias", empty, unsupported)?;
    Ok(draw)
}

fn take_stops(fields: &mut Fields) -> Result<Vec<String>, Refusal> {
    let stops = match fields.take::<OneOrMany>("stop")? {
        None => Vec::new(),
        Some(OneOrMany::One(stop)) => vec![stop],
        Some(OneOrMany::Many(stops)) => stops,
    };
    if stops.len() > STOPS || stops.iter().any(String::is_empty) {
        let message = format!("must be at most {STOPS} texts, none of them empty");
        return Err(Refusal::field("stop", message));
    }
    Ok(stops)
}

/// The policy's prompt. A chat without a system turn is asked in the reward's prompt style, as the policy was trained;
/// a text to be continued is taken as it is.
async fn encode_prompt(app: &Arc<App>, reward: usize, asked: Asked) -> Result<Vec<u32>, Refusal> {
    let shared = Arc::clone(app);
    app.blocking(move || {
        let Some(Generator::Local(served)) = &shared.models.generator else {
            return Err(Refusal::internal("no_policy", "no policy is loaded"));
        };
        let model = &served.model;
        if asked.messages.is_empty() {
            let mut ids = Vec::new();
            ids.extend(model.tokenizer.bos().filter(|_| model.tokenizer.adds_bos()));
            let encoded = model.tokenizer.encode(&asked.question).map_err(|error| {
                shared
                    .events
                    .failure("a prompt could not be encoded", &error);
                Refusal::internal("encoding_failed", "the prompt could not be encoded")
            })?;
            ids.extend(encoded);
            return Ok(ids);
        }
        let mut messages = Vec::new();
        if asked.messages.iter().all(|turn| turn.role != Role::System) {
            messages = shared.models.rewards[reward]
                .reward
                .scoring
                .prompt
                .messages("");
            messages.pop();
        }
        messages.extend(asked.messages);
        model.prompt_ids(&messages).map_err(|error| {
            shared
                .events
                .failure("a chat template refused a request", &error);
            let message = "the model's chat template refuses these turns";
            Refusal::field("messages", message)
        })
    })
    .await
}

/// Draws the samples of a request.
pub(crate) async fn samples(app: &Arc<App>, plan: &Plan) -> Result<Samples, Refusal> {
    match &plan.source {
        Source::Local {
            prompt,
            draw,
            max_tokens,
            seed,
            stops,
        } => {
            let path = |sample| match seed {
                Some(_) => vec![SERVE, sample],
                None => vec![SERVE, plan.number, sample],
            };
            let key = seed.unwrap_or(app.seed);
            let count = plan.options.samples as u64;
            let streams = (0..count).map(|sample| Stream::new(key, &path(sample)));
            let settings = (draw.clone(), *max_tokens);
            let sampling = app
                .engine
                .sample(prompt.clone(), streams.collect(), settings);
            let completions = sampling.await?;
            Ok(drawn(app, plan, (prompt.len(), stops), completions))
        }
        Source::Upstream { body } => {
            let (shared, body) = (Arc::clone(app), body.clone());
            let (endpoint, count) = (plan.shape.endpoint(), plan.options.samples);
            let asking = tokio::task::spawn_blocking(move || match &shared.models.generator {
                Some(Generator::Upstream(upstream)) => upstream.complete(endpoint, body, count),
                _ => Err(Refusal::internal("no_policy", "no policy is loaded")),
            });
            let broken = |_| Refusal::upstream("asking the upstream server failed");
            let answer = asking.await.map_err(broken)??;
            let samples = answer.choices.into_iter().map(|choice| Sample {
                logprob: None,
                trace: trace(&plan.question, &choice.text),
                finish_reason: choice.finish_reason,
                text: choice.text,
            });
            Ok(Samples {
                samples: samples.collect(),
                prompt_tokens: answer.prompt_tokens,
                completion_tokens: answer.completion_tokens,
            })
        }
    }
}

fn trace(question: &str, text: &str) -> ScoredTrace {
    ScoredTrace {
        question: question.to_owned(),
        text: text.to_owned(),
        ..ScoredTrace::default()
    }
}

/// Completions as samples; their traces keep the sampled ids, which are scored as they are.
fn drawn(
    app: &App,
    plan: &Plan,
    (prompt_tokens, stops): (usize, &[String]),
    completions: Vec<Completion>,
) -> Samples {
    let Some(Generator::Local(served)) = &app.models.generator else {
        return Samples {
            samples: Vec::new(),
            prompt_tokens,
            completion_tokens: 0,
        };
    };
    let completion_tokens = completions.iter().map(|c| c.token_ids.len()).sum();
    let sample = |completion: Completion| {
        let (whole, offsets) = served.model.decode(&completion.token_ids);
        let cut = stops.iter().filter_map(|stop| whole.find(stop)).min();
        // Of the tokens that the client sees: what a stop string cut off does not count.
        let seen = offsets
            .iter()
            .filter(|&&(_, end)| cut.is_none_or(|cut| end <= cut))
            .count();
        let logprobs = completion.policy_logprobs.iter().take(seen);
        let logprob = logprobs.map(|&value| f64::from(value)).sum();
        let text = cut.map_or(whole.as_str(), |end| &whole[..end]);
        let mut trace = trace(&plan.question, text);
        if cut.is_none() {
            trace.token_ids = completion.token_ids.clone();
            trace.token_offsets = offsets;
        }
        Sample {
            finish_reason: if cut.is_none() && completion.truncated {
                "length"
            } else {
                "stop"
            },
            logprob: Some(logprob),
            text: text.to_owned(),
            trace,
        }
    };
    Samples {
        samples: completions.into_iter().map(sample).collect(),
        prompt_tokens,
        completion_tokens,
    }
}
