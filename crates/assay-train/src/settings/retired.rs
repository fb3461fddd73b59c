//! Keys of earlier versions. All runs used one and the same value for each, so it is now a
//! constant.
//!
//! The settings.toml of earlier runs has these keys. With that value they are read and ignored.

use toml::{Table, Value};

use crate::TrainError;

/// A key that is no longer a setting, and its constant value.
struct Retired {
    key: &'static str,
    value: Fixed,
}

enum Fixed {
    Number(f64),
    Word(&'static str),
}

const RETIRED: [Retired; 8] = [
    number("optimiser.beta1", 0.9),
    number("sampling.top_p", 1.0),
    number("reward.schedule.every", 1.0),
    number("reward.schedule.policy_negatives.floor", 0.6),
    number("reward.schedule.policy_negatives.ceiling", 0.95),
    number("reward.schedule.replay.capacity", 1024.0),
    number("reward.loss.wgan.clip", 0.1),
    Retired {
        key: "reward.loss.bce.reduction",
        value: Fixed::Word("global"),
    },
];

const fn number(key: &'static str, value: f64) -> Retired {
    Retired {
        key,
        value: Fixed::Number(value),
    }
}

/// Removes the retired keys that have the constant value.
///
/// # Errors
/// [`TrainError::InvalidSetting`] for a retired key with another value.
pub(super) fn leave_out(table: &mut Table) -> Result<(), TrainError> {
    for retired in &RETIRED {
        let Some(given) = take(table, retired.key) else {
            continue;
        };
        if !retired.value.is(&given) {
            let reason = format!("is no setting any more: it is always {}", retired.value);
            return Err(TrainError::setting(retired.key, reason));
        }
    }
    Ok(())
}

fn take(table: &mut Table, key: &str) -> Option<Value> {
    match key.split_once('.') {
        Some((outer, rest)) => take(table.get_mut(outer)?.as_table_mut()?, rest),
        None => table.remove(key),
    }
}

impl Fixed {
    fn is(&self, given: &Value) -> bool {
        match (self, given) {
            // Earlier versions wrote an f32 as f64, so 0.1 may be slightly larger in the file.
            (Self::Number(number), Value::Float(given)) => *number as f32 == *given as f32,
            (Self::Number(number), Value::Integer(given)) => *number == *given as f64,
            (Self::Word(word), Value::String(given)) => word == given,
            _ => false,
        }
    }
}

impl std::fmt::Display for Fixed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Word(word) => write!(f, "\"{word}\""),
        }
    }
}
