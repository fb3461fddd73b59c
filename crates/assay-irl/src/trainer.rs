//! The loops that join players, losses, optimisers and data: supervised fine-tuning, GRPO with a verifier, and
//! adversarial inverse reinforcement learning. One loop serves all three; they differ in its phases.

mod describe;
mod directory;
pub mod discriminator;
pub mod engine;
pub mod evaluate;
pub mod failure;
mod health;
mod lock;
pub mod order;
pub mod policy_phase;
mod record;
pub mod replay;
pub mod rollout;
pub mod run;
mod saving;
mod start;
mod state;
mod step;
mod together;

pub use lock::RunLock;

use crate::metrics::IterationMetrics;

/// What a run tells whoever watches it. Training never prints.
pub trait Observer {
    /// An iteration ended; `total` counts all phases.
    fn iteration(&mut self, metrics: &IterationMetrics, total: usize);

    /// Tokens were drawn in a rollout.
    fn tokens(&mut self, count: usize);

    /// Something worth a line happened: a skip, a resume, an alarm.
    fn note(&mut self, text: &str);

    /// Whether the run is to stop: asked before each iteration; what is done by then is saved.
    fn wants_stop(&self) -> bool {
        false
    }
}

/// An observer that looks away.
pub struct Silent;

impl Observer for Silent {
    fn iteration(&mut self, _metrics: &IterationMetrics, _total: usize) {}
    fn tokens(&mut self, _count: usize) {}
    fn note(&mut self, _text: &str) {}
}
