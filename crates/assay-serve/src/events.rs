//! Messages for the operator; the caller decides how they are shown.

use std::sync::Arc;

/// A listener of the service's messages. Messages may name paths; clients never see them.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(&str) + Send + Sync>);

impl Events {
    /// Passes every message to `listener`.
    pub fn new(listener: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Passes on a message.
    pub(crate) fn say(&self, message: &str) {
        (self.0)(message);
    }

    /// Passes on an error with its causes.
    pub(crate) fn failure(&self, doing: &str, error: &dyn std::error::Error) {
        let mut text = format!("{doing}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!("; because: {error}"));
            cause = error.source();
        }
        self.say(&text);
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new(|_| ())
    }
}
