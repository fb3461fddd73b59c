//! The error type of this crate.

/// Why a report could not be rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A template that does not compile or that uses an undefined value.
    #[error("cannot render the template `{name}`")]
    Template {
        /// The template's file name.
        name: &'static str,
        /// The cause.
        source: minijinja::Error,
    },
}
