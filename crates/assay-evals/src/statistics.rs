//! Estimates with intervals, means, spreads, correlations and tests.
//!
//! Intervals are 95 % unless a level is given. Resampling is over problems, never over traces,
//! because traces of one problem are not independent.

mod bootstrap;
mod correlation;
mod descriptive;
mod estimate;
pub(crate) mod special;
mod welch;

pub use bootstrap::{
    BootstrapSettings, Resampler, bootstrap, bootstrap_mean, crossed_mean, paired_difference,
};
pub use correlation::{PairMoments, average_ranks, pearson, residuals, spearman};
pub use descriptive::{mean, population_std, quantile};
pub use estimate::Estimate;
pub use welch::{WelchTest, welch_t};
