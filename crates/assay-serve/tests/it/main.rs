//! The service over real connections on the loopback, with a tiny random model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests stop where something is not as expected

mod clients;
mod completions;
mod contract;
mod hostile;
mod http;
mod labels;
mod shutdown;
mod texts;
mod viewer;
mod world;
