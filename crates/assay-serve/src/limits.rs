//! The limits of a server, in one place.

use std::time::Duration;

/// The limits of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of one question, text, document or message.
    pub text_bytes: usize,
    /// Texts in one request.
    pub documents: usize,
    /// Samples of one request.
    pub samples: usize,
    /// Tokens of one request, samples counted at their limit.
    pub request_tokens: usize,
    /// Nesting of a request's JSON.
    pub json_depth: usize,
    /// Bytes of a request's line and headers; at least 8192.
    pub header_bytes: usize,
    /// Number of headers.
    pub headers: usize,
    /// Open connections at a time; further ones are closed at once.
    pub connections: usize,
    /// Requests in progress at a time: being read, waiting or being answered.
    pub requests: usize,
    /// Tokens waiting for the model.
    pub queue_tokens: usize,
    /// Tokens whose keys and values are kept while sampling, over all sequences decoded together.
    pub decode_tokens: usize,
    /// Time for a request's headers, also between requests of one connection.
    pub header_timeout: Duration,
    /// Time for a request's body.
    pub body_timeout: Duration,
    /// Time within which a client must read some of its response.
    pub write_timeout: Duration,
    /// Time for a response, including waiting.
    pub request_timeout: Duration,
    /// Time for the requests in progress at shutdown.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            text_bytes: 1 << 16,
            documents: 256,
            samples: 64,
            request_tokens: 1 << 16,
            json_depth: 32,
            header_bytes: 16 << 10,
            headers: 64,
            connections: 512,
            requests: 256,
            queue_tokens: 1 << 18,
            decode_tokens: 8192,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(300),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}
