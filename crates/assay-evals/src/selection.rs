//! Selection: which of the N sampled traces of a problem becomes the answer, and when sampling
//! stops.

mod choosing;
mod selector;
mod stopping;

pub use choosing::{Choice, choose_among, likeliest};
pub use selector::{Candidate, Selector, SelectorConstants, choose, fit_constants};
pub use stopping::{StopRule, Stopped};
