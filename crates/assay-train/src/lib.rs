//! Training of the two players: losses, advantages, schedules and settings, and the run that
//! applies them to models and data.
//!
//! [`run::train`] runs all phases. [`reward`] and [`policy`] hold the mathematics: they read slices
//! and settings only, no model, path, logger or random generator. [`trace`] is the record of a
//! trace that all phases of an iteration share.
//!
//! # Example
//!
//! The rewards of three tokens become discounted returns, which include the token's own reward:
//!
//! ```
//! let mut values = [1.0, 0.0, 2.0];
//! assay_train::policy::advantage::return_to_go(&mut values, 0.5);
//! assert_eq!(values, [1.5, 1.0, 2.0]);
//! ```

pub mod adam;
pub mod backoff;
pub mod checkpoint;
mod error;
pub mod execution;
pub mod failed_update;
mod masked_mean;
pub mod memory;
pub mod metrics;
pub mod optimiser;
pub mod policy;
pub mod ranks;
pub mod remote;
pub mod reward;
pub mod run;
pub mod settings;
pub mod sft;
pub mod stored_reward;
pub mod tensorboard;
pub mod trace;
pub mod update;

pub use error::TrainError;
