//! `/v1/rerank`, also under the paths of Cohere's and Jina's clients.

use std::cmp::Ordering;
use std::sync::Arc;

use assay_evals::localisation::Predictor;
use assay_evals::scores::{TraceScore, sigmoid};
use axum::Json;
use axum::extract::{Request, State};
use serde_json::{Map, Value};

use crate::answers::{
    BilledUnits, RankedDocument, RankedText, Ranking, RerankAnswer, RerankMeta, RerankUsage, View,
};
use crate::app::{App, Pair};
use crate::body::Fields;
use crate::refusal::Refusal;
use crate::requests::{Document, RerankRequest};

/// A document and its ranked text.
struct Ranked {
    document: Map<String, Value>,
    text: String,
}

/// Documents in order, and warnings about fields that were read differently than the request may
/// intend.
struct Documents {
    /// Name of their field.
    name: &'static str,
    documents: Vec<Ranked>,
    warnings: Vec<String>,
}

/// Scores in the order of the documents; `None` for empty ones.
struct DocumentScores {
    scores: Vec<Option<f64>>,
    tokens: usize,
}

/// `POST /v1/rerank`.
pub(crate) async fn rerank(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<RerankAnswer>, Refusal> {
    let fields = Fields::read(request, &app.limits).await?;
    let mut request: RerankRequest = fields.parse()?;
    let reward = app.models.reward("model", request.model.as_deref())?;
    let score = request
        .score
        .map_or_else(|| app.models.score(reward), |name| name.0);
    let documents = documents(&mut request)?;
    let scored = score_documents(&app, reward, &request.query, &documents, score).await?;
    let top_n = request.top_n.or(request.top_k).unwrap_or(usize::MAX);
    let order = ranked(&scored.scores).into_iter().take(top_n);
    if documents.name == "texts" {
        let shown = order.map(|index| shown_text(&request, &documents, &scored, index));
        return Ok(Json(RerankAnswer::Texts(shown.collect())));
    }
    let with_document = request
        .return_documents
        .or(request.return_text)
        .unwrap_or(false);
    let results = order.map(|index| RankedDocument {
        index,
        relevance_score: scored.scores[index].map_or(0.0, sigmoid),
        score: scored.scores[index],
        document: with_document.then(|| documents.documents[index].document.clone()),
    });
    Ok(Json(RerankAnswer::Ranking(Ranking {
        id: format!("rerank-{}", app.next_number()),
        object: "list",
        model: app.models.rewards[reward].name.clone(),
        results: results.collect(),
        usage: RerankUsage {
            prompt_tokens: scored.tokens,
            total_tokens: scored.tokens,
        },
        meta: RerankMeta {
            billed_units: BilledUnits { search_units: 1 },
            warnings: documents.warnings,
        },
    })))
}

fn shown_text(
    request: &RerankRequest,
    documents: &Documents,
    scored: &DocumentScores,
    index: usize,
) -> RankedText {
    let score = scored.scores[index];
    let with_text = request
        .return_text
        .or(request.return_documents)
        .unwrap_or(false);
    RankedText {
        index,
        score: match request.raw_scores {
            Some(true) => score,
            _ => Some(score.map_or(0.0, sigmoid)),
        },
        text: with_text.then(|| documents.documents[index].text.clone()),
    }
}

/// Scores the documents that are not empty.
async fn score_documents(
    app: &Arc<App>,
    reward: usize,
    query: &str,
    documents: &Documents,
    score: TraceScore,
) -> Result<DocumentScores, Refusal> {
    app.ensure_text("query", query)?;
    app.ensure_count(documents.name, documents.documents.len())?;
    let (mut pairs, mut places) = (Vec::new(), Vec::new());
    for (index, Ranked { text, .. }) in documents.documents.iter().enumerate() {
        let param = format!("{}[{index}]", documents.name);
        app.ensure_text(&param, text)?;
        if text.trim().is_empty() {
            continue;
        }
        places.push(index);
        pairs.push(Pair {
            question: query.to_owned(),
            text: text.clone(),
            param,
        });
    }
    let mut scores = vec![None; documents.documents.len()];
    if pairs.is_empty() {
        return Ok(DocumentScores { scores, tokens: 0 });
    }
    let scored = app.score(reward, pairs).await?;
    let view = View {
        score,
        predictor: Predictor::LargestDrop,
    };
    for (place, trace) in places.into_iter().zip(&scored.traces) {
        scores[place] = view.score(trace);
    }
    Ok(DocumentScores {
        scores,
        tokens: scored.tokens,
    })
}

/// The documents of a request: strings or objects in `documents`, or strings in `texts`.
fn documents(request: &mut RerankRequest) -> Result<Documents, Refusal> {
    let (name, given) = match (request.documents.take(), request.texts.take()) {
        (Some(documents), None) => ("documents", documents),
        (None, Some(texts)) => ("texts", texts.into_iter().map(Document::Text).collect()),
        (Some(_), Some(_)) => {
            return Err(Refusal::field(
                "texts",
                "give either `documents` or `texts`",
            ));
        }
        (None, None) => {
            let message = "is missing; expected a list of strings or of objects with `text`";
            return Err(Refusal::field("documents", message));
        }
    };
    let fields = request.rank_fields.take().unwrap_or_default();
    let (mut documents, mut warnings) = (Vec::with_capacity(given.len()), Vec::new());
    for (index, document) in given.into_iter().enumerate() {
        let document = match document {
            Document::Text(text) => Ranked {
                document: Map::from_iter([("text".to_owned(), text.clone().into())]),
                text,
            },
            Document::Object(document) => {
                let text = object_text(index, &document, &fields)?;
                if !fields.is_empty() && !document.contains_key("text") {
                    let names = fields.join("`, `");
                    warnings.push(format!(
                        "documents[{index}] has no text; ranked by `{names}`"
                    ));
                }
                Ranked { document, text }
            }
        };
        documents.push(document);
    }
    Ok(Documents {
        name,
        documents,
        warnings,
    })
}

/// The text of a document object: the fields to rank, one per line, else its `text`.
fn object_text(
    index: usize,
    document: &Map<String, Value>,
    fields: &[String],
) -> Result<String, Refusal> {
    let param = format!("documents[{index}]");
    if fields.is_empty() {
        return match document.get("text") {
            Some(Value::String(text)) => Ok(text.clone()),
            None | Some(Value::Null) => {
                let message = format!(
                    "{param} has no text: give a string, an object with `text`, or the fields to rank in `rank_fields`"
                );
                Err(Refusal::request("invalid_value", message).about(param))
            }
            Some(_) => Err(Refusal::field(format!("{param}.text"), "expected a string")),
        };
    }
    let values = fields
        .iter()
        .filter_map(|field| match document.get(field)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        });
    let values: Vec<String> = values.collect();
    if values.is_empty() {
        let names = fields.join("`, `");
        let message =
            format!("{param} has no text: it has none of the fields `{names}` of `rank_fields`");
        return Err(Refusal::request("invalid_value", message).about(param));
    }
    Ok(values.join("\n"))
}

