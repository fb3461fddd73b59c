//! Localisation: the token of a trace at which the reward shows an error.
//!
//! A case is a correct demonstration with one injected error at a known place. A predictor assigns
//! a suspicion to every token; the predicted error token is the one with the highest. Results
//! average exactly over equal suspicions, so a constant reward scores like chance and no predictor
//! profits from the order of tokens.

mod case;
mod fitting;
mod localise;
mod outcome;
mod predictors;
mod suspect;

pub use case::{LocalisationCase, error_tokens};
pub use localise::{Localisation, localise};
pub use outcome::{HIT_WINDOWS, Outcome, average_precision};
pub use predictors::{Combination, Predictor, PredictorConstants};
pub use suspect::Suspect;
