//! A number with its interval.

use serde::{Deserialize, Serialize};

/// A number with its 95 % interval and its number of independent units (problems, cases).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// The point estimate.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Independent units the value was computed from.
    pub n: usize,
}

impl Estimate {
    /// A number without sampling error, such as a count or a duration: the interval is the value,
    /// `n` is 1.
    pub fn exact(value: f64) -> Self {
        Self {
            value,
            low: value,
            high: value,
            n: 1,
        }
    }

    /// Whether value and interval are finite, as in every file.
    pub fn is_finite(&self) -> bool {
        self.value.is_finite() && self.low.is_finite() && self.high.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_serialise_as_value_low_high_n() {
        let json = serde_json::to_string(&Estimate {
            value: 0.5,
            low: 0.25,
            high: 0.75,
            n: 7,
        })
        .unwrap();
        assert_eq!(json, r#"{"value":0.5,"low":0.25,"high":0.75,"n":7}"#);
    }
}
