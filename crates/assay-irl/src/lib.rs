//! Training of the two players: losses, advantages, schedules and settings as plain arithmetic, and the loops that join
//! them with models and data.
//!
//! [`reward`] and [`policy`] see slices and settings only: no model, path, logger or generator.

pub mod adam;
pub mod checkpoint;
pub mod critic;
pub mod encode;
mod error;
pub mod masked_mean;
pub mod memory;
pub mod metrics;
pub mod optimiser;
pub mod parallel;
pub mod player;
pub mod policy;
pub mod policy_model;
pub mod relief;
pub mod reward;
pub mod reward_model;
pub mod search;
pub mod settings;
pub mod sft;
pub mod tensorboard;
pub mod trainer;

pub use error::IrlError;
