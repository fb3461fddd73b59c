//! When the discriminator is trained, the weight of policy samples, and the replay of past samples.

use std::collections::VecDeque;

use assay_tasks::random::Stream;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// When the discriminator is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiscriminatorSchedule {
    /// Optimiser steps in an iteration that trains the discriminator; at least 1.
    pub updates_per_iteration: usize,
    /// Iterations at the start that train the discriminator only.
    pub warmup_iterations: usize,
    /// Never trains: no loss, no optimiser.
    pub frozen: bool,
    /// Weight of policy samples among the negatives.
    pub policy_negatives: PolicyNegatives,
    /// Past policy samples among the negatives.
    pub replay: ReplaySettings,
}

impl Default for DiscriminatorSchedule {
    fn default() -> Self {
        Self {
            updates_per_iteration: 1,
            warmup_iterations: 0,
            frozen: false,
            policy_negatives: PolicyNegatives::default(),
            replay: ReplaySettings::default(),
        }
    }
}

/// Numbers of updates in one iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IterationPlan {
    /// Optimiser steps of the discriminator; 0 skips its loss altogether.
    pub discriminator_updates: usize,
    /// Optimiser steps of the policy's pass: 0 during the warm-up, else 1.
    pub policy_updates: usize,
}

impl DiscriminatorSchedule {
    /// The plan of an iteration, counted from 0.
    ///
    /// Every iteration trains the discriminator `updates_per_iteration` times, unless it is frozen.
    /// The warm-up does not train the policy.
    pub fn plan(&self, iteration: usize) -> IterationPlan {
        IterationPlan {
            discriminator_updates: if self.frozen {
                0
            } else {
                self.updates_per_iteration
            },
            policy_updates: usize::from(iteration >= self.warmup_iterations),
        }
    }

    /// Discriminator updates of a whole run, for its learning-rate schedule.
    pub fn total_updates(&self, iterations: usize) -> usize {
        (0..iterations)
            .map(|iteration| self.plan(iteration).discriminator_updates)
            .sum()
    }

    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str) -> Result<(), TrainError> {
        if self.updates_per_iteration == 0 {
            let reason = "must be at least 1, not 0; set `frozen = true` to leave the discriminator untrained";
            return Err(TrainError::setting(
                format!("{key}.updates_per_iteration"),
                reason,
            ));
        }
        if self.frozen && self.warmup_iterations > 0 {
            let reason = "a frozen discriminator has no warm-up: set it to 0";
            return Err(TrainError::setting(
                format!("{key}.warmup_iterations"),
                reason,
            ));
        }
        self.policy_negatives
            .validate(&format!("{key}.policy_negatives"))?;
        self.replay.validate(&format!("{key}.replay"))
    }
}

/// Weight of a policy sample among the negatives. A perturbed demonstration has weight 1.
///
/// While demonstrations and samples differ in style, labelling samples as negative rewards the
/// style rather than the reasoning. So the weight can depend on how similar the two already are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PolicyNegatives {
    /// Weight 0.
    Off,
    /// The same weight in every iteration (the paper: 1).
    Constant {
        /// The weight.
        weight: f64,
    },
    /// Linear in iterations: weight * clamp((i - start) / (end - start), 0, 1).
    Ramp {
        /// The weight from `end` on.
        weight: f64,
        /// The last iteration with weight 0.
        start: usize,
        /// The first iteration with the whole weight.
        end: usize,
    },
    /// Increases as the discriminator's style advantage a ([`StyleAdvantage`]) falls:
    /// weight * clamp((0.95 - a) / (0.95 - 0.6), 0, 1); 0 before the first observation. At a = 0.5
    /// demonstrations and samples cannot be distinguished, at a = 1 always.
    ///
    /// This is negative feedback: a discriminator that learns style raises a, which lowers the
    /// weight.
    StyleAdvantage {
        /// The weight at a style advantage of 0.6 and below.
        weight: f64,
    },
}

/// Style advantage below which samples have the full weight.
const ALIKE: f64 = 0.6;
/// Style advantage above which samples have no weight.
const APART: f64 = 0.95;

impl Default for PolicyNegatives {
    fn default() -> Self {
        Self::StyleAdvantage { weight: 0.5 }
    }
}

