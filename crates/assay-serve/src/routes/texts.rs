//! `/v1/score` and `/v1/rewards`: texts with their scores, and with a reward for each token.

use std::sync::Arc;

use assay_evals::localisation::Predictor;
use axum::Json;
use axum::extract::{Request, State};

use crate::answers::{Rewards, Score, Scores, Usage, View, scores};
use crate::app::{App, Pair, Scored};
use crate::body::Fields;
use crate::refusal::Refusal;
use crate::requests::{Texts, TextsRequest, Trace};

/// Scored texts and how they are shown.
struct Answer {
    reward: usize,
    view: View,
    scored: Scored,
}

/// The name of the given field of a request, and its texts.
struct Given {
    name: &'static str,
    texts: Texts,
}

/// `POST /v1/score`.
pub(crate) async fn score(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Scores>, Refusal> {
    let Answer {
        reward,
        view,
        scored,
    } = answer(&app, request).await?;
    let traces = scored.traces.iter().enumerate();
    let data = traces.map(|(index, trace)| Score {
        object: "score",
        index,
        score: view.score(trace),
        scores: scores(trace),
        probability: app.models.probability(reward, trace),
        predicted_answer: trace.predicted_answer.clone(),
    });
    Ok(Json(Scores {
        object: "list",
        model: app.models.rewards[reward].name.clone(),
        data: data.collect(),
        usage: Usage::new(scored.tokens, 0),
    }))
}

/// `POST /v1/rewards`.
pub(crate) async fn rewards(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Rewards>, Refusal> {
    let Answer {
        reward,
        view,
        scored,
    } = answer(&app, request).await?;
    let traces = scored.traces.iter().enumerate();
    let data = traces.map(|(index, trace)| {
        let probability = app.models.probability(reward, trace);
        view.token_rewards(index, trace, probability)
    });
    Ok(Json(Rewards {
        object: "list",
        model: app.models.rewards[reward].name.clone(),
        data: data.collect(),
        usage: Usage::new(scored.tokens, 0),
    }))
}

async fn answer(app: &Arc<App>, request: Request) -> Result<Answer, Refusal> {
    let fields = Fields::read(request, &app.limits).await?;
    let mut request: TextsRequest = fields.parse()?;
    let reward = app.models.reward("model", request.model.as_deref())?;
    let view = View {
        score: request
            .score
            .map_or_else(|| app.models.score(reward), |name| name.0),
        predictor: request
            .predictor
            .map_or(Predictor::LargestDrop, |name| name.0),
    };
    let pairs = pairs(&mut request)?;
    ensure_bounds(app, &pairs)?;
    let scored = app.score(reward, pairs).await?;
    Ok(Answer {
        reward,
        view,
        scored,
    })
}

/// A question with its texts, questions with one text each, or traces.
fn pairs(request: &mut TextsRequest) -> Result<Vec<Pair>, Refusal> {
    let questions = only([
        ("question", request.question.take()),
        ("text_1", request.text_1.take()),
        ("data_1", request.data_1.take()),
        ("queries", request.queries.take()),
    ])?;
    let texts = only([
        ("text", request.text.take()),
        ("text_2", request.text_2.take()),
        ("data_2", request.data_2.take()),
        ("documents", request.documents.take()),
        ("items", request.items.take()),
    ])?;
    match (questions, texts, request.traces.take()) {
        (Some(questions), Some(texts), None) => paired(questions, texts),
        (None, None, Some(traces)) if traces.is_empty() => {
            Err(Refusal::field("traces", "is empty"))
        }
        (None, None, Some(traces)) => {
            let traces = traces.into_iter().enumerate();
            Ok(traces
                .map(|(index, trace)| of_trace(index, trace))
                .collect())
        }
        _ => {
            let message = "give either `question` with `text` (a string or a list of strings each), \
                           or `traces` (a list of objects with `question` and `text`)";
            Err(Refusal::request("missing_field", message).about("text"))
        }
    }
}

/// The one field that was given under one of several names.
fn only<const N: usize>(
    fields: [(&'static str, Option<Texts>); N],
) -> Result<Option<Given>, Refusal> {
    let mut found: Option<Given> = None;
    for (name, texts) in fields {
        let Some(texts) = texts else { continue };
        if let Some(Given { name: other, .. }) = found {
            let message = format!("is another name for `{other}`: give only one of them");
            return Err(Refusal::field(name, message));
        }
        found = Some(Given { name, texts });
    }
    Ok(found)
}

/// One question with every text, or as many questions as texts.
fn paired(questions: Given, texts: Given) -> Result<Vec<Pair>, Refusal> {
    let (texts_name, questions_name) = (texts.name, questions.name);
    let is_one = matches!(texts.texts, Texts::One(_));
    let texts = match texts.texts {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    };
    let param = |index: usize| match is_one {
        true => texts_name.to_owned(),
        false => format!("{texts_name}[{index}]"),
    };
    if texts.is_empty() {
        return Err(Refusal::field(texts_name, "is empty"));
    }
    let questions = match questions.texts {
        Texts::One(question) => vec![question; texts.len()],
        Texts::Many(mut questions) => {
            if let [question] = questions.as_slice() {
                questions = vec![question.clone(); texts.len()];
            }
            questions
        }
    };
    if questions.len() != texts.len() {
        let message = format!(
            "has {} texts and `{questions_name}` has {} questions; give one question, or one for each text",
            texts.len(),
            questions.len(),
        );
        return Err(Refusal::field(texts_name, message));
    }
    let pairs = questions.into_iter().zip(texts).enumerate();
    let pairs = pairs.map(|(index, (question, text))| Pair {
        question,
        text,
        param: param(index),
    });
    Ok(pairs.collect())
}

fn of_trace(index: usize, trace: Trace) -> Pair {
    Pair {
        question: trace.question,
        text: trace.text,
        param: format!("traces[{index}]"),
    }
}

fn ensure_bounds(app: &App, pairs: &[Pair]) -> Result<(), Refusal> {
    let first = pairs.first().and_then(|pair| pair.param.split('[').next());
    app.ensure_count(first.unwrap_or("text"), pairs.len())?;
    for pair in pairs {
        app.ensure_text(&pair.param, &pair.text)?;
        app.ensure_text(&pair.param, &pair.question)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::shape::RequestBody;

    /// Question, text and name of each pair, or the message of the refusal.
    fn read(body: Value) -> Result<Vec<[String; 3]>, String> {
        let Value::Object(fields) = body else {
            return Ok(Vec::new());
        };
        let pairs = TextsRequest::shape()
            .read(fields)
            .and_then(|mut request| pairs(&mut request));
        let pair = |pair: Pair| [pair.question, pair.text, pair.param];
        match pairs {
            Ok(pairs) => Ok(pairs.into_iter().map(pair).collect()),
            Err(refusal) => Err(refusal.message().to_owned()),
        }
    }

    #[test]
    fn questions_and_texts_are_paired() {
        let pair =
            |question: &str, text: &str, name: &str| [question, text, name].map(str::to_owned);
        let one = read(json!({ "question": "a", "text": "b" })).unwrap();
        assert_eq!(one, [pair("a", "b", "text")]);
        let spread = [pair("a", "b", "text_2[0]"), pair("a", "c", "text_2[1]")];
        for question in [json!("a"), json!(["a"])] {
            let body = json!({ "text_1": question, "text_2": ["b", "c"] });
            assert_eq!(read(body).unwrap(), spread);
        }
        let both = read(json!({ "queries": ["a", "b"], "documents": ["c", "d"] })).unwrap();
        assert_eq!(
            both,
            [
                pair("a", "c", "documents[0]"),
                pair("b", "d", "documents[1]")
            ]
        );
    }

    #[test]
    fn unpaired_lists_are_refused_with_their_lengths() {
        for (body, expected) in [
            (
                json!({ "text_1": ["a", "b"], "text_2": ["c", "d", "e"] }),
                "`text_2`: has 3 texts and `text_1` has 2 questions",
            ),
            (
                json!({ "text_1": ["a", "b"], "text_2": "c" }),
                "`text_2`: has 1 texts and `text_1` has 2 questions",
            ),
            (json!({ "question": "a", "text": [] }), "`text`: is empty"),
            (
                json!({ "question": [], "text": "a" }),
                "`text`: has 1 texts and `question` has 0",
            ),
            (
                json!({ "question": "a", "text_1": "a", "text": "b" }),
                "`text_1`: is another name for `question`",
            ),
            (
                json!({ "text_1": { "content": "a" }, "text_2": "b" }),
                "`text_1`: expected a string or a list of strings, not an object",
            ),
            (
                json!({ "traces": [{ "text": "b" }] }),
                "`traces[0].question`: is missing",
            ),
        ] {
            let error = read(body.clone()).unwrap_err();
            assert!(error.starts_with(expected), "{body}: {error}");
        }
    }
}
