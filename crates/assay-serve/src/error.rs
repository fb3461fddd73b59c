//! Why the service could not start or run. What a client is told is in [`crate::refusal`].

use thiserror::Error;

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; choose another with --addr")]
    Bind {
        /// The address.
        address: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Threads, timers or signal handlers could not be set up, or accepting failed.
    #[error("{doing} failed")]
    System {
        /// The operation that failed.
        doing: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// There is nothing to serve.
    #[error("a service needs at least one reward")]
    NoReward,
    /// Two models go by one name.
    #[error(
        "two models are called `{name}`; give each reward a name of its own with --reward NAME=DIR"
    )]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A bearer token that is too short or holds other characters.
    #[error(
        "the token must be one line of at least {min} visible ASCII characters; it has {found}"
    )]
    Token {
        /// The smallest length.
        min: usize,
        /// Its usable length.
        found: usize,
    },
    /// An upstream address that is neither http nor https.
    #[error(
        "the upstream server `{url}` is not an http or https address such as http://127.0.0.1:9000/v1"
    )]
    Upstream {
        /// The address as given.
        url: String,
    },
    /// The metrics could not be registered.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}
