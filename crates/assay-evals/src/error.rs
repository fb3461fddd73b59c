//! The error type of this crate.

use std::path::PathBuf;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A name that is not known.
    #[error("unknown {kind} `{name}`{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownName {
        /// The kind of name: `selector`, `trace score`.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// The known name closest to it.
        nearest: Option<&'static str>,
    },
    /// A number that is NaN or infinite.
    #[error("{measurement} of a trace of problem `{id}` by `{generator}` is not finite")]
    NonFinite {
        /// The measurement's name.
        measurement: String,
        /// The problem's identifier.
        id: String,
        /// The trace's generator.
        generator: String,
    },
    /// Arrays per token of one trace with different lengths.
    #[error("a trace of problem `{id}` has {expected} tokens but {found} entries in {field}")]
    Misaligned {
        /// The problem's identifier.
        id: String,
        /// The array of the wrong length.
        field: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Number of entries found.
        found: usize,
    },
    /// A file that could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file with malformed JSON.
    #[error("{file}, line {line}: malformed JSON")]
    Json {
        /// The file.
        file: String,
        /// One-based line number.
        line: usize,
        /// The cause.
        source: serde_json::Error,
    },
    /// A calibration that cannot be used.
    #[error("{} {problem}; fit it again with `assay calibrate`", path.display())]
    Calibration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A summary whose tree does not end in `{value, low, high, n}` objects.
    #[error("summary entry `{entry}`: {problem}")]
    Summary {
        /// The dotted name.
        entry: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The value called `name`; `names[i]` is the name of `values[i]`.
///
/// # Errors
/// [`EvalError::UnknownName`] with the nearest known name.
pub(crate) fn find_named<T: Copy>(
    kind: &'static str,
    name: &str,
    values: &[T],
    names: &[&'static str],
) -> Result<T, EvalError> {
    let place = names.iter().position(|known| *known == name);
    place
        .and_then(|place| values.get(place).copied())
        .ok_or_else(|| EvalError::UnknownName {
            kind,
            name: name.to_owned(),
            nearest: nearest_name(name, names),
        })
}

/// The known name with the smallest edit distance to `name`, unless that is more than about half of
/// its length.
fn nearest_name(name: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|&candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().max(2) / 2 + 1)
        .map(|(_, candidate)| candidate)
}
