//! Alarms: signs of trouble in the metrics of a training run.
//!
//! Every alarm is a formula over the lines of `metrics.jsonl` and a threshold; docs/metrics.md
//! lists them with advice. A windowed value is the mean of the last [`WINDOW`] values of a metric,
//! its start the mean of the first [`WINDOW`] values. An alarm is raised when its condition becomes
//! true, and again if the condition becomes true again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::metrics::MetricRow;
use crate::stability::{COLLAPSE_SHARE, is_collapsed};

/// Number of values of a metric that are averaged.
const WINDOW: usize = 10;
/// Accuracy on experts and on policy samples above which the discriminator is saturated.
const SATURATED: f64 = 0.99;
/// Share of groups without spread above which there is little to learn.
const ZERO_STD: f64 = 0.5;
/// Absolute correlation of the reward with length or format above which the reward follows it.
const SHORTCUT: f64 = 0.5;
/// Share of its start below which the entropy has collapsed.
const ENTROPY: f64 = 0.2;
/// Multiple of its start from which the entropy is rising. Runs that learn stay below 1.1; one that
/// fell apart reached 1.9 after 17 iterations.
const ENTROPY_RISE: f64 = 1.5;
/// Rise of the truncated share.
const TRUNCATION: f64 = 0.1;
/// Mean absolute difference of recomputed and sampled log-probabilities, in nats.
const SAMPLING_GAP: f64 = 0.01;
/// Fall of validation accuracy below its best so far.
const ACCURACY_FALL: f64 = 0.05;

/// What is wrong. Settings and files name it in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlarmKind {
    /// The discriminator nearly always separates demonstrations from policy samples.
    DiscriminatorSaturated,
    /// In many groups all traces have the same score.
    ZeroStdGroups,
    /// The reward rises while validation accuracy falls.
    RewardWithoutAccuracy,
    /// The reward follows the length of a trace.
    RewardFollowsLength,
    /// The reward follows whether a trace has the answer's format.
    RewardFollowsFormat,
    /// The policy has become nearly deterministic.
    EntropyCollapse,
    /// The policy has become much more random.
    EntropyRising,
    /// A growing share of samples is cut at the token limit.
    TruncationRising,
    /// Sampler and trainer compute different log-probabilities.
    SamplingGap,
    /// Validation accuracy is a small fraction of its start.
    Collapsed,
}

/// An alarm that was raised.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// What is wrong.
    pub kind: AlarmKind,
    /// The iteration at which the condition became true.
    pub iteration: f64,
    /// The value that was compared with the threshold.
    pub value: f64,
    /// The threshold.
    pub threshold: f64,
}

/// Checks a run line by line.
#[derive(Clone, Debug, Default)]
pub struct AlarmWatch {
    series: BTreeMap<&'static str, Window>,
    validation: Validation,
    raised: BTreeSet<AlarmKind>,
}

/// The first and the last values of one metric.
#[derive(Clone, Debug, Default)]
struct Window {
    first: Vec<f64>,
    last: VecDeque<f64>,
}

/// Validation accuracy so far.
#[derive(Clone, Debug, Default)]
struct Validation {
    start: Option<f64>,
    best: Option<BestAccuracy>,
    latest: Option<Accuracy>,
}

/// A validation accuracy and the number of traces behind it.
#[derive(Clone, Copy, Debug)]
struct Accuracy {
    value: f64,
    traces: f64,
}

/// The best accuracy so far, and the windowed reward when it was measured.
#[derive(Clone, Copy, Debug)]
struct BestAccuracy {
    value: f64,
    reward: Option<f64>,
}

/// An alarm's condition at one line of metrics.
struct Condition {
    value: f64,
    threshold: f64,
    holds: bool,
}

impl Condition {
    /// The condition that a value is at least the threshold.
    fn at_least(value: f64, threshold: f64) -> Self {
        Self {
            value,
            threshold,
            holds: value >= threshold,
        }
    }
}

