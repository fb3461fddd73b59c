//! The mathematics of the discriminator: its loss on token logits, and its schedule. It uses no
//! model, tensor or path.

pub mod loss;
pub mod schedule;
