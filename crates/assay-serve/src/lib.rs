//! An HTTP service for a critic: scores, token rewards, reranking, and answers chosen among
//! samples.
//!
//! Requests are read and encoded on an event loop and its blocking threads. One thread runs the
//! models; requests that wait for it at the same time share a batch. Scores have the bits of
//! `assay score`, whatever shares the batch. This crate prints nothing and opens no file: the
//! caller loads the models and opens the file of labels. Messages go to [`Events`].
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use assay_critic::reward_model::RewardModel;
//! use assay_lm::{LanguageModel, Placement, Storage};
//! use assay_serve::{Models, ServeSettings, ServedReward, Server};
//!
//! let model = LanguageModel::open(Path::new("model"), Storage::Expanded, &Placement::cpu())?;
//! let model = Arc::new(model);
//! let reward = RewardModel::load(Path::new("reward"), Arc::clone(&model.transformer))?;
//! let served = ServedReward {
//!     name: "reward".to_owned(),
//!     model,
//!     reward,
//!     calibration: None,
//! };
//! let models = Models::new(vec![served], None, None)?;
//! Server::bind("127.0.0.1:8000", models, ServeSettings::default())?.run()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answers;
mod app;
mod body;
mod connection;
mod engine;
mod error;
mod events;
mod limits;
mod metrics;
mod models;
mod openapi;
mod refusal;
mod requests;
mod routes;
mod server;
mod shape;
mod token;
mod upstream;

pub use engine::Batching;
pub use error::ServeError;
pub use events::Events;
pub use limits::Limits;
pub use models::{Generator, Models, POLICY, ServedPolicy, ServedReward};
pub use openapi::{Endpoint, check_body, endpoints, openapi};
pub use server::{ServeSettings, Server};
pub use token::Token;
pub use upstream::Upstream;
