//! Every operation against its composed f64 form, and the promises about bits.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod agreement;
mod attention;
mod bf16;
mod bits;
mod compare;
mod optimiser;
mod refusals;
