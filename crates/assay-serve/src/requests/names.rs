//! Values of fields that are names of a list, and seeds.

use std::borrow::Cow;

use assay_evals::localisation::Predictor;
use assay_evals::scores::TraceScore;
use assay_evals::selection::Selector;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// The predictors that need only rewards.
const PREDICTORS: [Predictor; 4] = [
    Predictor::LargestDrop,
    Predictor::LowestReward,
    Predictor::LowestRewardNumber,
    Predictor::ChangePoint,
];

/// A value that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name<T>(pub(crate) T);

/// Values that have names.
pub(crate) trait Named: Copy + Sized {
    const SCHEMA: &'static str;

    /// The values that a request may name.
    fn offered() -> Vec<Self>;

    fn name(self) -> &'static str;
}

impl Named for TraceScore {
    const SCHEMA: &'static str = "TraceScore";

    fn offered() -> Vec<Self> {
        Self::OF_REWARDS.to_vec()
    }

    fn name(self) -> &'static str {
        self.name()
    }
}

impl Named for Predictor {
    const SCHEMA: &'static str = "Predictor";

    fn offered() -> Vec<Self> {
        PREDICTORS.to_vec()
    }

    fn name(self) -> &'static str {
        self.name()
    }
}

impl Named for Selector {
    const SCHEMA: &'static str = "Selector";

    /// All but the oracle, which needs the right answer.
    fn offered() -> Vec<Self> {
        let usable = |selector: &Self| *selector != Self::Oracle;
        Self::ALL.into_iter().filter(usable).collect()
    }

    fn name(self) -> &'static str {
        self.name()
    }
}

impl<'de, T: Named> Deserialize<'de> for Name<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let found = T::offered().into_iter().find(|value| value.name() == name);
        found
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("unknown name `{name}`")))
    }
}

impl<T: Named> JsonSchema for Name<T> {
    fn schema_name() -> Cow<'static, str> {
        T::SCHEMA.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = T::offered().into_iter().map(T::name).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}

/// A seed; `None` draws a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) Option<u64>);

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Seed;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a whole number")
            }

            fn visit_u64<E>(self, seed: u64) -> Result<Seed, E> {
                Ok(Seed(Some(seed)))
            }

            /// -1 draws a new seed; other negative numbers are seeds by their bits.
            fn visit_i64<E>(self, seed: i64) -> Result<Seed, E> {
                Ok(Seed((seed != -1).then_some(seed as u64)))
            }
        }
        deserializer.deserialize_any(Whole)
    }
}

impl JsonSchema for Seed {
    fn schema_name() -> Cow<'static, str> {
        "Seed".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn minus_one_asks_for_a_new_seed() {
        let seed = |value| serde_json::from_value::<Seed>(value).unwrap().0;
        assert_eq!(seed(json!(-1)), None);
        assert_eq!(seed(json!(7)), Some(7));
        assert_eq!(seed(json!(u64::MAX)), Some(u64::MAX));
        assert_eq!(seed(json!(-2)), Some(u64::MAX - 1));
        assert!(serde_json::from_value::<Seed>(json!("7")).is_err());
    }

    #[test]
    fn oracle_and_logprobs_are_not_offered() {
        let selector = serde_json::from_value::<Name<Selector>>(json!("best_of_n"));
        assert_eq!(selector.unwrap(), Name(Selector::BestOfN));
        assert!(serde_json::from_value::<Name<Selector>>(json!("oracle")).is_err());
        assert!(serde_json::from_value::<Name<TraceScore>>(json!("logprob_sum")).is_err());
    }
}
