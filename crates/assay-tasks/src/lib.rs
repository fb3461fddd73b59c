//! What is learned from and what is measured on: problems, prompts, answers, reasoning steps, perturbed demonstrations
//! and the trace record.
//!
//! Everything here is pure: no model, no device, no printing. The only effects are reading and writing files in
//! [`datasets`], [`trace_io`] and [`trace_stream`]. All randomness comes from [`random::Stream`].

pub mod answers;
pub mod arithmetic;
pub mod countdown;
pub mod datasets;
mod error;
mod json;
mod lines;
pub mod message;
mod numbers;
pub mod perturbations;
pub mod problem;
pub mod prompts;
pub mod random;
pub mod segments;
mod step_traces;
mod text_file;
pub mod trace;
pub mod trace_io;
pub mod trace_stream;

pub use error::{RecordFault, TasksError};
