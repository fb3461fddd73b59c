//! Compares every operation with its composed f64 form, and checks the guarantees about bits.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod agreement;
mod attention;
mod bf16;
mod bits;
mod compare;
mod optimiser;
mod refusals;