/// Indices in descending order of score; equal scores keep their order, those without one come
/// last.
pub(crate) fn ranked(scores: &[Option<f64>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let key = |index: usize| scores[index].unwrap_or(f64::NEG_INFINITY);
    order.sort_by(|&a, &b| key(b).partial_cmp(&key(a)).unwrap_or(Ordering::Equal));
    order
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::shape::RequestBody;

    /// Texts and warnings, or the message of the refusal.
    fn read(body: Value) -> Result<(Vec<String>, Vec<String>), String> {
        let Value::Object(fields) = body else {
            return Err("no object".to_owned());
        };
        let read = RerankRequest::shape()
            .read(fields)
            .and_then(|mut request| documents(&mut request));
        match read {
            Ok(read) => {
                let texts = read.documents.into_iter().map(|document| document.text);
                Ok((texts.collect(), read.warnings))
            }
            Err(refusal) => Err(refusal.message().to_owned()),
        }
    }

    #[test]
    fn ranking_falls_and_keeps_ties_in_order() {
        let scores = [Some(1.0), None, Some(3.0), Some(1.0), Some(-2.0)];
        assert_eq!(ranked(&scores), [2, 0, 3, 4, 1]);
    }

    #[test]
    fn documents_are_strings_objects_or_texts() {
        for body in [
            json!({ "query": "q", "documents": ["a", { "text": "b", "id": 4 }] }),
            json!({ "query": "q", "texts": ["a", "b"] }),
            json!({ "query": "q", "documents": [{ "x": "a" }, { "x": "b", "y": null }], "rank_fields": ["x", "y"] }),
        ] {
            let (texts, _) = read(body.clone()).unwrap();
            assert_eq!(texts, ["a", "b"], "{body}");
        }
    }

    #[test]
    fn rank_fields_choose_and_order_what_is_ranked() {
        let document = json!({ "title": "t", "body": "b", "year": 7, "text": "all" });
        let body =
            |fields: Value| json!({ "query": "q", "documents": [document], "rank_fields": fields });
        assert_eq!(read(body(json!(["body", "title"]))).unwrap().0, ["b\nt"]);
        assert_eq!(read(body(json!(["year"]))).unwrap().0, ["7"]);
        assert_eq!(
            read(body(json!([]))).unwrap(),
            (vec!["all".to_owned()], vec![])
        );
        let bare =
            json!({ "query": "q", "documents": [{ "title": "t" }], "rank_fields": ["title"] });
        assert_eq!(
            read(bare).unwrap().1,
            ["documents[0] has no text; ranked by `title`"]
        );
    }

    #[test]
    fn documents_without_text_are_named() {
        for (body, expected) in [
            (
                json!({ "query": "q", "documents": [{ "title": "t" }] }),
                "documents[0] has no text:",
            ),
            (
                json!({ "query": "q", "documents": ["a", { "text": null }] }),
                "documents[1] has no text:",
            ),
            (
                json!({ "query": "q", "documents": [{ "title": "t" }], "rank_fields": ["body"] }),
                "documents[0] has no text: it has none of the fields `body`",
            ),
            (
                json!({ "query": "q", "documents": [{ "text": 5 }] }),
                "`documents[0].text`: expected a string",
            ),
            (
                json!({ "query": "q", "documents": ["a", 5] }),
                "`documents[1]`: expected a string or an object, not 5",
            ),
            (
                json!({ "query": "q" }),
                "`documents`: is missing; expected a list of strings",
            ),
            (
                json!({ "documents": ["a"] }),
                "`query`: is missing; expected a string",
            ),
        ] {
            let error = read(body.clone()).unwrap_err();
            assert!(error.starts_with(expected), "{body}: {error}");
        }
    }
}
