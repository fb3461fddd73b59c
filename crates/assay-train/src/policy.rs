//! The mathematics of the policy: token advantages from token rewards, and the clipped objective
//! with its gradient with respect to token log-probabilities. It uses no model, tensor or path.

pub mod advantage;
pub(crate) mod objective;
