//! Requests that write to a hub: retries, timeouts and error messages.

use std::io::Read;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, RequestBuilder, SendBody};

use crate::hub::HubSettings;

/// Maximum size of a response in bytes.
const MAX_ANSWER_BYTES: u64 = 8 << 20;
/// Maximum number of attempts of a request that may succeed later.
const TRIES: u32 = 3;
/// Pause before the second attempt; it doubles with each attempt.
const PAUSE: Duration = Duration::from_millis(500);
/// Timeout of a connection, and of sending a part of a body.
const STALL: Duration = Duration::from_secs(60);
/// Timeout of a response. It is long, because storage may check the content first.
const ANSWER: Duration = Duration::from_secs(300);
/// Maximum number of characters of the hub's message that are shown.
const SHOWN: usize = 300;

/// Why a request did not succeed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The status of the response; `None` without a response.
    pub(super) status: Option<u16>,
    /// Whether the same request may succeed later.
    passes: bool,
    /// What went wrong and what to do.
    pub(super) reason: String,
}

impl Failure {
    /// A failure other than a status or a missing response.
    pub(super) fn of(reason: impl Into<String>) -> Self {
        Self {
            status: None,
            passes: false,
            reason: reason.into(),
        }
    }

    /// No connection, or no response in time.
    fn no_answer(error: &ureq::Error) -> Self {
        Self {
            status: None,
            passes: true,
            reason: no_answer(error),
        }
    }

    /// A response with an error status.
    fn refused(status: u16, text: &str) -> Self {
        Self {
            status: Some(status),
            passes: status == 429 || status >= 500,
            reason: refusal(status, text),
        }
    }
}

/// The text of a response, and the entity tag of the stored content.
pub(super) struct Answer {
    text: String,
    pub(super) etag: Option<String>,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.text)
            .map_err(|error| Failure::of(format!("the hub's answer is not understood: {error}")))
    }
}

/// Sends requests to one hub and to the addresses that it names.
pub(super) struct Requests<'s> {
    agent: Agent,
    endpoint: &'s str,
    authorization: String,
}

/// A reader that reports the number of bytes read.
struct Counted<'p, R> {
    inner: R,
    read: u64,
    progress: &'p mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        (self.progress)(self.read);
        Ok(read)
    }
}

impl<'s> Requests<'s> {
    pub(super) fn new(settings: &'s HubSettings, token: &str) -> Self {
        let limit = |time: Duration| Some(time.min(settings.body_timeout));
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(limit(STALL))
            .timeout_per_write(limit(STALL))
            .timeout_recv_response(limit(ANSWER))
            .timeout_recv_body(limit(ANSWER))
            .build();
        Self {
            agent: agent.into(),
            endpoint: &settings.endpoint,
            authorization: format!("Bearer {token}"),
        }
    }

    /// An address of the hub in full.
    pub(super) fn url(&self, address: &str) -> String {
        format!("{}{address}", self.endpoint)
    }

    /// Sends a GET request to the hub.
    pub(super) fn get(&self, address: &str) -> Result<Answer, Failure> {
        let request = self.agent.get(&self.url(address));
        answered(request.header("authorization", &self.authorization).call())
    }

    /// Posts JSON to an address of the hub, with retries.
    pub(super) fn post(&self, address: &str, body: &Value) -> Result<Answer, Failure> {
        self.post_to(&self.url(address), "application/json", body)
    }

    /// Posts JSON of a type to an address that the hub named. The token goes to the hub alone.
    pub(super) fn post_to(&self, url: &str, kind: &str, body: &Value) -> Result<Answer, Failure> {
        self.check(url)?;
        let body = body.to_string();
        repeated(|| {
            let request = self.agent.post(url).header("content-type", kind);
            let request = request.header("accept", kind);
            answered(self.with_token(url, request).send(&body))
        })
    }

    /// Posts a commit, only once, because the hub may have made it although its response was lost.
    pub(super) fn commit(&self, address: &str, body: &str) -> Result<Answer, Failure> {
        let request = self.agent.post(&self.url(address));
        let request = request.header("content-type", "application/x-ndjson");
        let request = request.header("authorization", &self.authorization);
        answered(request.send(body))
    }

