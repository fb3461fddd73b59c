//! Trace scores: one number per trace from its token rewards, its log-probabilities or its length.
//!
//! Tokens without a reward (`None`) are skipped; a trace without any reward has no score of
//! rewards. Which score to use is chosen on validation traces, not here.

use std::collections::BTreeMap;

use assay_tasks::answers::{AnswerSource, extract_lenient};
use assay_tasks::trace::ScoredTrace;
use serde::{Deserialize, Serialize};

use crate::error::{EvalError, find_named};

/// One number for a whole trace. A higher number is better, except for the length.
///
/// `r_1 .. r_n` are the rewards of the scored tokens in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceScore {
    /// `1/n sum r_t`.
    Mean,
    /// `r_n`.
    Last,
    /// `min_t r_t`.
    Min,
    /// `sum_t log sigmoid(r_t)`: the log of the product of probabilities. Every token lowers it, so
    /// it also measures length.
    Product,
    /// `-T log(1/n sum exp(-r_t / T))`: between the minimum (T -> 0) and the mean (T -> infinity).
    SoftMin,
    /// Mean of the last k rewards, or of all rewards if there are fewer.
    TailK,
    /// `sum_t d^(n-t) r_t / sum_t d^(n-t)`: a mean in which earlier tokens count less.
    Discounted,
    /// Mean over the tokens from the final answer's marker to the end; see [`answer_start`].
    AnswerWindow,
    /// Sum of the policy's token log-probabilities, or of the sampler's if the policy's are not
    /// recorded.
    LogprobSum,
    /// Mean of the same log-probabilities.
    LogprobMean,
    /// Number of completion tokens, or of bytes if the trace has no tokens.
    Length,
    /// `sum |r_t| r_t / sum |r_t|` of the rewards that `assay judge` gave the trace. It is read from
    /// the trace's `scores`, so it stays when another reward scores the trace.
    Judge,
}

/// The constants of the trace scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScoreSettings {
    /// T of [`TraceScore::SoftMin`], in units of reward; above 0.
    pub soft_min_temperature: f64,
    /// k of [`TraceScore::TailK`], in scored tokens.
    pub tail: usize,
    /// d of [`TraceScore::Discounted`], in (0, 1].
    pub discount: f64,
}

impl Default for ScoreSettings {
    fn default() -> Self {
        Self {
            soft_min_temperature: 1.0,
            tail: 16,
            discount: 0.95,
        }
    }
}

impl TraceScore {
    /// Every score, in the order of [`TraceScore::NAMES`].
    pub const ALL: [Self; 12] = [
        Self::Mean,
        Self::Last,
        Self::Min,
        Self::Product,
        Self::SoftMin,
        Self::TailK,
        Self::Discounted,
        Self::AnswerWindow,
        Self::LogprobSum,
        Self::LogprobMean,
        Self::Length,
        Self::Judge,
    ];

    /// The scores computed from token rewards.
    pub const OF_REWARDS: [Self; 8] = [
        Self::Mean,
        Self::Last,
        Self::Min,
        Self::Product,
        Self::SoftMin,
        Self::TailK,
        Self::Discounted,
        Self::AnswerWindow,
    ];

    /// Names, as in `traces.jsonl` and on the command line.
    pub const NAMES: [&'static str; 12] = [
        "mean",
        "last",
        "min",
        "product",
        "soft_min",
        "tail_k",
        "discounted",
        "answer_window",
        "logprob_sum",
        "logprob_mean",
        "length",
        "judge",
    ];

    /// The score's name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The score called `name`.
    ///
    /// # Errors
    /// [`EvalError::UnknownName`] with the nearest known name.
    pub fn parse(name: &str) -> Result<Self, EvalError> {
        find_named("trace score", name, &Self::ALL, &Self::NAMES)
    }

    /// This score of one trace; `None` if the trace lacks the data.
    ///
    /// For a trace without token rewards this is the value recorded in its `scores`, if there is
    /// one.
    pub fn of(self, trace: &ScoredTrace, settings: &ScoreSettings) -> Option<f64> {
        let computed = match self {
            Self::LogprobSum => logprobs(trace).map(sum),
            Self::LogprobMean => logprobs(trace).map(|values| sum(values) / values.len() as f64),
            Self::Length => Some(length(trace)),
            Self::AnswerWindow => mean_of_answer(trace),
            _ => self.of_rewards(&scored(&trace.token_rewards), settings),
        };
        computed.or_else(|| trace.scores.get(self.name()).map(|&value| f64::from(value)))
    }

