//! What a loss reads of a trace.

use crate::trace::{TokenSpans, TraceRole};

/// One trace of an update, as an input of the loss.
///
/// # Shapes
/// `logits`: one f32 per completion token; `positions`: labelled tokens, ascending, within
/// `logits`.
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
    /// Weight of the trace within its class and in pairs. A trace with weight 0 is left out of the
    /// loss but not of the statistics.
    pub weight: f32,
    /// The judge's token rewards, one per token; empty for a trace that was not judged.
    pub judged: &'a [f32],
}
