//! The critic: a reward model that gives every token of a reasoning trace a reward, and what scoring and searching with it need.
//!
//! A [`player::Player`] maps a packed batch to one scalar per completion token. There are two: the
//! [`PolicyModel`] returns log-probabilities, the [`RewardModel`] returns logits. [`Critic`] joins a
//! reward model with an [`encode::Encoder`] and scores traces. Training is in `assay-train`.

mod critic;
pub mod encode;
mod error;
pub mod granularity;
mod head;
pub mod player;
pub mod policy_model;
pub mod reward_model;
pub mod search;
pub mod transform;

pub use critic::{
    Beside, Critic, EncodedTrace, ErrorCase, PolicyOutputs, ScoreReport, ScoredSteps, TokenOutputs,
};
pub use error::CriticError;
pub use head::HeadSettings;
pub use policy_model::{PolicyModel, Trainable};
pub use reward_model::{RewardModel, ScoringSettings};
