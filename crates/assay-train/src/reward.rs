//! The reward side of the game as plain arithmetic on token logits: what the discriminator
//! minimises and when it is trained. No model, no tensor, no path.

pub mod loss;
pub mod schedule;
