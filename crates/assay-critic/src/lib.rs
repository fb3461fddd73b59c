//! The critic: a reward model that gives every token of a reasoning trace a reward, and the scoring
//! and search that use it.
//!
//! A [`player::Player`] maps a packed batch to one scalar per completion token. There are two: the
//! [`PolicyModel`] returns log-probabilities, the [`RewardModel`] returns logits. [`Critic`] joins
//! a reward model with an [`encode::Encoder`] and scores traces. Training is in `assay-train`.
//!
//! # Example
//!
//! The logits of three tokens become rewards. With one label per reasoning step, a token takes the
//! logit of the next step end:
//!
//! ```
//! use assay_critic::granularity::Granularity;
//! use assay_critic::transform::RewardTransform;
//!
//! let logits = [0.5, -2.0, 9.0];
//! let transform = RewardTransform { temperature: 1.0, lower: Some(-4.0), upper: Some(4.0) };
//! assert_eq!(transform.rewards(&logits), [0.5, -2.0, 4.0]);
//! assert_eq!(Granularity::Step.labelled_positions(3, &[1]), [1, 2]);
//! assert_eq!(assay_critic::granularity::backfill(&logits, &[1, 2]), [-2.0, -2.0, 9.0]);
//! ```

mod critic;
pub mod encode;
mod error;
pub mod granularity;
mod head;
pub mod judge;
pub mod player;
pub mod policy_model;
mod policy_scoring;
pub mod reward_model;
pub mod search;
pub mod transform;

pub use critic::{
    Critic, EncodedTrace, ErrorCase, PolicyOutputs, ScoreReport, ScoredSteps, ScoringPolicy,
    TokenOutputs,
};
pub use error::{CriticError, FileError};
pub use head::HeadSettings;
pub use policy_model::{PolicyModel, Trainable};
pub use policy_scoring::PolicyScorer;
pub use reward_model::{RewardModel, ScoringSettings};