    /// This score of the rewards of the scored tokens; `None` for an empty slice and for scores
    /// that need more than rewards.
    pub fn of_rewards(self, rewards: &[f64], settings: &ScoreSettings) -> Option<f64> {
        let (&last, n) = (rewards.last()?, rewards.len());
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        match self {
            Self::Mean => Some(mean(rewards)),
            Self::Last => Some(last),
            Self::Min => Some(rewards.iter().copied().fold(f64::INFINITY, f64::min)),
            Self::Product => Some(-rewards.iter().map(|r| softplus(-r)).sum::<f64>()),
            Self::SoftMin => Some(soft_min(rewards, settings.soft_min_temperature)),
            Self::TailK => Some(mean(&rewards[n - settings.tail.clamp(1, n)..])),
            Self::Discounted => Some(discounted_mean(rewards, settings.discount)),
            Self::AnswerWindow
            | Self::LogprobSum
            | Self::LogprobMean
            | Self::Length
            | Self::Judge => None,
        }
    }
}

/// All scores of a trace by name: the `scores` of the trace record.
pub fn score_all(trace: &ScoredTrace, settings: &ScoreSettings) -> BTreeMap<String, f32> {
    let fresh = TraceScore::ALL
        .into_iter()
        .filter_map(|score| Some((score.name().to_owned(), score.of(trace, settings)? as f32)));
    fresh.filter(|(_, value)| value.is_finite()).collect()
}

/// Byte at which the final answer begins: at the tags, box, hashes or sentence that state it, else
/// at the last non-empty line.
pub fn answer_start(text: &str) -> usize {
    use AnswerSource::{LastLine, LastNumber};
    extract_lenient(text)
        .filter(|found| !matches!(found.source, LastLine | LastNumber))
        .map(|found| found.mark.start)
        .unwrap_or_else(|| text.trim_end().rfind('\n').map_or(0, |newline| newline + 1))
}

/// `log(1 + exp(x))` without overflow: `max(x, 0) + log1p(exp(-|x|))`.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + exp(-x))` without overflow.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

fn scored(rewards: &[Option<f32>]) -> Vec<f64> {
    rewards.iter().flatten().map(|&r| f64::from(r)).collect()
}

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum()
}

fn logprobs(trace: &ScoredTrace) -> Option<&[f32]> {
    let recorded = trace
        .policy_logprobs
        .as_deref()
        .or(trace.sampling_logprobs.as_deref());
    recorded.filter(|values| !values.is_empty())
}

fn length(trace: &ScoredTrace) -> f64 {
    let tokens = trace.token_ids.len().max(trace.token_rewards.len());
    if tokens == 0 {
        trace.text.len() as f64
    } else {
        tokens as f64
    }
}

fn mean_of_answer(trace: &ScoredTrace) -> Option<f64> {
    let start = answer_start(&trace.text);
    let (mut total, mut count) = (0.0, 0usize);
    for (&(_, end), reward) in trace.token_offsets.iter().zip(&trace.token_rewards) {
        if let (true, Some(reward)) = (end > start, reward) {
            total += f64::from(*reward);
            count += 1;
        }
    }
    (count > 0).then(|| total / count as f64)
}

fn soft_min(rewards: &[f64], temperature: f64) -> f64 {
    let lowest = rewards.iter().copied().fold(f64::INFINITY, f64::min);
    let mean_exp = rewards
        .iter()
        .map(|r| ((lowest - r) / temperature).exp())
        .sum::<f64>()
        / rewards.len() as f64;
    lowest - temperature * mean_exp.ln()
}

