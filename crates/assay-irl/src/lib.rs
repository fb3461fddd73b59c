//! Training of the two players: losses, advantages, schedules and settings as plain arithmetic, and the loops that join
//! them with models and data.
//!
//! [`reward`] and [`policy`] see slices and settings only: no model, path, logger or generator.

mod error;
pub mod masked_mean;
pub mod optimiser;
pub mod policy;
pub mod reward;
pub mod settings;
pub mod sft;

pub use error::IrlError;
