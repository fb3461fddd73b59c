//! The critic as a service: scores, token rewards, reranking, and answers chosen among samples, over HTTP.
//!
//! Requests are read and encoded on an event loop; one thread runs the models, and what waits for it together is packed
//! into one pass. Scores are those of `assay score`, bit for bit, whatever shares the pass. This crate prints nothing
//! and opens no file: models come loaded, messages go to [`Events`].

mod app;
mod connection;
mod engine;
mod error;
mod events;
mod fields;
mod limits;
mod metrics;
mod models;
mod refusal;
mod routes;
mod server;
mod token;
mod upstream;
mod view;

pub use engine::Batching;
pub use error::ServeError;
pub use events::Events;
pub use limits::Limits;
pub use models::{Generator, Models, POLICY, ServedPolicy, ServedReward};
pub use routes::ROUTES;
pub use routes::pages::OPENAPI;
pub use server::{ServeSettings, Server};
pub use token::Token;
pub use upstream::Upstream;
