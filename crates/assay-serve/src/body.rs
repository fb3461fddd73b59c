//! Reads a request's body within limits on size, time and depth, and parses it as the type of its
//! route.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::shape::RequestBody;

/// The fields of a request.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body: JSON by its content type, within the limits.
    pub(crate) async fn read(request: Request, limits: &Limits) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        ensure_json(&parts.headers)?;
        let bytes = read_body(&parts.headers, body, limits).await?;
        Self::from_bytes(&bytes, limits.json_depth)
    }

    /// Reads the fields of a JSON object that nests at most `depth` levels.
    pub(crate) fn from_bytes(bytes: &[u8], depth: usize) -> Result<Self, Refusal> {
        let text = str::from_utf8(bytes).map_err(|error| {
            let message = format!("the body is not UTF-8 from byte {}", error.valid_up_to());
            Refusal::request("invalid_utf8", message)
        })?;
        ensure_shallow(text, depth)?;
        let value: Value = serde_json::from_str(text).map_err(|error| {
            Refusal::request("invalid_json", format!("the body is not JSON: {error}"))
        })?;
        match value {
            Value::Object(mut fields) => {
                fields.retain(|_, value| !value.is_null());
                Ok(Self(fields))
            }
            _ => Err(Refusal::request(
                "invalid_json",
                "the body must be a JSON object",
            )),
        }
    }

    /// A field as sent.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Removes and returns some fields; the rest is for another server.
    pub(crate) fn take<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        let names = names.into_iter();
        let taken = names.filter_map(|name| Some((name.to_owned(), self.0.shift_remove(name)?)));
        Self(taken.collect())
    }

    /// All fields as a request's type. An unknown field is an error that names it.
    pub(crate) fn parse<T: RequestBody>(self) -> Result<T, Refusal> {
        T::shape().read(self.0)
    }

    /// All fields as sent, without null fields.
    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.0
    }
}

/// Fails for any content type but JSON. Other types are refused because a page of another origin
/// can send them without a CORS preflight request.
fn ensure_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Refusal::status(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "send the header `Content-Type: application/json`",
    ))
}

async fn read_body(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
) -> Result<axum::body::Bytes, Refusal> {
    let too_large = || {
        let message = format!("the body has more than {} bytes", limits.body_bytes);
        Refusal::status(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limits.body_bytes) {
        return Err(too_large());
    }
    match tokio::time::timeout(limits.body_timeout, to_bytes(body, limits.body_bytes)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_length_limit(&error) => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::request(
            "incomplete_body",
            "the body ended before its length",
        )),
        Err(_) => {
            let seconds = limits.body_timeout.as_secs();
            let message = format!("the body did not arrive within {seconds} s");
            Err(Refusal::status(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                message,
            ))
        }
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Counts brackets outside strings before anything is parsed.
fn ensure_shallow(text: &str, max: usize) -> Result<(), Refusal> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > max {
            let message = format!("the body nests deeper than {max} levels");
            return Err(Refusal::request("json_too_deep", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_are_no_depth() {
        assert!(ensure_shallow(r#"{"a": "[[[[\"[[", "b": [1]}"#, 2).is_ok());
        assert!(ensure_shallow("[[[1]]]", 2).is_err());
        assert!(ensure_shallow("[[1],[2],[3]]", 2).is_ok());
    }
}
