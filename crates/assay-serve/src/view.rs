//! Scored traces as clients see them.

use assay_evals::localisation::{LocalisationCase, Predictor, PredictorConstants};
use assay_evals::scores::TraceScore;
use assay_tasks::trace::ScoredTrace;
use serde::Serialize;
use serde_json::{Value, json};

use crate::refusal::Refusal;

/// The predictors of an error's place that need nothing but rewards.
const PREDICTORS: [Predictor; 4] = [
    Predictor::LargestDrop,
    Predictor::LowestReward,
    Predictor::LowestRewardNumber,
    Predictor::ChangePoint,
];

/// The token that looks most like the first error.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct PredictedError<'t> {
    /// Its index.
    token: usize,
    /// Its bytes in the text.
    start: usize,
    end: usize,
    text: &'t str,
    /// The predictor's value, in units of reward.
    suspicion: f64,
}

/// How traces are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) score: TraceScore,
    pub(crate) predictor: Predictor,
}

impl View {
    /// The trace score that stands for a text.
    pub(crate) fn score(&self, trace: &ScoredTrace) -> Option<f32> {
        trace.scores.get(self.score.name()).copied()
    }

    /// Everything that is known of a scored text. `text` is what was scored: the given text in the reward's prompt style.
    pub(crate) fn token_rewards(
        &self,
        index: usize,
        trace: &ScoredTrace,
        probability: Option<f64>,
    ) -> Value {
        let token = |&(start, end): &(usize, usize)| trace.text.get(start..end).unwrap_or_default();
        let tokens: Vec<&str> = trace.token_offsets.iter().map(token).collect();
        json!({
            "object": "token_rewards",
            "index": index,
            "text": trace.text,
            "tokens": tokens,
            "offsets": trace.token_offsets,
            "rewards": trace.token_rewards,
            "score": self.score(trace),
            "scores": trace.scores,
            "probability": probability,
            "predicted_answer": trace.predicted_answer,
            "predicted_error": predicted_error(trace, self.predictor),
        })
    }
}

/// The trace score called `name`, of those that read rewards.
pub(crate) fn trace_score(param: String, name: &str) -> Result<TraceScore, Refusal> {
    let known = TraceScore::OF_REWARDS;
    let found = known.into_iter().find(|score| score.name() == name);
    found.ok_or_else(|| {
        let names = known.map(TraceScore::name).join(", ");
        Refusal::field(param, format!("no trace score `{name}`; known are {names}"))
    })
}

/// The predictor called `name`, of those that read rewards.
pub(crate) fn predictor(param: String, name: &str) -> Result<Predictor, Refusal> {
    let found = PREDICTORS.into_iter().find(|known| known.name() == name);
    found.ok_or_else(|| {
        let names = PREDICTORS.map(Predictor::name).join(", ");
        Refusal::field(param, format!("no predictor `{name}`; known are {names}"))
    })
}

/// The most suspicious token, the first of equal ones; with the largest drop only a token where the reward falls.
fn predicted_error(trace: &ScoredTrace, predictor: Predictor) -> Option<PredictedError<'_>> {
    let case = LocalisationCase {
        text: &trace.text,
        token_offsets: &trace.token_offsets,
        token_rewards: &trace.token_rewards,
        ..LocalisationCase::default()
    };
    let falls = |suspicion: f64| predictor != Predictor::LargestDrop || suspicion > 0.0;
    let suspicions = predictor.suspicion(&case, &PredictorConstants::default())?;
    let known = suspicions.iter().enumerate();
    let known = known.filter_map(|(token, value)| Some((token, value.filter(|v| falls(*v))?)));
    let (token, suspicion) =
        known.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    let &(start, end) = trace.token_offsets.get(token)?;
    Some(PredictedError {
        token,
        start,
        end,
        text: trace.text.get(start..end).unwrap_or_default(),
        suspicion,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_drop_is_the_predicted_error() {
        let trace = ScoredTrace {
            text: "a bé c".into(),
            token_offsets: vec![(0, 1), (1, 5), (5, 7), (7, 7)],
            token_rewards: vec![Some(1.0), Some(2.0), Some(-1.5), Some(-2.0)],
            ..ScoredTrace::default()
        };
        let error = predicted_error(&trace, Predictor::LargestDrop).unwrap();
        assert_eq!((error.token, error.start, error.text), (2, 5, " c"));
        assert_eq!(error.suspicion, 3.5);
        let lowest = predicted_error(&trace, Predictor::LowestReward).unwrap();
        assert_eq!((lowest.token, lowest.text), (3, ""));
        let view = View {
            score: TraceScore::Mean,
            predictor: Predictor::LargestDrop,
        };
        let shown = view.token_rewards(0, &trace, None);
        assert_eq!(shown["tokens"], json!(["a", " bé", " c", ""]));
        assert_eq!(shown["predicted_error"]["token"], 2);
    }

    #[test]
    fn a_reward_that_only_rises_predicts_no_error() {
        let trace = ScoredTrace {
            text: "ab".into(),
            token_offsets: vec![(0, 1), (1, 2)],
            token_rewards: vec![Some(1.0), Some(2.0)],
            ..ScoredTrace::default()
        };
        assert_eq!(predicted_error(&trace, Predictor::LargestDrop), None);
    }
}
