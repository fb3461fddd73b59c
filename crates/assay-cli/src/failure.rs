//! From an error to a message and an exit status.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use assay_irl::IrlError;
use assay_lm::LmError;

use crate::signals::{INTERRUPTED, Interrupted};

/// The user's mistake: a file, a setting, an argument.
const USER: u8 = 1;
/// Ours: a number that is not finite, a gradient that is missing, an operation that fails.
const OURS: u8 = 2;

/// Prints the error with its causes and gives the exit status. A reader that has seen enough (`| head`) is no error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    let mut text = format!("error: {error}");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !last.contains(&cause) {
            text.push_str(&format!("\n  because: {cause}"));
        }
        last = cause;
    }
    let _ = crate::progress::message(&text);
    ExitCode::from(status(error))
}

pub(crate) fn status(error: &anyhow::Error) -> u8 {
    if error.is::<Interrupted>() {
        return INTERRUPTED;
    }
    let ours = error.chain().any(|cause| {
        let training = cause.downcast_ref::<IrlError>().is_some_and(|error| {
            matches!(
                error,
                IrlError::LengthMismatch { .. }
                    | IrlError::NonFinite { .. }
                    | IrlError::NotFinite { .. }
                    | IrlError::MissingGradient { .. }
                    | IrlError::FailedUpdate { .. }
                    | IrlError::Collective { .. }
                    | IrlError::OtherRank { .. }
                    | IrlError::Operation(_)
                    | IrlError::Tensor(_)
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
        training || model
    });
    if ours { OURS } else { USER }
}
