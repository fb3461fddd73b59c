//! Samples the answers of a request, from the policy of this process or an upstream server.

use std::sync::Arc;

use assay_lm::draw::DrawSettings;
use assay_lm::sampling::Completion;
use assay_tasks::random::StreamKey;
use assay_tasks::trace::ScoredTrace;
use serde_json::{Map, Value};

use super::Shape;
use super::options::Options;
use super::turns::Chat;
use crate::app::App;
use crate::body::Fields;
use crate::engine::SampleWork;
use crate::models::{Generator, POLICY, ServedPolicy};
use crate::refusal::Refusal;
use crate::requests::{
    ANSWER_FIELDS, ASSAY_FIELDS, ChatRequest, CompletionRequest, Sampling, Texts,
};

/// Maximum tokens of an answer if the request names no limit.
const DEFAULT_MAX_TOKENS: usize = 512;
/// Maximum number of stop texts of a request.
const MAX_STOPS: usize = 16;

/// One sampled answer, not yet scored.
pub(crate) struct Sample {
    /// The sampled answer, up to a stop text.
    pub(crate) text: String,
    pub(crate) finish_reason: &'static str,
    /// Sum of the policy's token log-probabilities, if known.
    pub(crate) logprob: Option<f64>,
    /// The trace for the critic.
    pub(crate) trace: ScoredTrace,
}

/// The samples of a request and their numbers of tokens.
#[derive(Default)]
pub(crate) struct Samples {
    pub(crate) samples: Vec<Sample>,
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
}

/// A request that is ready for sampling.
pub(crate) struct Plan {
    pub(crate) options: Options,
    pub(crate) shape: Shape,
    /// The model's name in the response.
    pub(crate) model: String,
    /// The number of the request.
    pub(crate) number: u64,
    /// The question for the critic.
    question: String,
    source: Source,
}

enum Source {
    Local(Local),
    Upstream { body: Map<String, Value> },
}

/// Sampling settings of the policy of this process.
#[derive(Clone)]
struct Local {
    prompt: Vec<u32>,
    draw: DrawSettings,
    max_tokens: usize,
    seed: Option<u64>,
    stops: Vec<String>,
}

/// The prompt: a chat, or a text to continue.
enum Asked {
    Chat(Chat),
    Text,
}

/// A parsed request.
struct Wanted {
    asked: Asked,
    question: String,
    sampling: Sampling,
    best_of: Option<usize>,
}

impl Plan {
    /// Reads the prompt and the sampling settings. Fails if they are not supported.
    pub(crate) async fn new(
        app: &Arc<App>,
        mut fields: Fields,
        shape: Shape,
    ) -> Result<Self, Refusal> {
        match &app.models.generator {
            None => {
                let wanted = Wanted::read(app, fields.take(own_fields()), shape)?;
                Options::new(app, &wanted.sampling, wanted.best_of)?;
                let message =
                    "no policy is served here; start the server with --policy or --upstream";
                let status = axum::http::StatusCode::NOT_FOUND;
                Err(Refusal::status(status, "no_policy", message))
            }
            Some(Generator::Local(served)) => Self::local(app, served, fields, shape).await,
            Some(Generator::Upstream(_)) => Self::upstream(app, fields, shape),
        }
    }

    async fn local(
        app: &Arc<App>,
        served: &ServedPolicy,
        fields: Fields,
        shape: Shape,
    ) -> Result<Self, Refusal> {
        let wanted = Wanted::read(app, fields, shape)?;
        let options = Options::new(app, &wanted.sampling, wanted.best_of)?;
        let model = wanted.sampling.model.as_deref();
        if let Some(other) = model.filter(|name| ![POLICY, ""].contains(name)) {
            return Err(Refusal::unknown_model("model", other, &[POLICY.to_owned()]));
        }
        let question = wanted.question.clone();
        let source = Source::Local(local(app, served, &options, wanted).await?);
        Ok(Self {
            options,
            shape,
            model: POLICY.to_owned(),
            number: app.next_number(),
            question,
            source,
        })
    }

    /// The upstream server receives the request as sent, without the fields that are read here.
    fn upstream(app: &App, mut fields: Fields, shape: Shape) -> Result<Self, Refusal> {
        let own = fields.take(own_fields());
        let kept = ["messages", "prompt", "model"].into_iter();
        let kept = kept.chain(shown_tools(&own));
        let kept: Vec<(String, Value)> = kept
            .filter_map(|name| Some((name.to_owned(), own.get(name)?.clone())))
            .collect();
        let wanted = Wanted::read(app, own, shape)?;
        let options = Options::new(app, &wanted.sampling, wanted.best_of)?;
        let model = wanted.sampling.model;
        let model = model.ok_or_else(|| Refusal::field("model", "is missing"))?;
        let mut body = fields.into_map();
        body.extend(kept);
        Ok(Self {
            options,
            shape,
            model,
            number: app.next_number(),
            question: wanted.question,
            source: Source::Upstream { body },
        })
    }
}

/// Fields that are read here even if an upstream server samples.
fn own_fields() -> impl Iterator<Item = &'static str> {
    let answer = ANSWER_FIELDS.iter().map(|field| field.name);
    ASSAY_FIELDS.into_iter().chain(answer)
}

