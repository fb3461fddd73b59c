//! `/v1/labels`: people's labels of texts, stored in the server's file of labels.

use std::sync::Arc;

use assay_tasks::labels::{FirstError, Label, LabelMark};
use assay_tasks::{RecordFault, TasksError};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::{App, unix_seconds};
use crate::body::Fields;
use crate::refusal::Refusal;
use crate::requests::{LabelRequest, MarkedToken, Verdict};

/// Maximum number of labels in a response, the newest first.
const MAX_LISTED: usize = 10_000;

/// One person's label of one text.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Label")]
pub(crate) struct LabelView {
    object: &'static str,
    /// Key of the text with its question, as `/v1/rewards` returns it.
    trace: String,
    annotator: String,
    verdict: Verdict,
    /// The first wrong token; null if there is none.
    first_error: Option<MarkedToken>,
    /// Time in seconds since 1970.
    time: u64,
}

/// The labels that count: the last one of each person for each text, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Labels")]
pub(crate) struct LabelList {
    object: &'static str,
    /// Whether the server keeps labels.
    enabled: bool,
    /// Number of all labels that count; `data` has at most 10,000 of them.
    total: usize,
    data: Vec<LabelView>,
}

/// `GET /v1/labels`.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<LabelList> {
    let labels = app.labels.as_ref();
    let marks = labels.map_or_else(Vec::new, |labels| labels.marks(MAX_LISTED));
    Json(LabelList {
        object: "list",
        enabled: labels.is_some(),
        total: labels.map_or(0, |labels| labels.count()),
        data: marks.into_iter().map(LabelView::of_mark).collect(),
    })
}

/// `POST /v1/labels`.
pub(crate) async fn add(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<LabelView>, Refusal> {
    let request: LabelRequest = Fields::read(request, &app.limits).await?.parse()?;
    let Some(file) = app.labels.clone() else {
        let message = "this server keeps no labels: start it with --labels FILE";
        return Err(Refusal::status(
            StatusCode::NOT_FOUND,
            "labels_off",
            message,
        ));
    };
    app.ensure_text("question", &request.question)?;
    app.ensure_text("text", &request.text)?;
    let label = label(request)?;
    let writer = Arc::clone(&app);
    let writing = app.blocking(move || match file.append(&label) {
        Ok(()) => Ok(label),
        Err(error) => Err(unwritten(&writer, &error)),
    });
    Ok(Json(LabelView::of_label(writing.await?)))
}

/// The checked label of a request.
fn label(request: LabelRequest) -> Result<Label, Refusal> {
    if request.annotator.trim().is_empty() {
        return Err(Refusal::field("annotator", "is empty: say who labels"));
    }
    let is_wrong = request.verdict == Verdict::Wrong;
    if is_wrong != request.first_error.is_some() {
        let message = match is_wrong {
            true => "is missing: the verdict `wrong` needs the first wrong token",
            false => "goes only with the verdict `wrong`",
        };
        return Err(Refusal::field("first_error", message));
    }
    let label = Label {
        question: request.question,
        text: request.text,
        first_error: request.first_error.map(FirstError::from),
        withdrawn: request.verdict == Verdict::Withdrawn,
        annotator: request.annotator,
        time: unix_seconds(),
        ..Label::default()
    };
    label.checked().map_err(|fault| match fault {
        RecordFault::Column { column, problem } => Refusal::field(column, problem),
        other => Refusal::request("invalid_value", other.to_string()),
    })
}

/// The error of a label that was not written. Only the operator sees the file's path.
fn unwritten(app: &App, error: &TasksError) -> Refusal {
    match error {
        TasksError::LabelTooLong { .. } => Refusal::request("label_too_long", error.to_string()),
        TasksError::LabelsFull { limit, .. } => {
            app.events.failure("a label was not kept", error);
            let message = format!(
                "the file of labels is full: it has at most {limit} bytes; start the server with a new one"
            );
            Refusal::full(message)
        }
        _ => {
            app.events.failure("a label was not kept", error);
            Refusal::internal("label_not_kept", "the label could not be written")
        }
    }
}

impl LabelView {
    fn of_mark(mark: LabelMark) -> Self {
        Self {
            object: "label",
            trace: mark.trace,
            annotator: mark.annotator,
            verdict: match mark.first_error {
                Some(_) => Verdict::Wrong,
                None => Verdict::Correct,
            },
            first_error: mark.first_error.map(MarkedToken::from),
            time: mark.time,
        }
    }

    fn of_label(label: Label) -> Self {
        let withdrawn = label.withdrawn;
        let view = Self::of_mark(LabelMark {
            trace: label.trace,
            annotator: label.annotator,
            first_error: label.first_error,
            time: label.time,
        });
        match withdrawn {
            true => Self {
                verdict: Verdict::Withdrawn,
                ..view
            },
            false => view,
        }
    }
}
