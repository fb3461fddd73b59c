//! What a loss reads of a trace.

use crate::trace::{TokenSpans, TraceRole};

/// One trace of an update, as the loss sees it.
///
/// # Shapes
/// `logits`: one f32 a completion token; `positions`: labelled tokens, ascending, within `logits`.
#[derive(Clone, Copy, Debug)]
pub struct LabelledTrace<'a> {
    /// The prompt it belongs to; pairs are formed within one group.
    pub group: usize,
    /// Who wrote it.
    pub role: TraceRole,
    /// Token logits z_t.
    pub logits: &'a [f32],
    /// Tokens that carry a label.
    pub positions: &'a [usize],
    /// Which tokens are corrupted, or differ from the demonstration.
    pub spans: TokenSpans,
    /// How much the trace counts within its class and in pairs; 0 leaves it out of the loss, not of the statistics.
    pub weight: f32,
    /// The judge's token rewards, one a token; empty for a trace that was not judged.
    pub judged: &'a [f32],
}
