//! The table of routes: method, path, handler, access and description.

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post};
use schemars::{Schema, SchemaGenerator};

use super::{completions, labels, pages, rerank, texts};
use crate::answers;
use crate::app::App;
use crate::body::Fields;
use crate::refusal::Refusal;
use crate::requests::{ChatRequest, CompletionRequest, LabelRequest, RerankRequest, TextsRequest};
use crate::shape::{RequestBody, Shape};

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
}

impl Method {
    /// Its name in a description.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
        }
    }
}

/// The access to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Runs models: needs the token and counts towards the limits on requests.
    Work,
    /// Needs the token.
    Token,
    /// Needs no token.
    Open,
}

/// The type of a body.
#[derive(Clone, Copy)]
pub(crate) struct BodyType {
    pub(crate) shape: fn() -> &'static Shape,
    /// Reads fields as the type.
    pub(crate) check: fn(Fields) -> Result<(), Refusal>,
}

/// The response content of a route.
pub(crate) struct Content {
    pub(crate) kind: &'static str,
    /// Makes the schema of a JSON answer.
    pub(crate) schema: Option<fn(&mut SchemaGenerator) -> Schema>,
}

/// A status other than 200.
#[derive(Clone, Copy)]
pub(crate) struct Status {
    pub(crate) code: u16,
    pub(crate) description: &'static str,
}

/// A route.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) handler: fn() -> MethodRouter<Arc<App>>,
    /// Its name in generated clients.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) body: Option<BodyType>,
    pub(crate) answers: &'static [Content],
    /// Statuses of this route in addition to those of its access.
    pub(crate) statuses: &'static [Status],
}

const fn json(schema: fn(&mut SchemaGenerator) -> Schema) -> Content {
    Content {
        kind: "application/json",
        schema: Some(schema),
    }
}

const fn other(kind: &'static str) -> Content {
    Content { kind, schema: None }
}

pub(crate) const fn status(code: u16, description: &'static str) -> Status {
    Status { code, description }
}

const NO_REWARD: Status = status(404, "The reward is not served.");
const OF_RERANK: &[Content] = &[json(
    SchemaGenerator::subschema_for::<answers::RerankAnswer>,
)];
const OF_MODELS: &[Content] = &[json(SchemaGenerator::subschema_for::<answers::ModelList>)];
const OF_HEALTH: &[Content] = &[json(SchemaGenerator::subschema_for::<answers::Health>)];
const OF_LABELS: &[Content] = &[json(SchemaGenerator::subschema_for::<labels::LabelList>)];
const JSON: &[Content] = &[other("application/json")];
const PLAIN: &[Content] = &[other("text/plain")];
const HTML: &[Content] = &[other("text/html")];
const CSS: &[Content] = &[other("text/css")];
const SCRIPT: &[Content] = &[other("text/javascript")];
const OF_COMPLETIONS: &[Status] = &[
    status(404, "The model is not served, or no policy is."),
    status(502, "The upstream server failed."),
];

const fn body<T: RequestBody>() -> BodyType {
    BodyType {
        shape: T::shape,
        check: |fields| fields.parse::<T>().map(drop),
    }
}

/// A route that runs models.
const fn work(
    path: &'static str,
    id: &'static str,
    handler: fn() -> MethodRouter<Arc<App>>,
    body: BodyType,
) -> Route {
    Route {
        method: Method::Post,
        path,
        access: Access::Work,
        handler,
        id,
        summary: "",
        body: Some(body),
        answers: &[],
        statuses: &[NO_REWARD],
    }
}

const fn rerank_at(path: &'static str, id: &'static str, summary: &'static str) -> Route {
    Route {
        summary,
        answers: OF_RERANK,
        ..work(path, id, || post(rerank::rerank), body::<RerankRequest>())
    }
}

/// A page that needs no token.
const fn page(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    handler: fn() -> MethodRouter<Arc<App>>,
    answers: &'static [Content],
) -> Route {
    Route {
        method: Method::Get,
        path,
        access: Access::Open,
        handler,
        id,
        summary,
        body: None,
        answers,
        statuses: &[],
    }
}