impl PolicyNegatives {
    /// The weight in an iteration (from 0), given the running style advantage so far.
    pub fn weight(&self, iteration: usize, style_advantage: Option<f64>) -> f64 {
        match *self {
            Self::Off => 0.0,
            Self::Constant { weight } => weight,
            Self::Ramp { weight, start, end } => {
                let done = iteration.saturating_sub(start) as f64;
                let length = end.saturating_sub(start).max(1) as f64;
                weight * (done / length).min(1.0)
            }
            Self::StyleAdvantage { weight } => {
                let likeness = |a: f64| ((APART - a) / (APART - ALIKE)).clamp(0.0, 1.0);
                weight * style_advantage.map_or(0.0, likeness)
            }
        }
    }

    fn validate(&self, key: &str) -> Result<(), TrainError> {
        let weight = match *self {
            Self::Off => 0.0,
            Self::Constant { weight }
            | Self::Ramp { weight, .. }
            | Self::StyleAdvantage { weight } => weight,
        };
        if !(weight.is_finite() && weight >= 0.0) {
            let reason = format!("must be finite and at least 0, not {weight}");
            return Err(TrainError::setting(format!("{key}.weight"), reason));
        }
        match *self {
            Self::Ramp { start, end, .. } if start >= end => {
                let reason = format!("must lie after start = {start}, not at {end}");
                Err(TrainError::setting(format!("{key}.end"), reason))
            }
            _ => Ok(()),
        }
    }
}

/// Running share of same-prompt pairs in which the discriminator ranks the demonstration above a
/// policy sample.
///
/// a = x after the first observation x, then a <- 0.9 a + 0.1 x. Saved with the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StyleAdvantage {
    running: Option<f64>,
}

impl StyleAdvantage {
    const MEMORY: f64 = 0.9;

    /// Adds one update's share of pairs; `None` and non-finite values are ignored.
    pub fn observe(&mut self, share: Option<f64>) {
        if let Some(share) = share.filter(|share| share.is_finite()) {
            let before = self.running.unwrap_or(share);
            self.running = Some(Self::MEMORY * before + (1.0 - Self::MEMORY) * share);
        }
    }

    /// The running value, `None` before the first observation.
    pub fn running(&self) -> Option<f64> {
        self.running
    }
}

/// Past policy samples among the negatives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplaySettings {
    /// Share of an update's policy samples that come from the buffer, in [0, 1]; 0 keeps no past
    /// samples.
    pub share: f64,
}

/// Maximum number of past samples that a run keeps; the oldest are dropped first.
const KEPT_SAMPLES: usize = 1024;

impl ReplaySettings {
    fn validate(&self, key: &str) -> Result<(), TrainError> {
        if !(0.0..=1.0).contains(&self.share) {
            let reason = format!("must lie in [0, 1], not {}", self.share);
            return Err(TrainError::setting(format!("{key}.share"), reason));
        }
        Ok(())
    }
}

/// Past policy samples of type `T`, oldest first. Saved with the run if `T` is serialisable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayBuffer<T> {
    capacity: usize,
    items: VecDeque<T>,
}

