//! Scored traces as the dictionaries that the Python half turns into its types.

use assay_evals::localisation::{Predictor, Suspect};
use assay_tasks::trace::ScoredTrace;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// What is shown of a trace beside the trace itself.
pub(crate) struct Shown {
    /// Calibrated P(correct).
    pub(crate) probability: Option<f64>,
    /// Which token counts as the predicted error.
    pub(crate) predictor: Predictor,
}

/// Everything that is known of a scored text.
///
/// Arrays are the bytes of their numbers, from which the Python half makes numpy arrays: u32, f32
/// and pairs of i64. `offsets` are characters of `text`, as Python counts them; `byte_offsets` are
/// those of `traces.jsonl`.
pub(crate) fn scored<'py>(
    py: Python<'py>,
    trace: &ScoredTrace,
    view: &Shown,
) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    let token = |&(start, end): &(usize, usize)| trace.text.get(start..end).unwrap_or_default();
    let tokens: Vec<&str> = trace.token_offsets.iter().map(token).collect();
    let scores = PyDict::new(py);
    for (name, value) in &trace.scores {
        scores.set_item(name, f64::from(*value))?;
    }
    let ids = trace.token_ids.iter().flat_map(|id| id.to_ne_bytes());
    let rewards = trace.token_rewards.iter();
    let rewards = rewards.flat_map(|reward| reward.unwrap_or(f32::NAN).to_ne_bytes());
    found.set_item("question", &trace.question)?;
    found.set_item("text", &trace.text)?;
    found.set_item("tokens", tokens)?;
    found.set_item("token_ids", bytes(py, ids))?;
    found.set_item("rewards", bytes(py, rewards))?;
    found.set_item("byte_offsets", pairs(py, &trace.token_offsets))?;
    found.set_item("offsets", pairs(py, &characters(trace)))?;
    found.set_item("scores", scores)?;
    found.set_item("probability", view.probability)?;
    found.set_item("predicted_answer", trace.predicted_answer.as_deref())?;
    let suspect = Suspect::of(trace, view.predictor);
    found.set_item("predicted_error", suspect.map(|found| found.token))?;
    found.set_item("suspicion", suspect.map(|found| found.suspicion))?;
    Ok(found)
}

fn bytes<'py>(py: Python<'py>, numbers: impl Iterator<Item = u8>) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &numbers.collect::<Vec<u8>>())
}

/// The numbers of an array of shape `[tokens, 2]`.
fn pairs<'py>(py: Python<'py>, pairs: &[(usize, usize)]) -> Bound<'py, PyBytes> {
    let flat = pairs.iter().flat_map(|&(start, end)| [start, end]);
    bytes(py, flat.flat_map(|place| (place as i64).to_ne_bytes()))
}

/// Character ranges of the tokens, from their byte ranges, which ascend.
fn characters(trace: &ScoredTrace) -> Vec<(usize, usize)> {
    let (mut byte, mut character) = (0, 0);
    let mut at = |to: usize| {
        if to < byte {
            (byte, character) = (0, 0);
        }
        let passed = trace.text.get(byte..to).unwrap_or_default();
        character += passed.chars().count();
        byte = to;
        character
    };
    let ranges = trace.token_offsets.iter();
    ranges.map(|&(start, end)| (at(start), at(end))).collect()
}
