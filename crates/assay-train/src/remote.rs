//! Requests to a server that speaks OpenAI's protocol: which failures are retried, the error after
//! the last try, and several requests at a time.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// Maximum size of a response in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Maximum number of characters of a server's message in an error.
const MAX_MESSAGE_CHARS: usize = 300;

/// Timeout and number of attempts of a request.
#[derive(Clone, Copy, Debug)]
pub struct RetryLimits {
    /// Time after which an attempt counts as failed.
    pub timeout: Duration,
    /// Maximum number of attempts of a request that may succeed later.
    pub attempts: usize,
}

/// A request that failed for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct RemoteError {
    /// The address of the request.
    pub url: String,
    /// The cause.
    pub reason: String,
}

/// A server by its address.
pub struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
    attempts: usize,
}

/// Why one attempt failed.
enum Failure {
    /// A later attempt may succeed.
    Retryable(String),
    /// No later attempt will succeed.
    Final(String),
}

impl Client {
    /// A client of the address before `/completions`. The bearer token is read from `key_file`
    /// unless that is empty.
    ///
    /// # Errors
    /// The key file cannot be read.
    pub fn new(url: &str, key_file: &Path, retries: RetryLimits) -> io::Result<Self> {
        let key = match key_file.as_os_str().is_empty() {
            true => None,
            false => {
                let key = std::fs::read_to_string(key_file)?;
                Some(key.trim().to_owned())
            }
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(retries.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self {
            agent,
            url,
            key,
            attempts: retries.attempts,
        })
    }

    /// Posts a request, with retries, and returns the body of the successful response.
    ///
    /// # Errors
    /// [`RemoteError`] names the address and the error of the last attempt.
    pub fn post(&self, endpoint: &str, body: &Value) -> Result<Vec<u8>, RemoteError> {
        let mut pause = Duration::from_millis(500);
        let mut tries = 1;
        loop {
            match self.once(endpoint, body) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Retryable(_)) if tries < self.attempts => {}
                Err(Failure::Retryable(reason)) => {
                    return Err(self.error(endpoint, format!("{reason} (tried {tries} times)")));
                }
                Err(Failure::Final(reason)) => return Err(self.error(endpoint, reason)),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(MAX_PAUSE);
            tries += 1;
        }
    }

    /// An error of this server.
    pub fn error(&self, endpoint: &str, reason: String) -> RemoteError {
        RemoteError {
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
            .map_err(|error| Failure::Retryable(error.to_string()))?;
        let status = response.status();
        let read = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER_BYTES)
            .read_to_vec();
        let bytes = read.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(limit) => {
                Failure::Final(format!("the answer is larger than {limit} bytes"))
            }
            other => Failure::Retryable(format!("the answer broke off: {other}")),
        })?;
        if status.is_success() {
            return Ok(bytes);
        }
        let message: String = String::from_utf8_lossy(&bytes)
            .chars()
            .take(MAX_MESSAGE_CHARS)
            .collect();
        let reason = format!("status {}: {message}", status.as_u16());
        match status.as_u16() {
            429 | 500.. => Err(Failure::Retryable(reason)),
            _ => Err(Failure::Final(reason)),
        }
    }
}

/// Runs `work` on every job, `concurrency` at a time, and returns the results in the jobs' order.
/// `done` is called with each result in order of completion.
///
/// # Errors
/// The first error of `work` or `done`; jobs that have not begun are skipped.
pub fn run_jobs<J: Sync, R: Send, E: Send>(
    jobs: &[J],
    concurrency: usize,
    work: impl Fn(&J) -> Result<R, E> + Sync,
    mut done: impl FnMut(&R) -> Result<(), E>,
) -> Result<Vec<R>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, results) = mpsc::channel();
    let mut collected: Vec<Option<R>> = jobs.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        for _ in 0..concurrency.min(jobs.len()) {
            let (sender, next, failed, work) = (sender.clone(), &next, &failed, &work);
            scope.spawn(move || {
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    let result = work(job);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    if sender.send((index, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (index, result) in results {
            let result = result.and_then(|result| done(&result).map(|()| result));
            let result = result.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            collected[index] = Some(result);
        }
        Ok(())
    })?;
    Ok(collected.into_iter().flatten().collect())
}
