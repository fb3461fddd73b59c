//! Operations on the CPU: `x.rs` holds the forward and backward pass of the operation `x`, built
//! from [`routines`].

pub(crate) mod adamw;
pub(crate) mod add;
pub(crate) mod cached_attention;
pub(crate) mod embedding;
pub(crate) mod grouped_attention;
pub(crate) mod linear;
pub(crate) mod reward_head;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod routines;
pub(crate) mod seed_gradient;
pub(crate) mod swiglu;
pub(crate) mod token_logprobs;