    /// Puts a body of a known length to an address that the hub named, without the token. `open`
    /// returns the body for each attempt; `progress` receives the number of its bytes read.
    pub(super) fn put<R: Read>(
        &self,
        url: &str,
        length: u64,
        open: impl Fn() -> std::io::Result<R>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Answer, Failure> {
        self.check(url)?;
        repeated(|| {
            let inner =
                open().map_err(|error| Failure::of(format!("reading the file: {error}")))?;
            let mut reader = Counted {
                inner,
                read: 0,
                progress: &mut *progress,
            };
            let request = self.agent.put(url).header("content-length", length);
            answered(request.send(SendBody::from_reader(&mut reader)))
        })
    }

    fn with_token<B>(&self, url: &str, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match is_same_origin(url, self.endpoint) {
            true => request.header("authorization", &self.authorization),
            false => request,
        }
    }

    /// Fails for an invalid address, and for an unencrypted one named by an encrypted hub.
    fn check(&self, url: &str) -> Result<(), Failure> {
        let scheme = |url: &str| {
            let uri: Uri = url.parse().ok()?;
            uri.host()?;
            Some(uri.scheme_str()?.to_owned())
        };
        match scheme(url).as_deref() {
            Some("https") => Ok(()),
            Some("http") if scheme(self.endpoint).as_deref() == Some("http") => Ok(()),
            _ => {
                let reason = "the hub names an address for the upload that is not trusted";
                Err(Failure::of(reason))
            }
        }
    }
}

fn is_same_origin(url: &str, other: &str) -> bool {
    let origin = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        let authority = uri.authority()?.as_str().to_ascii_lowercase();
        Some((uri.scheme_str()?.to_owned(), authority))
    };
    origin(url).is_some_and(|found| Some(found) == origin(other))
}

/// Repeats a request while it fails in a way that may be temporary.
fn repeated(mut request: impl FnMut() -> Result<Answer, Failure>) -> Result<Answer, Failure> {
    let mut tries = 0;
    loop {
        match request() {
            Err(failure) if failure.passes && tries + 1 < TRIES => {
                std::thread::sleep(PAUSE * 2_u32.pow(tries));
                tries += 1;
            }
            ended => return ended,
        }
    }
}

fn answered(sent: Result<Response<Body>, ureq::Error>) -> Result<Answer, Failure> {
    let mut answer = sent.map_err(|error| Failure::no_answer(&error))?;
    let status = answer.status();
    let etag = answer.headers().get("etag");
    let etag = etag.and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES);
    let text = body.read_to_string();
    if !status.is_success() {
        return Err(Failure::refused(status.as_u16(), &text.unwrap_or_default()));
    }
    let text = text.map_err(|error| Failure::no_answer(&error))?;
    Ok(Answer { text, etag })
}

/// The reason for a missing response. It has no address, since those of storage contain a
/// signature.
fn no_answer(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "no answer in time; try again".to_owned(),
        ureq::Error::Io(error) => format!("the connection failed: {error}; try again"),
        ureq::Error::BodyExceedsLimit(_) => "the answer is too long".to_owned(),
        ureq::Error::HostNotFound => {
            "the host is not found; is the network up, is HF_ENDPOINT right?".to_owned()
        }
        _ => "the request failed; is the network up, is HF_ENDPOINT right?".to_owned(),
    }
}

/// The reason for a refused request, with the hub's message if there is one.
fn refusal(status: u16, text: &str) -> String {
    let advice = match status {
        300..=399 => "the repository has moved; use its new name",
        401 => "the token is not accepted; check HF_TOKEN, or log in with `hf auth login`",
        403 => "the token may not write there; give it write access to this repository",
        404 => "not found; check the organisation, the name and the branch",
        409 | 412 => "the repository changed meanwhile; push again",
        413 => "too large for the hub",
        429 => "too many requests; wait a little",
        500.. => "the hub has an error; try again later",
        _ => "refused",
    };
    let said: Option<Value> = serde_json::from_str(text).ok();
    let said = said.as_ref().and_then(|said| said.get("error")?.as_str());
    let safe = |c: char| if c.is_control() { ' ' } else { c };
    match said {
        Some(said) => {
            let said: String = said.chars().take(SHOWN).map(safe).collect();
            format!("{advice} ({status}: {said})")
        }
        None => format!("{advice} ({status})"),
    }
}
