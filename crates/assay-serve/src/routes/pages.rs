//! The routes that need no model: lists, health, metrics, the description, the viewer.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::answers::{Health, HealthStatus, ModelEntry, ModelKind, ModelList};
use crate::app::App;
use crate::metrics;
use crate::models::{Generator, POLICY};
use crate::refusal::Refusal;

/// The viewer may only use its own script and style, and connect to its own server.
const POLICY_OF_CONTENT: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /v1/models`.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    let entry = |name: &str, kind: ModelKind, max_model_len: Option<usize>| ModelEntry {
        id: name.to_owned(),
        object: "model",
        created: app.started,
        owned_by: "assay",
        kind,
        max_model_len,
    };
    let rewards = app.models.rewards.iter().enumerate();
    let mut data: Vec<ModelEntry> = rewards
        .map(|(index, reward)| {
            let positions = app.models.positions(index);
            entry(&reward.name, ModelKind::Reward, Some(positions))
        })
        .collect();
    match &app.models.generator {
        Some(Generator::Local(policy)) => {
            let positions = policy.model.transformer.config().max_positions;
            data.push(entry(POLICY, ModelKind::Policy, Some(positions)));
        }
        Some(Generator::Upstream(_)) => data.push(entry("upstream", ModelKind::Upstream, None)),
        None => {}
    }
    Json(ModelList {
        object: "list",
        data,
    })
}

/// `GET /health`.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let (code, status) = match app.engine.is_open() {
        true => (StatusCode::OK, HealthStatus::Ok),
        false => (StatusCode::SERVICE_UNAVAILABLE, HealthStatus::Stopping),
    };
    (code, Json(Health { status })).into_response()
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let text = app.metrics.text().map_err(|error| {
        app.events
            .failure("the metrics could not be written", &error);
        Refusal::internal("metrics_failed", "the metrics could not be written")
    })?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// `GET /openapi.json`.
pub(crate) async fn openapi() -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        crate::openapi(),
    )
        .into_response()
}

/// `GET /`.
pub(crate) async fn viewer() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY_OF_CONTENT),
    ];
    (headers, include_str!("../viewer/index.html")).into_response()
}

/// `GET /viewer.css`.
pub(crate) async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    (headers, include_str!("../viewer/viewer.css")).into_response()
}

/// `GET /marks.js`.
pub(crate) async fn marks() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (headers, include_str!("../viewer/marks.js")).into_response()
}

/// `GET /viewer.js`.
pub(crate) async fn script() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (headers, include_str!("../viewer/viewer.js")).into_response()
}