/// Every route.
pub(crate) const TABLE: &[Route] = &[
    Route {
        summary: "Scores of texts that answer a question.",
        answers: &[json(SchemaGenerator::subschema_for::<answers::Scores>)],
        ..work(
            "/v1/score",
            "score",
            || post(texts::score),
            body::<TextsRequest>(),
        )
    },
    Route {
        summary: "A reward for each token, and where an error is predicted.",
        answers: &[json(SchemaGenerator::subschema_for::<answers::Rewards>)],
        ..work(
            "/v1/rewards",
            "rewards",
            || post(texts::rewards),
            body::<TextsRequest>(),
        )
    },
    rerank_at(
        "/v1/rerank",
        "rerank",
        "Answers ranked, as rerank clients ask.",
    ),
    rerank_at("/v2/rerank", "rerank_v2", "The same as /v1/rerank."),
    rerank_at("/rerank", "rerank_root", "The same as /v1/rerank."),
    Route {
        summary: "One answer, chosen by the critic among several samples.",
        answers: &[
            json(SchemaGenerator::subschema_for::<answers::ChatCompletion>),
            Content {
                kind: "text/event-stream",
                schema: Some(SchemaGenerator::subschema_for::<answers::ChatChunk>),
            },
        ],
        statuses: OF_COMPLETIONS,
        ..work(
            "/v1/chat/completions",
            "chat",
            || post(completions::chat),
            body::<ChatRequest>(),
        )
    },
    Route {
        summary: "One continuation, chosen by the critic among several samples.",
        answers: &[
            json(SchemaGenerator::subschema_for::<answers::Completion>),
            Content {
                kind: "text/event-stream",
                schema: Some(SchemaGenerator::subschema_for::<answers::CompletionChunk>),
            },
        ],
        statuses: OF_COMPLETIONS,
        ..work(
            "/v1/completions",
            "complete",
            || post(completions::text),
            body::<CompletionRequest>(),
        )
    },
    Route {
        summary: "A person's label of a text: its first wrong token, or that it has none.",
        answers: &[json(SchemaGenerator::subschema_for::<labels::LabelView>)],
        statuses: &[
            status(404, "The server was started without --labels."),
            status(507, "The file of labels is full."),
        ],
        ..work(
            "/v1/labels",
            "label",
            || post(labels::add),
            body::<LabelRequest>(),
        )
    },
    Route {
        access: Access::Token,
        ..page(
            "/v1/labels",
            "labels",
            "The labels that were made.",
            || get(labels::list),
            OF_LABELS,
        )
    },
    Route {
        access: Access::Token,
        ..page(
            "/v1/models",
            "models",
            "The models that are served.",
            || get(pages::models),
            OF_MODELS,
        )
    },
    Route {
        statuses: &[status(503, "The server is shutting down.")],
        ..page(
            "/health",
            "health",
            "Whether requests are accepted.",
            || get(pages::health),
            OF_HEALTH,
        )
    },
    Route {
        access: Access::Token,
        statuses: &[status(500, "The metrics could not be written.")],
        ..page(
            "/metrics",
            "metrics",
            "Counters in Prometheus' text format.",
            || get(pages::metrics),
            PLAIN,
        )
    },
    page(
        "/openapi.json",
        "openapi",
        "This description.",
        || get(pages::openapi),
        JSON,
    ),
    page("/", "viewer", "The viewer.", || get(pages::viewer), HTML),
    page(
        "/viewer.css",
        "viewer_style",
        "The viewer's style.",
        || get(pages::style),
        CSS,
    ),
    page(
        "/marks.js",
        "viewer_marks_script",
        "The part of the viewer's script that makes labels.",
        || get(pages::marks),
        SCRIPT,
    ),
    page(
        "/viewer.js",
        "viewer_script",
        "The viewer's script.",
        || get(pages::script),
        SCRIPT,
    ),
];