fn discounted_mean(rewards: &[f64], discount: f64) -> f64 {
    let (mut weight, mut total, mut weights) = (1.0, 0.0, 0.0);
    for reward in rewards.iter().rev() {
        total += weight * reward;
        weights += weight;
        weight *= discount;
    }
    total / weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(text: &str, rewards: &[Option<f32>]) -> ScoredTrace {
        let width = text.len() / rewards.len().max(1);
        ScoredTrace {
            text: text.to_owned(),
            token_ids: vec![0; rewards.len()],
            token_offsets: (0..rewards.len())
                .map(|i| (i * width, (i + 1) * width))
                .collect(),
            token_rewards: rewards.to_vec(),
            ..ScoredTrace::default()
        }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} != {b}");
    }

    #[test]
    fn scores_by_hand_skip_unscored_tokens() {
        let trace = trace("ab\ncd\nef", &[Some(1.0), None, Some(-2.0), Some(4.0)]);
        let settings = ScoreSettings {
            soft_min_temperature: 2.0,
            tail: 2,
            discount: 0.5,
        };
        let of = |score: TraceScore| score.of(&trace, &settings).unwrap();
        close(of(TraceScore::Mean), 1.0);
        close(of(TraceScore::Last), 4.0);
        close(of(TraceScore::Min), -2.0);
        let product = (1.0 / (1.0 + (-1f64).exp()))
            * (1.0 / (1.0 + 2f64.exp()))
            * (1.0 / (1.0 + (-4f64).exp()));
        close(of(TraceScore::Product), product.ln());
        let soft = ((-0.5f64).exp() + 1f64.exp() + (-2f64).exp()) / 3.0;
        close(of(TraceScore::SoftMin), -2.0 * soft.ln());
        close(of(TraceScore::TailK), 1.0);
        close(of(TraceScore::Discounted), (4.0 - 1.0 + 0.25) / 1.75);
        close(of(TraceScore::Length), 4.0);
        close(of(TraceScore::AnswerWindow), 4.0);
        assert_eq!(TraceScore::LogprobSum.of(&trace, &settings), None);
    }

    #[test]
    fn soft_min_lies_between_minimum_and_mean() {
        let rewards = [-900.0, 3.0, 800.0];
        let cold = soft_min(&rewards, 1e-3);
        assert!((cold + 900.0).abs() < 0.01);
        let hot = soft_min(&rewards, 1e7);
        assert!((hot - (-97.0 / 3.0)).abs() < 0.1);
    }

    #[test]
    fn recorded_scores_are_the_fallback() {
        let mut empty = trace("abcd", &[None, None]);
        assert_eq!(TraceScore::Mean.of(&empty, &ScoreSettings::default()), None);
        empty.scores.insert("mean".into(), 0.5);
        assert_eq!(
            TraceScore::Mean.of(&empty, &ScoreSettings::default()),
            Some(0.5)
        );
    }

    #[test]
    fn names_round_trip_and_the_nearest_is_named() {
        for score in TraceScore::ALL {
            assert_eq!(TraceScore::parse(score.name()).unwrap(), score);
            assert_eq!(serde_json::to_value(score).unwrap(), score.name());
        }
        let message = TraceScore::parse("softmin").unwrap_err().to_string();
        assert_eq!(
            message,
            "unknown trace score `softmin`; did you mean `soft_min`?"
        );
    }

    #[test]
    fn answer_area_is_the_last_marker() {
        assert_eq!(answer_start("a\n#### 3\n#### 4"), 9);
        assert_eq!(answer_start("x <answer>3</answer>"), 2);
        assert_eq!(answer_start("#### Step 1\nso \\boxed{3}."), 15);
        assert_eq!(answer_start("one\nThe answer is 3."), 4);
        assert_eq!(answer_start("x <answer>3"), 2);
        assert_eq!(answer_start("one\ntwo\n"), 4);
        assert_eq!(answer_start(""), 0);
    }

    #[test]
    fn logprob_scores_prefer_the_policy() {
        let mut trace = trace("ab", &[Some(0.0), Some(0.0)]);
        trace.sampling_logprobs = Some(vec![-9.0, -9.0]);
        trace.policy_logprobs = Some(vec![-1.0, -2.0]);
        let all = score_all(&trace, &ScoreSettings::default());
        assert_eq!(all["logprob_sum"], -3.0);
        assert_eq!(all["logprob_mean"], -1.5);
    }
}