/// The fields of tools, if there are tools for the model's template.
fn shown_tools(fields: &Fields) -> impl Iterator<Item = &'static str> + use<> {
    let tools = fields.get("tools").and_then(Value::as_array);
    let shown = tools.is_some_and(|tools| !tools.is_empty());
    ["tools", "tool_choice"].into_iter().filter(move |_| shown)
}

impl Wanted {
    fn read(app: &App, fields: Fields, shape: Shape) -> Result<Self, Refusal> {
        match shape {
            Shape::Chat => Self::chat(app, fields.parse()?),
            Shape::Text => Self::text(app, fields.parse()?),
        }
    }

    fn chat(app: &App, request: ChatRequest) -> Result<Self, Refusal> {
        ensure_no_call(&request)?;
        let chat = Chat::new(app, &request)?;
        let question = chat.question().map(str::to_owned);
        Ok(Self {
            question: question
                .ok_or_else(|| Refusal::field("messages", "holds no turn of the user"))?,
            asked: Asked::Chat(chat),
            sampling: request.sampling,
            best_of: None,
        })
    }

    fn text(app: &App, request: CompletionRequest) -> Result<Self, Refusal> {
        let question = match &request.prompt {
            Value::String(text) => Some(text.as_str()),
            Value::Array(texts) => match texts.as_slice() {
                [Value::String(text)] => Some(text.as_str()),
                _ => None,
            },
            _ => None,
        };
        let message = "must be one string; token ids and several prompts are not accepted";
        let question = question.ok_or_else(|| Refusal::field("prompt", message))?;
        app.ensure_text("prompt", question)?;
        if question.is_empty() {
            return Err(Refusal::field("prompt", "is empty"));
        }
        Ok(Self {
            question: question.to_owned(),
            asked: Asked::Text,
            sampling: request.sampling,
            best_of: request.best_of,
        })
    }
}

/// Fails if a tool could be called. Tools may only be passed to the template.
fn ensure_no_call(request: &ChatRequest) -> Result<(), Refusal> {
    let choice = request.tool_choice.as_ref();
    let tools = request.tools.as_deref().unwrap_or_default();
    let none = choice.is_some_and(|choice| choice == "none");
    if !tools.is_empty() && !none {
        let message = "tools are not called here; send `tool_choice`: \"none\" to only show them to the model";
        return Err(Refusal::field("tools", message));
    }
    match choice {
        Some(choice) if choice != "none" && choice != "auto" => {
            Err(Refusal::field("tool_choice", "tools are not called here"))
        }
        _ => Ok(()),
    }
}

/// Reads the sampling settings of the policy of this process, and encodes its prompt.
async fn local(
    app: &Arc<App>,
    served: &ServedPolicy,
    options: &Options,
    wanted: Wanted,
) -> Result<Local, Refusal> {
    let sampling = wanted.sampling.clone();
    let limit = max_tokens(&sampling)?;
    let stops = stops(&sampling)?;
    let prompt = encode_prompt(app, options.reward, wanted).await?;
    if prompt.is_empty() {
        return Err(Refusal::field("prompt", "is empty"));
    }
    let positions = served.model.transformer.config().max_positions;
    let room = positions.saturating_sub(prompt.len());
    if room == 0 || limit.is_some_and(|tokens| tokens > room) {
        let message = format!(
            "the prompt has {} tokens and the model {positions} positions: at most {room} tokens can be asked for",
            prompt.len()
        );
        return Err(Refusal::too_long("max_tokens", message));
    }
    let max_tokens = limit.unwrap_or(DEFAULT_MAX_TOKENS.min(room));
    if max_tokens == 0 || max_tokens > app.limits.decode_tokens {
        let max = app.limits.decode_tokens;
        let message = format!("must lie between 1 and {max}, not {max_tokens}");
        return Err(Refusal::field("max_tokens", message));
    }
    app.ensure_tokens(prompt.len() + options.samples * max_tokens)?;
    let default = DrawSettings::default();
    Ok(Local {
        prompt,
        draw: DrawSettings {
            temperature: sampling.temperature.unwrap_or(default.temperature),
            top_p: sampling.top_p.unwrap_or(default.top_p),
            top_k: sampling.top_k.and_then(|k| k.try_into().ok()).unwrap_or(0),
        },
        max_tokens,
        seed: sampling.seed.and_then(|seed| seed.0),
        stops,
    })
}

/// The token limit of a request; -1 means none. Both names may be given if their values agree.
fn max_tokens(sampling: &Sampling) -> Result<Option<usize>, Refusal> {
    let given = |tokens: Option<i64>| tokens.and_then(|tokens| usize::try_from(tokens).ok());
    let (new, old) = (
        given(sampling.max_completion_tokens),
        given(sampling.max_tokens),
    );
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            let message = "is another name for `max_completion_tokens`: give only one of them";
            Err(Refusal::field("max_tokens", message))
        }
        _ => Ok(new.or(old)),
    }
}