const ZERO_STD_SHARE: &str = "advantage/zero_std_share";
const LENGTH_CORRELATION: &str = "rollout/reward_length_correlation";
const FORMAT_CORRELATION: &str = "rollout/reward_format_correlation";
const ENTROPY_ESTIMATE: &str = "rollout/entropy_estimate";
const TRUNCATED_SHARE: &str = "rollout/truncated_share";
const GAP_MEAN: &str = "policy/sampling_gap_mean";
const EXPERT: &str = "reward/accuracy_expert";
const POLICY: &str = "reward/accuracy_policy";
const REWARD: &str = "rollout/reward";
const ACCURACY: &str = "validation/accuracy";
const TRACES: &str = "validation/traces";
const WATCHED: [&str; 9] = [
    ZERO_STD_SHARE,
    LENGTH_CORRELATION,
    FORMAT_CORRELATION,
    ENTROPY_ESTIMATE,
    TRUNCATED_SHARE,
    GAP_MEAN,
    EXPERT,
    POLICY,
    REWARD,
];

/// All alarms of a run, in the order in which they are raised.
pub fn find_alarms(rows: &[MetricRow]) -> Vec<Alarm> {
    let mut watch = AlarmWatch::default();
    rows.iter().flat_map(|row| watch.push(row)).collect()
}

impl AlarmKind {
    /// Every alarm.
    pub const ALL: [Self; 10] = [
        Self::DiscriminatorSaturated,
        Self::ZeroStdGroups,
        Self::RewardWithoutAccuracy,
        Self::RewardFollowsLength,
        Self::RewardFollowsFormat,
        Self::EntropyCollapse,
        Self::EntropyRising,
        Self::TruncationRising,
        Self::SamplingGap,
        Self::Collapsed,
    ];

    /// What is wrong, in a few words.
    pub fn headline(self) -> &'static str {
        match self {
            Self::DiscriminatorSaturated => "discriminator saturated",
            Self::ZeroStdGroups => "groups without spread",
            Self::RewardWithoutAccuracy => "reward up, accuracy down",
            Self::RewardFollowsLength => "reward follows length",
            Self::RewardFollowsFormat => "reward follows format",
            Self::EntropyCollapse => "entropy collapse",
            Self::EntropyRising => "entropy rising",
            Self::TruncationRising => "truncation rising",
            Self::SamplingGap => "sampler and trainer disagree",
            Self::Collapsed => "policy collapsed",
        }
    }

    /// Advice on what to change.
    pub fn advice(self) -> &'static str {
        match self {
            Self::DiscriminatorSaturated => {
                "lower optimiser.reward.learning_rate or reward.schedule.policy_negatives, or warm-start the policy longer: \
                 the discriminator sees style, and its reward no longer grades reasoning"
            }
            Self::ZeroStdGroups => {
                "raise sampling.temperature or sampling.samples, or choose harder problems: such groups have no gradient"
            }
            Self::RewardWithoutAccuracy => {
                "stop here and keep the best checkpoint: the policy exploits the reward; update the reward more often, \
                 or add policy.objective.kl_weight"
            }
            Self::RewardFollowsLength => {
                "use the `average` or `soft_min` advantage and compare within a prompt (reward.loss.relativistic)"
            }
            Self::RewardFollowsFormat => {
                "render demonstrations and samples in the same style (prompt.style) and warm-start until the format is learned"
            }
            Self::EntropyCollapse => {
                "lower optimiser.policy.learning_rate, raise policy.objective.clip_high, or add policy.objective.kl_weight"
            }
            Self::EntropyRising => {
                "lower optimiser.policy.learning_rate, raise the number of samples, or add policy.objective.kl_weight: \
                 the policy unlearns its own text"
            }
            Self::TruncationRising => {
                "raise sampling.max_completion_tokens, or set policy.objective.mask_truncated; check whether the reward grows with length"
            }
            Self::SamplingGap => {
                "expected with a temperature; otherwise sampler and trainer compute differently: check model and adapter"
            }
            Self::Collapsed => {
                "restart from the best checkpoint with a lower optimiser.policy.learning_rate or a KL term"
            }
        }
    }

    /// Whether the alarm is computed from this metric.
    pub fn concerns(self, metric: &str) -> bool {
        let own: &[&str] = match self {
            Self::DiscriminatorSaturated => &[EXPERT, POLICY],
            Self::ZeroStdGroups => &[ZERO_STD_SHARE],
            Self::RewardWithoutAccuracy => &[REWARD, ACCURACY],
            Self::RewardFollowsLength => &[LENGTH_CORRELATION],
            Self::RewardFollowsFormat => &[FORMAT_CORRELATION],
            Self::EntropyCollapse | Self::EntropyRising => &[ENTROPY_ESTIMATE],
            Self::TruncationRising => &[TRUNCATED_SHARE],
            Self::SamplingGap => &[GAP_MEAN],
            Self::Collapsed => &[ACCURACY],
        };
        own.contains(&metric)
    }
}

