//! The options that both completion endpoints share, whoever samples.

use assay_evals::localisation::Predictor;
use assay_evals::selection::Selector;
use serde_json::Value;

use super::Shape;
use crate::app::App;
use crate::fields::Fields;
use crate::models::Generator;
use crate::refusal::Refusal;
use crate::view::{View, predictor, trace_score};

/// Samples of a request that names no number.
const SAMPLES: usize = 4;

/// Selectors that cannot choose an answer here: one needs the truth.
const UNUSABLE: [Selector; 1] = [Selector::Oracle];

/// How many samples are drawn and how one of them is chosen.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) model: Option<String>,
    pub(crate) samples: usize,
    pub(crate) selector: Selector,
    pub(crate) reward: usize,
    pub(crate) view: View,
    /// Whether every sample is shown with its token rewards.
    pub(crate) return_candidates: bool,
    pub(crate) stream: bool,
    /// Whether a stream ends with the number of tokens.
    pub(crate) include_usage: bool,
}

impl Options {
    /// Takes `model`, `n`, `stream`, `stream_options` and `assay`, and refuses what no sampler here can do.
    pub(crate) fn take(app: &App, fields: &mut Fields, shape: Shape) -> Result<Self, Refusal> {
        refuse_unsupported(fields)?;
        if fields.take::<usize>("n")?.is_some_and(|n| n != 1) {
            let message =
                "one answer is returned; ask for more samples to choose from with `assay.n`";
            return Err(Refusal::field("n", message));
        }
        let best_of = match shape {
            Shape::Text => fields.take::<usize>("best_of")?,
            Shape::Chat => None,
        };
        let mut options = Self {
            model: fields.take("model")?,
            samples: best_of.unwrap_or(SAMPLES),
            selector: Selector::BestOfN,
            reward: 0,
            view: View {
                score: app.models.score(0),
                predictor: Predictor::LargestDrop,
            },
            return_candidates: false,
            stream: fields.take("stream")?.unwrap_or(false),
            include_usage: false,
        };
        if let Some(mut nested) = fields.nested("stream_options")? {
            options.include_usage = nested.take("include_usage")?.unwrap_or(false);
            nested.finish(&["include_obfuscation", "continuous_usage_stats"])?;
        }
        if let Some(nested) = fields.nested("assay")? {
            options.take_assay(app, nested)?;
        }
        options.validate(app)?;
        Ok(options)
    }

    fn take_assay(&mut self, app: &App, mut fields: Fields) -> Result<(), Refusal> {
        self.samples = fields.take("n")?.unwrap_or(self.samples);
        if let Some(name) = fields.take::<String>("selector")? {
            let known = Selector::parse(&name);
            self.selector =
                known.map_err(|error| Refusal::field("assay.selector", error.to_string()))?;
        }
        let reward: Option<String> = fields.take("reward")?;
        self.reward = app.models.reward("assay.reward", reward.as_deref())?;
        self.view.score = match fields.take::<String>("score")? {
            Some(name) => trace_score("assay.score".to_owned(), &name)?,
            None => app.models.score(self.reward),
        };
        if let Some(name) = fields.take::<String>("predictor")? {
            self.view.predictor = predictor("assay.predictor".to_owned(), &name)?;
        }
        self.return_candidates = fields.take("return_candidates")?.unwrap_or(false);
        fields.finish(&[])
    }

    fn validate(&self, app: &App) -> Result<(), Refusal> {
        let most = app.limits.samples;
        if self.samples == 0 || self.samples > most {
            let message = format!("must lie between 1 and {most}, not {}", self.samples);
            return Err(Refusal::field("assay.n", message));
        }
        let upstream = matches!(app.models.generator, Some(Generator::Upstream(_)));
        let needs_logprobs = matches!(self.selector, Selector::Logprob | Selector::Combined);
        let message = if UNUSABLE.contains(&self.selector) {
            "this selector needs the right answer"
        } else if upstream && needs_logprobs {
            "this selector needs log-probabilities, which the upstream server's answers lack"
        } else {
            return Ok(());
        };
        Err(Refusal::field("assay.selector", message))
    }
}

/// Fields that ask for something else than text chosen among samples.
fn refuse_unsupported(fields: &mut Fields) -> Result<(), Refusal> {
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let no = |value: &Value| *value == Value::Bool(false);
    let never = |_: &Value| false;
    let text = |value: &Value| value["type"] == "text";
    let choice = |value: &Value| *value == "none" || *value == "auto";
    let plain = |value: &Value| *value == serde_json::json!(["text"]);
    for name in ["tools", "functions"] {
        fields.refuse_unless(name, empty, "tools are not supported here")?;
    }
    for name in ["tool_choice", "function_call"] {
        fields.refuse_unless(name, choice, "tools are not supported here")?;
    }
    let logprobs = "log-probabilities are not returned here; /v1/rewards gives token rewards";
    fields.refuse_unless("logprobs", no, logprobs)?;
    fields.refuse_unless("top_logprobs", |value| *value == 0, logprobs)?;
    fields.refuse_unless("prompt_logprobs", never, logprobs)?;
    fields.refuse_unless("response_format", text, "only plain text is written here")?;
    fields.refuse_unless("modalities", plain, "only plain text is written here")?;
    fields.refuse_unless("audio", never, "only plain text is written here")?;
    fields.refuse_unless("echo", no, "the prompt is not repeated here")?;
    fields.refuse_unless("suffix", never, "text is only continued here")
}
