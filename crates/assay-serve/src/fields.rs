//! A request's body as named fields: read within bounds, taken one by one, the rest refused by name.
//!
//! A field that is `null` is absent, as OpenAI clients mean it. Taking fields one by one makes shared groups of fields
//! plain functions, and what nobody took is what nobody knows.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::limits::Limits;
use crate::refusal::Refusal;

/// Similarity from which a known name is offered for an unknown one.
const SIMILAR: f64 = 0.8;

/// The fields of a request that are still to be taken.
pub(crate) struct Fields {
    values: Map<String, Value>,
    prefix: String,
    known: Vec<String>,
}

impl Fields {
    /// Reads a body: JSON by its content type, within the limits on size, time and depth.
    pub(crate) async fn read(request: Request, limits: &Limits) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        ensure_json(&parts.headers)?;
        let bytes = read_body(&parts.headers, body, limits).await?;
        let text = str::from_utf8(&bytes).map_err(|error| {
            let message = format!("the body is not UTF-8 from byte {}", error.valid_up_to());
            Refusal::request("invalid_utf8", message)
        })?;
        ensure_shallow(text, limits.json_depth)?;
        let value: Value = serde_json::from_str(text).map_err(|error| {
            Refusal::request("invalid_json", format!("the body is not JSON: {error}"))
        })?;
        Self::of(value, String::new())
    }

    fn of(value: Value, prefix: String) -> Result<Self, Refusal> {
        let Value::Object(values) = value else {
            let what = if prefix.is_empty() {
                "the body".to_owned()
            } else {
                format!("`{}`", prefix.trim_end_matches('.'))
            };
            let message = format!("{what} must be a JSON object");
            return Err(Refusal::request("invalid_json", message));
        };
        Ok(Self {
            values,
            prefix,
            known: Vec::new(),
        })
    }

    /// Takes a field, if the request has it.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Refusal> {
        self.known.push(name.to_owned());
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| Refusal::field(self.path(name), error.to_string())),
        }
    }

    /// Takes the first of several names for one field.
    pub(crate) fn take_any<T: DeserializeOwned>(
        &mut self,
        names: &[&str],
    ) -> Result<Option<T>, Refusal> {
        let mut found = None;
        for name in names {
            if let Some(value) = self.take(name)? {
                if found.is_some() {
                    let others = names.join("`, `");
                    return Err(Refusal::field(
                        self.path(name),
                        format!("give only one of `{others}`"),
                    ));
                }
                found = Some(value);
            }
        }
        Ok(found)
    }

    /// Takes a field that must be there.
    pub(crate) fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Refusal> {
        self.take(name)?
            .ok_or_else(|| Refusal::field(self.path(name), "is missing"))
    }

    /// Takes a field that is an object of its own.
    pub(crate) fn nested(&mut self, name: &str) -> Result<Option<Self>, Refusal> {
        let path = format!("{}.", self.path(name));
        self.take::<Value>(name)?
            .map(|value| Self::of(value, path))
            .transpose()
    }

    /// Refuses a field unless it has one of the values that ask for nothing.
    pub(crate) fn refuse_unless(
        &mut self,
        name: &str,
        nothing: impl Fn(&Value) -> bool,
        reason: &str,
    ) -> Result<(), Refusal> {
        match self.take::<Value>(name)? {
            Some(value) if !nothing(&value) => Err(Refusal::field(self.path(name), reason)),
            _ => Ok(()),
        }
    }

    /// A field's name with the object it stands in.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Ends the reading: fields that change nothing here are let go, others are refused by name.
    pub(crate) fn finish(mut self, harmless: &[&str]) -> Result<(), Refusal> {
        for name in harmless {
            self.values.remove(*name);
        }
        let Some(name) = self.values.keys().next() else {
            return Ok(());
        };
        let nearest = self
            .known
            .iter()
            .map(|known| (strsim::jaro_winkler(known, name), known))
            .filter(|(similarity, _)| *similarity >= SIMILAR)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = nearest.map_or_else(String::new, |(_, known)| {
            format!("; did you mean `{}`?", self.path(known))
        });
        let path = self.path(name);
        let message = format!("unknown field `{path}`{hint}");
        Err(Refusal::request("unknown_field", message).about(path))
    }

    /// What was not taken, to be passed on.
    pub(crate) fn into_rest(self) -> Map<String, Value> {
        self.values
    }
}

/// Only JSON by name: a page of another origin can send other types without asking the browser first.
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
fn ensure_shallow(text: &str, most: usize) -> Result<(), Refusal> {
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
        if depth > most {
            let message = format!("the body nests deeper than {most} levels");
            return Err(Refusal::request("json_too_deep", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::of(value, String::new()).unwrap()
    }

    fn error(refusal: Refusal) -> Value {
        refusal.body()["error"].clone()
    }

    #[test]
    fn brackets_in_strings_are_no_depth() {
        assert!(ensure_shallow(r#"{"a": "[[[[\"[[", "b": [1]}"#, 2).is_ok());
        assert!(ensure_shallow("[[[1]]]", 2).is_err());
        assert!(ensure_shallow("[[1],[2],[3]]", 2).is_ok());
    }

    #[test]
    fn unknown_fields_are_refused_with_the_nearest_name() {
        let mut fields = fields(json!({ "temperture": 1, "user": "me", "seed": null }));
        assert_eq!(fields.take::<f64>("temperature").unwrap(), None);
        assert_eq!(fields.take::<u64>("seed").unwrap(), None);
        let error = error(fields.finish(&["user"]).unwrap_err());
        assert_eq!(
            error["message"],
            "unknown field `temperture`; did you mean `temperature`?"
        );
        assert_eq!(error["param"], "temperture");
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named_with_its_object() {
        let mut fields = fields(json!({ "assay": { "n": "four" } }));
        let mut nested = fields.nested("assay").unwrap().unwrap();
        let error = error(nested.take::<usize>("n").unwrap_err());
        assert_eq!(error["param"], "assay.n");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .starts_with("`assay.n`: invalid type")
        );
    }

    #[test]
    fn two_names_of_one_field_are_not_both_given() {
        let mut fields = fields(json!({ "max_tokens": 3, "max_completion_tokens": 4 }));
        let names = ["max_completion_tokens", "max_tokens"];
        assert!(fields.take_any::<usize>(&names).is_err());
    }
}
