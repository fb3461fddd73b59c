//! The policy side of the game as plain arithmetic: token rewards to advantages, advantages to a clipped objective and
//! its gradient with respect to token log-probabilities. No model, no tensor, no path.

pub mod advantage;
pub(crate) mod objective;
