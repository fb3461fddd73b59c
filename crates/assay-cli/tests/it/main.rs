//! The integration tests of the binary and of the workspace's rules.

#![allow(clippy::unwrap_used, clippy::panic)] // tests stop where something is not as expected

mod architecture;
mod artifacts;
mod commands;
mod editing;
mod interop;
mod labels;
mod layouts;
mod looking;
mod mistaken;
mod modules;
mod odd_inputs;
mod reliability;
mod scoring;
mod watching;