impl<T> ReplayBuffer<T> {
    /// An empty buffer; without replay it keeps nothing.
    pub fn new(settings: &ReplaySettings) -> Self {
        Self::with_capacity(if settings.share > 0.0 {
            KEPT_SAMPLES
        } else {
            0
        })
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity,
            items: VecDeque::new(),
        }
    }

    /// Adds samples and drops the oldest beyond the capacity.
    pub fn extend(&mut self, samples: impl IntoIterator<Item = T>) {
        for sample in samples {
            self.items.push_back(sample);
            if self.items.len() > self.capacity {
                self.items.pop_front();
            }
        }
    }

    /// Number of samples kept.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Number of `count` policy samples taken from the buffer: round(share * count), at most the
    /// number kept.
    pub fn replayed(&self, count: usize, share: f64) -> usize {
        ((share * count as f64).round() as usize)
            .min(count)
            .min(self.items.len())
    }

    /// `count` different samples, drawn uniformly (all if fewer are kept), in the order of drawing.
    pub fn draw(&self, count: usize, stream: &mut Stream) -> Vec<&T> {
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        let count = count.min(order.len());
        for place in 0..count {
            let other = place + stream.below(order.len() - place);
            order.swap(place, other);
        }
        order[..count]
            .iter()
            .map(|&index| &self.items[index])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Updates per iteration" is a number of optimiser steps within each iteration, not "every
    /// n-th iteration".
    #[test]
    fn fault_08_updates_per_iteration_loops() {
        let schedule = DiscriminatorSchedule {
            updates_per_iteration: 3,
            ..Default::default()
        };
        let updates: Vec<usize> = (0..4)
            .map(|i| schedule.plan(i).discriminator_updates)
            .collect();
        assert_eq!(updates, [3, 3, 3, 3]);
        assert_eq!(schedule.total_updates(4), 12);
    }

    #[test]
    fn warmup_trains_the_discriminator_only() {
        let schedule = DiscriminatorSchedule {
            warmup_iterations: 2,
            ..Default::default()
        };
        let plans: Vec<_> = (0..4)
            .map(|i| {
                (
                    schedule.plan(i).discriminator_updates,
                    schedule.plan(i).policy_updates,
                )
            })
            .collect();
        assert_eq!(plans, [(1, 0), (1, 0), (1, 1), (1, 1)]);
    }

    #[test]
    fn frozen_never_trains() {
        let schedule = DiscriminatorSchedule {
            frozen: true,
            ..Default::default()
        };
        assert_eq!(schedule.total_updates(10), 0);
        assert_eq!(schedule.plan(0).policy_updates, 1);
        let confused = DiscriminatorSchedule {
            warmup_iterations: 1,
            ..schedule
        };
        assert!(confused.validate("reward.schedule").is_err());
    }

    #[test]
    fn policy_negatives_grow_as_style_advantage_falls() {
        let schedule = PolicyNegatives::StyleAdvantage { weight: 0.5 };
        let running = [
            None,
            Some(1.0),
            Some(0.95),
            Some(0.775),
            Some(0.6),
            Some(0.4),
        ];
        let weights: Vec<f64> = running.map(|a| schedule.weight(7, a)).into();
        for (weight, expected) in weights.iter().zip([0.0, 0.0, 0.0, 0.25, 0.5, 0.5]) {
            assert!((weight - expected).abs() < 1e-12, "{weights:?}");
        }
        let ramp = PolicyNegatives::Ramp {
            weight: 2.0,
            start: 2,
            end: 6,
        };
        let weights: Vec<f64> = (0..9).map(|i| ramp.weight(i, None)).collect();
        assert_eq!(weights, [0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn style_advantage_remembers() {
        let mut advantage = StyleAdvantage::default();
        advantage.observe(None);
        assert_eq!(advantage.running(), None);
        advantage.observe(Some(1.0));
        advantage.observe(Some(f64::NAN));
        advantage.observe(Some(0.5));
        assert!((advantage.running().unwrap() - 0.95).abs() < 1e-12);
    }

    #[test]
    fn replay_keeps_the_newest_and_draws_without_repetition() {
        let mut buffer = ReplayBuffer::with_capacity(5);
        buffer.extend(0..8);
        let mut drawn: Vec<i32> = buffer
            .draw(9, &mut Stream::new(1, &[2]))
            .into_iter()
            .copied()
            .collect();
        let again: Vec<i32> = buffer
            .draw(3, &mut Stream::new(1, &[2]))
            .into_iter()
            .copied()
            .collect();
        assert_eq!(again, drawn[..3], "a stream decides the draw");
        drawn.sort_unstable();
        assert_eq!(drawn, [3, 4, 5, 6, 7]);
        assert_eq!(
            (
                buffer.replayed(4, 0.5),
                buffer.replayed(16, 0.5),
                buffer.replayed(3, 0.5)
            ),
            (2, 5, 2)
        );
        let text = serde_json::to_string(&buffer).unwrap();
        assert_eq!(
            serde_json::from_str::<ReplayBuffer<i32>>(&text).unwrap(),
            buffer
        );
        let mut off = ReplayBuffer::new(&ReplaySettings::default());
        off.extend(0..3);
        assert!(off.is_empty());
        let mut on = ReplayBuffer::new(&ReplaySettings { share: 0.5 });
        on.extend(0..2000);
        assert_eq!(on.len(), 1024);
    }
}