impl Alarm {
    /// The alarm as one line of text.
    pub fn text(&self) -> String {
        format!(
            "{} at iteration {}: {:.3} against {:.3}; {}",
            self.kind.headline(),
            self.iteration,
            self.value,
            self.threshold,
            self.kind.advice()
        )
    }
}

impl AlarmWatch {
    /// Adds the next line and returns the alarms that it raises.
    pub fn push(&mut self, row: &MetricRow) -> Vec<Alarm> {
        for name in WATCHED {
            if let Some(&value) = row.values.get(name) {
                self.series.entry(name).or_default().push(value);
            }
        }
        if let Some(&accuracy) = row.values.get(ACCURACY) {
            let traces = row.values.get(TRACES).copied().unwrap_or(0.0);
            let reward = self.last(REWARD);
            let accuracy = Accuracy {
                value: accuracy,
                traces,
            };
            self.validation.push(accuracy, reward);
        }
        let mut new = Vec::new();
        for kind in AlarmKind::ALL {
            match self.condition(kind).filter(|condition| condition.holds) {
                Some(condition) if self.raised.insert(kind) => new.push(Alarm {
                    kind,
                    iteration: row.iteration,
                    value: condition.value,
                    threshold: condition.threshold,
                }),
                Some(_) => {}
                None => drop(self.raised.remove(&kind)),
            }
        }
        new
    }

    /// The alarm's condition; `None` while there are too few values.
    fn condition(&self, kind: AlarmKind) -> Option<Condition> {
        let above = |value, threshold| Some(Condition::at_least(value, threshold));
        match kind {
            AlarmKind::DiscriminatorSaturated => {
                above(self.last(EXPERT)?.min(self.last(POLICY)?), SATURATED)
            }
            AlarmKind::ZeroStdGroups => above(self.last(ZERO_STD_SHARE)?, ZERO_STD),
            AlarmKind::RewardWithoutAccuracy => self.validation.fall(self.last(REWARD)?),
            AlarmKind::RewardFollowsLength => above(self.last(LENGTH_CORRELATION)?.abs(), SHORTCUT),
            AlarmKind::RewardFollowsFormat => above(self.last(FORMAT_CORRELATION)?.abs(), SHORTCUT),
            AlarmKind::EntropyCollapse => {
                let value = self.last(ENTROPY_ESTIMATE)?;
                let threshold = ENTROPY * self.start(ENTROPY_ESTIMATE)?;
                Some(Condition {
                    value,
                    threshold,
                    holds: value <= threshold,
                })
            }
            AlarmKind::EntropyRising => {
                let limit = ENTROPY_RISE * self.start(ENTROPY_ESTIMATE)?;
                above(self.last(ENTROPY_ESTIMATE)?, limit)
            }
            AlarmKind::TruncationRising => {
                let limit = self.start(TRUNCATED_SHARE)? + TRUNCATION;
                above(self.last(TRUNCATED_SHARE)?, limit)
            }
            AlarmKind::SamplingGap => above(self.last(GAP_MEAN)?, SAMPLING_GAP),
            AlarmKind::Collapsed => {
                let (start, latest) = (self.validation.start?, self.validation.latest?);
                Some(Condition {
                    value: latest.value,
                    threshold: COLLAPSE_SHARE * start,
                    holds: is_collapsed(start, latest.value),
                })
            }
        }
    }

