//! `/v1/score` and `/v1/rewards`: texts with their scores, and with a reward a token.

use std::sync::Arc;

use assay_evals::localisation::Predictor;
use assay_tasks::trace::ScoredTrace;
use axum::Json;
use axum::extract::{Request, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::{App, Pair, rows};
use crate::fields::Fields;
use crate::refusal::Refusal;
use crate::view::{View, predictor, trace_score};

/// Fields of other servers' requests that change nothing here.
pub(super) const HARMLESS: [&str; 5] = [
    "user",
    "priority",
    "truncate_prompt_tokens",
    "encoding_format",
    "metadata",
];

/// One text, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    question: String,
    text: String,
}

/// `POST /v1/score`.
pub(crate) async fn score(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let (model, view, traces) = scored(&app, request).await?;
    let data = traces.iter().enumerate().map(|(index, trace)| {
        json!({
            "object": "score",
            "index": index,
            "score": view.score(trace),
            "scores": trace.scores,
            "probability": app.models.probability(model, trace),
            "predicted_answer": trace.predicted_answer,
        })
    });
    Ok(Json(list(&app, model, data.collect(), &traces)))
}

/// `POST /v1/rewards`.
pub(crate) async fn rewards(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let (model, view, traces) = scored(&app, request).await?;
    let mut data = Vec::with_capacity(traces.len());
    for (index, trace) in traces.iter().enumerate() {
        let probability = app.models.probability(model, trace);
        data.push(view.token_rewards(index, trace, probability));
    }
    Ok(Json(list(&app, model, data, &traces)))
}

async fn scored(
    app: &Arc<App>,
    request: Request,
) -> Result<(usize, View, Vec<ScoredTrace>), Refusal> {
    let mut fields = Fields::read(request, &app.limits).await?;
    let name: Option<String> = fields.take("model")?;
    let model = app.models.reward("model", name.as_deref())?;
    let view = take_view(app, &mut fields, model)?;
    let pairs = take_pairs(app, &mut fields)?;
    fields.finish(&HARMLESS)?;
    Ok((model, view, app.score(model, pairs).await?))
}

/// The trace score and the predictor of a request, or those of the reward.
fn take_view(app: &App, fields: &mut Fields, reward: usize) -> Result<View, Refusal> {
    let score = match fields.take::<String>("score")? {
        Some(name) => trace_score(fields.path("score"), &name)?,
        None => app.models.score(reward),
    };
    let predictor = match fields.take::<String>("predictor")? {
        Some(name) => predictor(fields.path("predictor"), &name)?,
        None => Predictor::LargestDrop,
    };
    Ok(View { score, predictor })
}

/// `question` with `text` (or vLLM's `text_1` with `text_2`), or `traces`.
fn take_pairs(app: &App, fields: &mut Fields) -> Result<Vec<Pair>, Refusal> {
    let question: Option<String> = fields.take_any(&["question", "text_1"])?;
    let texts: Option<Texts> = fields.take_any(&["text", "text_2"])?;
    let traces: Option<Vec<Trace>> = fields.take("traces")?;
    let pairs = match (question, texts, traces) {
        (Some(question), Some(texts), None) => {
            app.ensure_text("question", &question)?;
            of_question(question, texts)
        }
        (None, None, Some(traces)) => of_traces(traces),
        _ => {
            let message = "give either `question` with `text` (a string or a list), or `traces` \
                           (a list of objects with `question` and `text`)";
            return Err(Refusal::request("missing_field", message).about("text"));
        }
    };
    let list = pairs.first().map_or("text", |pair| {
        pair.param.split('[').next().unwrap_or("text")
    });
    app.ensure_count(list, pairs.len())?;
    for pair in &pairs {
        app.ensure_text(&pair.param, &pair.text)?;
        app.ensure_text(&pair.param, &pair.question)?;
    }
    Ok(pairs)
}

fn of_question(question: String, texts: Texts) -> Vec<Pair> {
    let (texts, many) = match texts {
        Texts::One(text) => (vec![text], false),
        Texts::Many(texts) => (texts, true),
    };
    let pair = |(index, text)| Pair {
        question: question.clone(),
        text,
        param: match many {
            true => format!("text[{index}]"),
            false => "text".to_owned(),
        },
    };
    texts.into_iter().enumerate().map(pair).collect()
}

fn of_traces(traces: Vec<Trace>) -> Vec<Pair> {
    let pair = |(index, trace): (usize, Trace)| Pair {
        question: trace.question,
        text: trace.text,
        param: format!("traces[{index}]"),
    };
    traces.into_iter().enumerate().map(pair).collect()
}

fn list(app: &App, model: usize, data: Vec<Value>, traces: &[ScoredTrace]) -> Value {
    let tokens = rows(traces);
    json!({
        "object": "list",
        "model": app.models.rewards[model].name,
        "data": data,
        "usage": { "prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens },
    })
}
