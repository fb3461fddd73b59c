//! The reward side of the game as plain arithmetic on token logits: which tokens carry a label, what the discriminator
//! minimises, when it is trained, and how a logit becomes a reward. No model, no tensor, no path.

pub mod granularity;
pub mod loss;
pub mod schedule;
pub mod transform;

use serde::{Deserialize, Serialize};

/// Who wrote a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceRole {
    /// An expert demonstration: positive.
    Expert,
    /// A sample of the policy: negative.
    Policy,
    /// A demonstration with an injected error: negative from the error on.
    Perturbed,
}