/// The stop texts of a request, without empty strings.
fn stops(sampling: &Sampling) -> Result<Vec<String>, Refusal> {
    let stops = match sampling.stop.clone() {
        None => Vec::new(),
        Some(Texts::One(stop)) => Some(stop)
            .filter(|stop| !stop.is_empty())
            .into_iter()
            .collect(),
        Some(Texts::Many(stops)) => stops,
    };
    if stops.len() > MAX_STOPS || stops.iter().any(String::is_empty) {
        let message = format!("must be at most {MAX_STOPS} texts, none of them empty");
        return Err(Refusal::field("stop", message));
    }
    Ok(stops)
}

/// The policy's prompt. A chat without a system turn is rendered in the reward's prompt style, on
/// which the policy was trained. A text to continue is used unchanged.
async fn encode_prompt(app: &Arc<App>, reward: usize, wanted: Wanted) -> Result<Vec<u32>, Refusal> {
    let shared = Arc::clone(app);
    app.blocking(move || {
        let Some(Generator::Local(served)) = &shared.models.generator else {
            return Err(Refusal::internal("no_policy", "no policy is loaded"));
        };
        let model = &served.model;
        let Asked::Chat(mut chat) = wanted.asked else {
            let bos = model.tokenizer.bos().filter(|_| model.tokenizer.adds_bos());
            let encoded = model.tokenizer.encode(&wanted.question).map_err(|error| {
                let events = &shared.events;
                events.failure("a prompt could not be encoded", &error);
                Refusal::internal("encoding_failed", "the prompt could not be encoded")
            })?;
            return Ok(bos.into_iter().chain(encoded).collect());
        };
        if !chat.has_system() {
            let style = &shared.models.rewards[reward].reward.scoring.prompt;
            let mut before = style.messages("");
            before.pop();
            chat.prepend(&before);
        }
        chat.encode(model).map_err(|error| {
            let events = &shared.events;
            events.failure("a chat template refused a request", &error);
            Refusal::field("messages", "the model's chat template refuses these turns")
        })
    })
    .await
}

/// Draws the samples of a request.
pub(crate) async fn samples(app: &Arc<App>, plan: &Plan) -> Result<Samples, Refusal> {
    match &plan.source {
        Source::Local(local) => sample_locally(app, plan, local).await,
        Source::Upstream { body } => sample_upstream(app, plan, body.clone()).await,
    }
}

async fn sample_locally(app: &Arc<App>, plan: &Plan, local: &Local) -> Result<Samples, Refusal> {
    let path = |sample| match local.seed {
        Some(_) => vec![sample],
        None => vec![plan.number, sample],
    };
    let key = local.seed.unwrap_or(app.seed);
    let stream = |sample| StreamKey::Served.stream(key, &path(sample));
    let streams = (0..plan.options.samples as u64).map(stream);
    let work = SampleWork {
        prompt: local.prompt.clone(),
        streams: streams.collect(),
        draw: local.draw.clone(),
        max_tokens: local.max_tokens,
    };
    let completions = app.engine.sample(work).await?;
    let (shared, stops, question) = (Arc::clone(app), local.stops.clone(), plan.question.clone());
    let prompt_tokens = local.prompt.len();
    app.blocking(move || {
        let Some(Generator::Local(served)) = &shared.models.generator else {
            return Err(Refusal::internal("no_policy", "no policy is loaded"));
        };
        let completion_tokens = completions.iter().map(|c| c.token_ids.len()).sum();
        let samples = completions.into_iter();
        Ok(Samples {
            samples: samples
                .map(|c| drawn(served, &question, &stops, c))
                .collect(),
            prompt_tokens,
            completion_tokens,
        })
    })
    .await
}

async fn sample_upstream(
    app: &Arc<App>,
    plan: &Plan,
    body: Map<String, Value>,
) -> Result<Samples, Refusal> {
    let shared = Arc::clone(app);
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

fn trace(question: &str, text: &str) -> ScoredTrace {
    ScoredTrace {
        question: question.to_owned(),
        text: text.to_owned(),
        ..ScoredTrace::default()
    }
}

/// A completion as a sample; its trace keeps the sampled ids, which are scored as they are.
fn drawn(
    served: &ServedPolicy,
    question: &str,
    stops: &[String],
    completion: Completion,
) -> Sample {
    let (whole, offsets) = served.model.decode(&completion.token_ids);
    let cut = stops.iter().filter_map(|stop| whole.find(stop)).min();
    // The tokens that the client sees, without those after a stop text.
    let seen = offsets
        .iter()
        .filter(|&&(_, end)| cut.is_none_or(|cut| end <= cut));
    let logprobs = completion.policy_logprobs.iter().take(seen.count());
    let logprob = logprobs.map(|&value| f64::from(value)).sum();
    let text = cut.map_or(whole.as_str(), |end| &whole[..end]);
    let mut trace = trace(question, text);
    if cut.is_none() {
        trace.token_ids = completion.token_ids;
        trace.token_offsets = offsets;
    }
    let at_limit = cut.is_none() && completion.truncated;
    Sample {
        finish_reason: if at_limit { "length" } else { "stop" },
        logprob: Some(logprob),
        text: text.to_owned(),
        trace,
    }
}
