//! `/v1/rerank`, and the same under the names that Cohere's and Jina's clients ask for.

use std::cmp::Ordering;
use std::sync::Arc;

use assay_evals::localisation::Predictor;
use assay_evals::scores::sigmoid;
use axum::Json;
use axum::extract::{Request, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::texts::HARMLESS;
use crate::app::{App, Pair, rows};
use crate::fields::Fields;
use crate::refusal::Refusal;
use crate::view::{View, trace_score};

/// Fields of rerank requests that concern cutting documents up: documents are never cut here.
const OF_CUTTING: [&str; 4] = [
    "max_tokens_per_doc",
    "max_chunks_per_doc",
    "rank_fields",
    "truncation",
];

/// A document as clients send it: a string, or an object whose `text` counts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Text(String),
    Object { text: String },
}

impl Document {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { text } => text,
        }
    }
}

/// `POST /v1/rerank`.
pub(crate) async fn rerank(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let mut fields = Fields::read(request, &app.limits).await?;
    let name: Option<String> = fields.take("model")?;
    let model = app.models.reward("model", name.as_deref())?;
    let score = match fields.take::<String>("score")? {
        Some(name) => trace_score("score".to_owned(), &name)?,
        None => app.models.score(model),
    };
    let query: String = fields.require("query")?;
    let documents: Vec<Document> = fields.require("documents")?;
    let top_n: Option<usize> = fields.take("top_n")?;
    let with_text = fields.take::<bool>("return_documents")?.unwrap_or(false);
    fields.finish(&[HARMLESS.as_slice(), OF_CUTTING.as_slice()].concat())?;
    if top_n == Some(0) {
        return Err(Refusal::field("top_n", "must be at least 1"));
    }
    app.ensure_text("query", &query)?;
    app.ensure_count("documents", documents.len())?;
    let texts: Vec<String> = documents.into_iter().map(Document::into_text).collect();
    let mut pairs = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let param = format!("documents[{index}]");
        app.ensure_text(&param, text)?;
        pairs.push(Pair {
            question: query.clone(),
            text: text.clone(),
            param,
        });
    }
    let traces = app.score(model, pairs).await?;
    let view = View {
        score,
        predictor: Predictor::LargestDrop,
    };
    let scores: Vec<Option<f32>> = traces.iter().map(|trace| view.score(trace)).collect();
    let results = ranked(&scores)
        .into_iter()
        .take(top_n.unwrap_or(usize::MAX));
    let results: Vec<Value> = results
        .map(|index| {
            result(
                index,
                scores[index],
                with_text.then(|| texts[index].as_str()),
            )
        })
        .collect();
    let tokens = rows(&traces);
    Ok(Json(json!({
        "id": format!("rerank-{}", app.next_number()),
        "object": "list",
        "model": app.models.rewards[model].name,
        "results": results,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        "meta": { "billed_units": { "search_units": 1 } },
    })))
}

fn result(index: usize, score: Option<f32>, text: Option<&str>) -> Value {
    let relevance = score.map(|score| sigmoid(f64::from(score)));
    let mut result = json!({ "index": index, "relevance_score": relevance, "score": score });
    if let Some(text) = text {
        result["document"] = json!({ "text": text });
    }
    result
}

/// Indices by falling score; equal scores keep their order, texts without one come last.
pub(crate) fn ranked(scores: &[Option<f32>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let key = |index: usize| scores[index].unwrap_or(f32::NEG_INFINITY);
    order.sort_by(|&a, &b| key(b).partial_cmp(&key(a)).unwrap_or(Ordering::Equal));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranking_is_by_falling_score_and_keeps_ties_in_order() {
        let scores = [Some(1.0), None, Some(3.0), Some(1.0), Some(-2.0)];
        assert_eq!(ranked(&scores), [2, 0, 3, 4, 1]);
    }
}
