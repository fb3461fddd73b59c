//! Requests several samples from another server with OpenAI's API.
//!
//! If a server returns fewer choices than requested, the request is repeated with the next seed.
//! The request is forwarded as sent, without the fields for assay and streaming.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::error::ServeError;
use crate::refusal::Refusal;

/// Maximum size of a response in bytes.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// An upstream server.
pub struct Upstream {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
    /// Timeout of all rounds of one request together.
    timeout: Duration,
}

/// One sampled answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) text: String,
    pub(crate) finish_reason: &'static str,
}

/// The response of an upstream server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) choices: Vec<Choice>,
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
}

impl Upstream {
    /// A server by the address before `/chat/completions`, such as `http://127.0.0.1:9000/v1`;
    /// `key` is its bearer token.
    ///
    /// # Errors
    /// [`ServeError::Upstream`] when the address is neither http nor https.
    pub fn new(url: &str, key: Option<String>, timeout: Duration) -> Result<Self, ServeError> {
        let url = url.trim_end_matches('/').to_owned();
        let parsed: Result<axum::http::Uri, _> = url.parse();
        let scheme = parsed.ok().and_then(|uri| {
            uri.authority()?;
            uri.scheme_str().map(str::to_owned)
        });
        if !matches!(scheme.as_deref(), Some("http" | "https")) {
            return Err(ServeError::Upstream { url });
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        Ok(Self {
            agent,
            url,
            key,
            timeout,
        })
    }

    /// `n` samples of a request. Blocks; all rounds together take at most the timeout.
    pub(crate) fn complete(
        &self,
        endpoint: &str,
        mut body: Map<String, Value>,
        n: usize,
    ) -> Result<Answer, Refusal> {
        let seed = body.get("seed").and_then(Value::as_u64);
        let mut all = Answer::default();
        let end = Instant::now() + self.timeout;
        for round in 0..n as u64 {
            body.insert("n".to_owned(), Value::from(n - all.choices.len()));
            if let Some(seed) = seed {
                body.insert("seed".to_owned(), Value::from(seed.wrapping_add(round)));
            }
            let answer = parse(&self.post(endpoint, &body, end)?)?;
            all.prompt_tokens = all.prompt_tokens.saturating_add(answer.prompt_tokens);
            all.completion_tokens = all
                .completion_tokens
                .saturating_add(answer.completion_tokens);
            all.choices.extend(answer.choices);
            if all.choices.len() >= n {
                all.choices.truncate(n);
                return Ok(all);
            }
        }
        Err(Refusal::upstream(
            "the upstream server answered without a choice",
        ))
    }

    fn post(
        &self,
        endpoint: &str,
        body: &Map<String, Value>,
        end: Instant,
    ) -> Result<Value, Refusal> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Refusal::upstream("the upstream server took too long"));
        }
        let request = self.agent.post(format!("{}/{endpoint}", self.url));
        let mut request = request.config().timeout_global(Some(left)).build();
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send_json(body).map_err(|error| match error {
            ureq::Error::Timeout(_) => Refusal::upstream("the upstream server took too long"),
            _ => Refusal::upstream("the upstream server cannot be reached"),
        })?;
        let status = response.status();
        let bytes = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER_BYTES)
            .read_to_vec()
            .map_err(|_| Refusal::upstream("the upstream server's answer broke off"))?;
        let value: Option<Value> = serde_json::from_slice(&bytes).ok();
        if status.is_success() {
            let not_json = || Refusal::upstream("the upstream server's answer is not JSON");
            return value.ok_or_else(not_json);
        }
        let said = value.as_ref().and_then(reason).unwrap_or_default();
        let message = format!("the upstream server refused ({}): {said}", status.as_u16());
        Err(match status.as_u16() {
            429 => Refusal::overloaded(1),
            400 | 404 | 422 => Refusal::status(status, "upstream_refused", message),
            _ => Refusal::upstream(message),
        })
    }
}

/// The message of an error in OpenAI's shape, or in FastAPI's.
fn reason(value: &Value) -> Option<&str> {
    let error = value.get("error").unwrap_or(value);
    let message = error.get("message").or_else(|| value.get("detail"));
    message.unwrap_or(error).as_str()
}

fn parse(value: &Value) -> Result<Answer, Refusal> {
    let malformed = || Refusal::upstream("the upstream server's answer has no list of choices");
    let choices = value.get("choices").and_then(Value::as_array);
    let text = |choice: &Value| {
        let message = choice.get("message").and_then(|m| m.get("content"));
        let text = message.or_else(|| choice.get("text"));
        text.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let choices = choices.ok_or_else(malformed)?.iter().map(|choice| Choice {
        text: text(choice),
        finish_reason: match choice.get("finish_reason").and_then(Value::as_str) {
            Some("length") => "length",
            _ => "stop",
        },
    });
    let used = |name: &str| {
        let usage = value.get("usage").and_then(|usage| usage.get(name));
        usage.and_then(Value::as_u64).unwrap_or(0) as usize
    };
    Ok(Answer {
        choices: choices.collect(),
        prompt_tokens: used("prompt_tokens"),
        completion_tokens: used("completion_tokens"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_shapes_of_choices_are_read() {
        let answer = parse(&json!({
            "choices": [{ "message": { "content": "4" }, "finish_reason": "length" }, { "text": "5" }, { "message": {} }],
            "usage": { "prompt_tokens": 7, "completion_tokens": 9 },
        }))
        .unwrap();
        let texts: Vec<&str> = answer.choices.iter().map(|c| c.text.as_str()).collect();
        assert_eq!(texts, ["4", "5", ""]);
        assert_eq!(answer.choices[0].finish_reason, "length");
        assert_eq!((answer.prompt_tokens, answer.completion_tokens), (7, 9));
        assert!(parse(&json!({ "choices": null })).is_err());
    }

    #[test]
    fn addresses_are_checked() {
        let new = |url| Upstream::new(url, None, Duration::from_secs(1));
        assert!(new("http://127.0.0.1:9000/v1/").is_ok());
        for wrong in ["file:///etc/passwd", "127.0.0.1:9000", "", "http://"] {
            assert!(new(wrong).is_err(), "{wrong}");
        }
    }
}
