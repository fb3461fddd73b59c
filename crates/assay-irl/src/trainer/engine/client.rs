//! Requests to a rollout server: which failures are tried again, and what is said when it is given up.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::IrlError;

/// Largest answer that is read, in bytes.
const LARGEST: u64 = 64 << 20;
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Most characters of a server's message that are repeated.
const SAID: usize = 300;

/// A server by its address.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
    attempts: usize,
}

/// Why one try failed.
enum Failure {
    /// It may succeed later.
    Passing(String),
    /// It will not.
    Lasting(String),
}

impl Client {
    /// A client of the address before `/completions`; the bearer token is read from `key_file` unless that is empty.
    ///
    /// # Errors
    /// Names the key file that cannot be read.
    pub(super) fn new(
        url: &str,
        key_file: &Path,
        (timeout, attempts): (Duration, usize),
    ) -> Result<Self, IrlError> {
        let key = match key_file.as_os_str().is_empty() {
            true => None,
            false => {
                let read = std::fs::read_to_string(key_file);
                let key =
                    read.map_err(|source| IrlError::io("reading the key", key_file, source))?;
                Some(key.trim().to_owned())
            }
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self {
            agent,
            url,
            key,
            attempts,
        })
    }

    /// The body of a successful answer, after as many tries as it may take.
    ///
    /// # Errors
    /// [`IrlError::RolloutServer`] names the address and what the last try met.
    pub(super) fn post(&self, endpoint: &str, body: &Value) -> Result<Vec<u8>, IrlError> {
        let mut pause = Duration::from_millis(500);
        let mut tries = 1;
        loop {
            match self.once(endpoint, body) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Passing(_)) if tries < self.attempts => {}
                Err(Failure::Passing(reason)) => {
                    return Err(self.error(endpoint, format!("{reason} (tried {tries} times)")));
                }
                Err(Failure::Lasting(reason)) => return Err(self.error(endpoint, reason)),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            tries += 1;
        }
    }

    /// An error of this server.
    pub(super) fn error(&self, endpoint: &str, reason: String) -> IrlError {
        IrlError::RolloutServer {
            url: format!("{}/{endpoint}", self.url),
            reason,
        }
    }

    fn once(&self, endpoint: &str, body: &Value) -> Result<Vec<u8>, Failure> {
        let mut request = self.agent.post(format!("{}/{endpoint}", self.url));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request
            .send_json(body)
            .map_err(|error| Failure::Passing(error.to_string()))?;
        let status = response.status();
        let read = response
            .body_mut()
            .with_config()
            .limit(LARGEST)
            .read_to_vec();
        let bytes = read.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(limit) => {
                Failure::Lasting(format!("the answer is larger than {limit} bytes"))
            }
            other => Failure::Passing(format!("the answer broke off: {other}")),
        })?;
        if status.is_success() {
            return Ok(bytes);
        }
        let said: String = String::from_utf8_lossy(&bytes).chars().take(SAID).collect();
        let reason = format!("status {}: {said}", status.as_u16());
        match status.as_u16() {
            429 | 500.. => Err(Failure::Passing(reason)),
            _ => Err(Failure::Lasting(reason)),
        }
    }
}
