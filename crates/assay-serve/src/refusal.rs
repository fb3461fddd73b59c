//! Error responses: a status and OpenAI's error object.
//!
//! Messages name the field and the remedy. They never contain a path or the text of an internal
//! error; those go to the server's log.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

/// Maximum length of a message in characters, since it may quote parts of a request.
const MAX_MESSAGE_CHARS: usize = 400;

/// An error in OpenAI's shape.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorDetail,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ErrorDetail {
    /// What is wrong and how to fix it.
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The invalid field.
    param: Option<String>,
    code: &'static str,
}

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    kind: &'static str,
    code: &'static str,
    param: Option<String>,
    message: String,
    retry_after: Option<u64>,
}

impl Refusal {
    fn new(
        status: StatusCode,
        kind: &'static str,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            kind,
            code,
            param: None,
            message: message.into(),
            retry_after: None,
        }
    }

    /// An invalid request.
    pub(crate) fn request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            code,
            message,
        )
    }

    /// A field whose value cannot be used.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("`{param}`: {}", message.into());
        let refusal = Self::request("invalid_value", message);
        refusal.about(param)
    }

    /// An error with another status.
    pub(crate) fn status(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::new(status, "invalid_request_error", code, message)
    }

    /// Input longer than the model's context.
    pub(crate) fn too_long(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut refusal = Self::field(param, message);
        refusal.code = "context_length_exceeded";
        refusal
    }

    /// A model that is not served.
    pub(crate) fn unknown_model(param: &str, name: &str, known: &[String]) -> Self {
        let message = format!(
            "no model `{name}` is served here; served are {}",
            known.join(", ")
        );
        Self::status(StatusCode::NOT_FOUND, "model_not_found", message).about(param)
    }

    /// A missing or wrong bearer token.
    pub(crate) fn unauthorised() -> Self {
        let message = "this server asks for the header `Authorization: Bearer TOKEN`";
        Self::new(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            "invalid_api_key",
            message,
        )
    }

    /// More work than the service accepts; `retry_after` in seconds.
    pub(crate) fn overloaded(retry_after: u64) -> Self {
        let message =
            format!("too many requests are waiting; try again in {retry_after} s or later");
        let mut refusal = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            "queue_full",
            message,
        );
        refusal.retry_after = Some(retry_after);
        refusal
    }

    /// A request that took too long.
    pub(crate) fn timed_out(seconds: u64) -> Self {
        let message = format!("no answer within {seconds} s; ask for fewer or shorter texts");
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "server_error",
            "timeout",
            message,
        )
    }

    /// The service is stopping.
    pub(crate) fn stopping() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            "stopping",
            "the server is shutting down",
        )
    }

    /// A failure that is not the client's.
    pub(crate) fn internal(code: &'static str, message: &'static str) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            code,
            message,
        )
    }

    /// A file that has reached its maximum size.
    pub(crate) fn full(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "server_error",
            "labels_full",
            message,
        )
    }

    /// A failure of the upstream server.
    pub(crate) fn upstream(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "server_error",
            "upstream_failed",
            message,
        )
    }

    /// Sets the invalid field.
    pub(crate) fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The message for the client.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The error object, also used in streams.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message.chars().take(MAX_MESSAGE_CHARS).collect(),
                kind: self.kind,
                param: self.param.clone(),
                code: self.code,
            },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
