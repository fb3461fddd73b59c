//! The service over real connections on the loopback, with a tiny random model.

mod completions;
mod contract;
mod hostile;
mod http;
mod shutdown;
mod texts;
mod viewer;
mod world;
