//! The message and exit status of an error.

use std::error::Error;
use std::io::{self, ErrorKind};

use assay_critic::CriticError;
use assay_lm::LmError;
use assay_train::TrainError;

use crate::signals::{INTERRUPTED, Interrupted};

/// Exit status of a user's mistake: a file, a setting or an argument.
const USER: u8 = 1;
/// Exit status of a fault of assay: a number that is not finite, a missing gradient, a failed
/// operation.
const OURS: u8 = 2;

/// Prints the error with its causes and returns the exit status. A closed pipe (`| head`) is not an
/// error.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    if error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    {
        return 0;
    }
    let _ = crate::progress::message(&format!("error: {}", told(error.as_ref())));
    status(error)
}

/// An error and its causes, one per line. A cause that the line before it contains is left out.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut next = error.source();
    while let Some(cause) = next {
        let line = cause.to_string();
        if !last.contains(&line) {
            text.push_str(&format!("\n  because: {line}"));
        }
        last = line;
        next = cause.source();
    }
    text
}

fn is_non_finite_reward(error: &TrainError) -> bool {
    let TrainError::Critic(error) = error else {
        return false;
    };
    matches!(**error, CriticError::NonFiniteReward { .. })
}

pub(crate) fn status(error: &anyhow::Error) -> u8 {
    if error.is::<Interrupted>() {
        return INTERRUPTED;
    }
    let ours = error.chain().any(|cause| {
        let training = cause.downcast_ref::<TrainError>().is_some_and(|error| {
            matches!(
                error,
                TrainError::LengthMismatch { .. }
                    | TrainError::NonFinite { .. }
                    | TrainError::NotFinite { .. }
                    | TrainError::MissingGradient { .. }
                    | TrainError::FailedUpdate { .. }
                    | TrainError::Collective { .. }
                    | TrainError::OtherRank { .. }
                    | TrainError::Operation(_)
                    | TrainError::Tensor(_)
            )
        });
        let critic = cause.downcast_ref::<CriticError>().is_some_and(|error| {
            matches!(
                error,
                CriticError::NonFiniteReward { .. }
                    | CriticError::Operation(_)
                    | CriticError::Tensor(_)
            )
        });
        let model = cause.downcast_ref::<LmError>().is_some_and(|error| {
            matches!(
                error,
                LmError::NonFiniteLogits
                    | LmError::NoGradient { .. }
                    | LmError::Operation(_)
                    | LmError::Tensor(_)
            )
        });
        training || critic || model || cause.downcast_ref().is_some_and(is_non_finite_reward)
    });
    if ours { OURS } else { USER }
}