    fn last(&self, name: &str) -> Option<f64> {
        let window = self.series.get(name)?;
        (window.last.len() == WINDOW).then(|| window.last.iter().sum::<f64>() / WINDOW as f64)
    }

    fn start(&self, name: &str) -> Option<f64> {
        let window = self.series.get(name)?;
        (window.first.len() == WINDOW).then(|| window.first.iter().sum::<f64>() / WINDOW as f64)
    }
}

impl Window {
    fn push(&mut self, value: f64) {
        if self.first.len() < WINDOW {
            self.first.push(value);
        }
        if self.last.len() == WINDOW {
            self.last.pop_front();
        }
        self.last.push_back(value);
    }
}

impl Validation {
    fn push(&mut self, accuracy: Accuracy, reward: Option<f64>) {
        let value = accuracy.value;
        self.start.get_or_insert(value);
        self.latest = Some(accuracy);
        // A best accuracy without a reward is replaced by the first one with a reward: without it a
        // rise of the reward cannot be measured.
        let is_best =
            |best: BestAccuracy| value >= best.value || best.reward.is_none() && reward.is_some();
        if self.best.is_none_or(is_best) {
            self.best = Some(BestAccuracy { value, reward });
        }
    }

    /// A fall below the best accuracy by two standard errors or more, while the reward is above its
    /// value at the best accuracy.
    fn fall(&self, reward: f64) -> Option<Condition> {
        let (best, latest) = (self.best?, self.latest?);
        let variance = best.value * (1.0 - best.value) + latest.value * (1.0 - latest.value);
        let error = if latest.traces > 0.0 {
            (variance / latest.traces).sqrt()
        } else {
            0.0
        };
        let fall = Condition::at_least(best.value - latest.value, ACCURACY_FALL.max(2.0 * error));
        Some(Condition {
            holds: fall.holds && reward > best.reward?,
            ..fall
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of forty iterations with healthy metrics, except for what `change` does to each line.
    fn run(change: impl Fn(usize, &mut BTreeMap<String, f64>)) -> Vec<MetricRow> {
        let row = |iteration: usize| {
            let mut values = BTreeMap::from(
                [
                    (EXPERT, 0.8),
                    (POLICY, 0.7),
                    (ZERO_STD_SHARE, 0.1),
                    (LENGTH_CORRELATION, 0.1),
                    (FORMAT_CORRELATION, -0.1),
                    (ENTROPY_ESTIMATE, 0.9),
                    (TRUNCATED_SHARE, 0.02),
                    (GAP_MEAN, 1e-6),
                    (REWARD, 0.01 * iteration as f64),
                ]
                .map(|(name, value)| (name.to_owned(), value)),
            );
            if iteration % 10 == 9 {
                values.insert(ACCURACY.to_owned(), 0.5);
                values.insert(TRACES.to_owned(), 400.0);
            }
            change(iteration, &mut values);
            MetricRow {
                iteration: iteration as f64,
                values,
            }
        };
        (0..40).map(row).collect()
    }

    /// From iteration 20 a metric has another value.
    fn from_twenty(name: &'static str, value: f64) -> Vec<MetricRow> {
        run(|iteration, values| {
            if iteration >= 20 && values.contains_key(name) {
                values.insert(name.to_owned(), value);
            }
        })
    }

    fn only(rows: &[MetricRow]) -> (AlarmKind, f64) {
        let found = find_alarms(rows);
        assert_eq!(found.len(), 1, "{found:?}");
        (found[0].kind, found[0].iteration)
    }

    #[test]
    fn a_healthy_run_is_silent() {
        assert_eq!(find_alarms(&run(|_, _| {})), []);
        assert_eq!(find_alarms(&[]), []);
    }

    #[test]
    fn each_alarm_is_raised_once() {
        // (.95 k + .1 (10-k)) / 10 >= .5 from k = 5 (.525)
        let share = only(&from_twenty(ZERO_STD_SHARE, 0.95));
        assert_eq!(share, (AlarmKind::ZeroStdGroups, 24.0));
        let length = only(&from_twenty(LENGTH_CORRELATION, -0.7));
        // (.1 (10-k) - .7 k) / 10 <= -.5 from k = 8 (-.54)
        assert_eq!(length, (AlarmKind::RewardFollowsLength, 27.0));
        assert_eq!(
            only(&from_twenty(FORMAT_CORRELATION, 0.9)).0,
            AlarmKind::RewardFollowsFormat
        );
        // (.9 (10-k) + .01 k) / 10 <= .18 from k = 9 (.099)
        let entropy = only(&from_twenty(ENTROPY_ESTIMATE, 0.01));
        assert_eq!(entropy, (AlarmKind::EntropyCollapse, 28.0));
        // (.9 (10-k) + 2 k) / 10 >= 1.35 from k = 5 (1.45)
        let entropy = only(&from_twenty(ENTROPY_ESTIMATE, 2.0));
        assert_eq!(entropy, (AlarmKind::EntropyRising, 24.0));
        // .02 + .1: (.02 (10-k) + .32 k) / 10 >= .12 from k = 4
        let cut = only(&from_twenty(TRUNCATED_SHARE, 0.3201));
        assert_eq!(cut, (AlarmKind::TruncationRising, 23.0));
        assert_eq!(
            only(&from_twenty(GAP_MEAN, 0.2)),
            (AlarmKind::SamplingGap, 20.0)
        );
    }

    #[test]
    fn saturation_needs_both_sides() {
        assert_eq!(find_alarms(&from_twenty(EXPERT, 1.0)), []);
        let both = run(|iteration, values| {
            if iteration >= 20 {
                values.insert(EXPERT.into(), 1.0);
                values.insert(POLICY.into(), 0.995);
            }
        });
        assert_eq!(only(&both), (AlarmKind::DiscriminatorSaturated, 29.0));
    }

    #[test]
    fn accuracy_that_falls_counts_while_the_reward_rises() {
        let falling = from_twenty(ACCURACY, 0.35);
        assert_eq!(only(&falling), (AlarmKind::RewardWithoutAccuracy, 29.0));
        let with_reward = run(|iteration, values| {
            if iteration >= 20 {
                values.insert(REWARD.into(), -1.0);
                if values.contains_key(ACCURACY) {
                    values.insert(ACCURACY.into(), 0.35);
                }
            }
        });
        assert_eq!(find_alarms(&with_reward), []);
        // Within two standard errors of 20 traces: sqrt((.25 + .2275) / 20) = .155
        let noise = run(|_, values| {
            if values.contains_key(TRACES) {
                values.insert(TRACES.into(), 20.0);
            }
        });
        let mut noise = noise;
        noise[39].values.insert(ACCURACY.into(), 0.35);
        assert_eq!(find_alarms(&noise), []);
    }

    #[test]
    fn collapse_is_a_fifth_of_the_start() {
        let mut rows = run(|_, values| {
            values.remove(REWARD);
        });
        rows[29].values.insert(ACCURACY.into(), 0.09);
        assert_eq!(only(&rows), (AlarmKind::Collapsed, 29.0));
    }

    #[test]
    fn an_alarm_is_raised_again_after_it_ended() {
        let rows = run(|iteration, values| {
            let bad = (10..12).contains(&iteration) || (30..32).contains(&iteration);
            values.insert(GAP_MEAN.into(), if bad { 1.0 } else { 0.0 });
        });
        let iterations: Vec<f64> = find_alarms(&rows).iter().map(|a| a.iteration).collect();
        assert_eq!(iterations, [10.0, 30.0]);
        let text = find_alarms(&rows)[0].text();
        assert!(
            text.contains("iteration 10") && text.contains("0.100 against 0.010"),
            "{text}"
        );
    }
}
