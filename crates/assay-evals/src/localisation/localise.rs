//! Runs every predictor on every case and computes the `localisation.*` entries of `summary.json`.

use std::collections::{BTreeMap, BTreeSet};

use assay_tasks::random::text_key;

use super::case::{LocalisationCase, error_tokens};
use super::outcome::{HIT_AT_1, HIT_WINDOWS, Outcome};
use super::predictors::{Predictor, PredictorConstants};
use crate::statistics::{BootstrapSettings, Estimate, Resampler, mean};
use crate::summary::{Summary, segment};

/// Outcomes of every predictor on every case.
#[derive(Clone, Debug, Default)]
pub struct Localisation {
    /// For each predictor: the index and the outcome of each case on which it is defined.
    pub outcomes: BTreeMap<Predictor, Vec<(usize, Outcome)>>,
    /// Perturbation of each case; empty for a case without an error token.
    pub kinds: Vec<String>,
    /// Problem of each case: problems are resampled. A case without one is its own problem.
    pub problems: Vec<String>,
    /// Number of cases without a token after the start of the corrupted span, which are left out.
    pub skipped: usize,
}

/// Runs every predictor on every case.
///
/// The [`PredictorConstants`] are cross-fitted: each of two halves of the problems, split by
/// identifier, is evaluated with the constants that are best on the other half.
pub fn localise<'a>(cases: impl IntoIterator<Item = LocalisationCase<'a>>) -> Localisation {
    let cases: Vec<LocalisationCase<'a>> = cases.into_iter().collect();
    let half = |case: &LocalisationCase<'_>| (text_key(case.id) % 2) as usize;
    let fit = |other: usize| {
        let rest: Vec<_> = cases.iter().filter(|case| half(case) == other).collect();
        PredictorConstants::fit(&rest)
    };
    let fitted = [fit(1), fit(0)];
    let mut result = Localisation::default();
    for (index, case) in cases.iter().enumerate() {
        result.problems.push(case.id.to_owned());
        let Some(error_tokens) = error_tokens(case) else {
            result.skipped += 1;
            result.kinds.push(String::new());
            continue;
        };
        result.kinds.push(case.kind.to_owned());
        for predictor in Predictor::ALL {
            if let Some(suspicion) = predictor.suspicion(case, &fitted[half(case)]) {
                let outcome = Outcome::new(&suspicion, &error_tokens);
                result
                    .outcomes
                    .entry(predictor)
                    .or_default()
                    .push((index, outcome));
            }
        }
    }
    result
}

impl Localisation {
    /// Mean Hit@`HIT_WINDOWS[window]` of a predictor; `None` if it is defined on no case.
    pub fn hit(&self, predictor: Predictor, window: usize) -> Option<f64> {
        let values: Vec<f64> = self
            .outcomes
            .get(&predictor)?
            .iter()
            .map(|(_, o)| *o.hits.get(window).unwrap_or(&0.0))
            .collect();
        mean(&values)
    }

    /// The entries of `summary.json`, each with `hit_0 .. hit_15`, `mrr` and `map`:
    /// - `localisation.*` of the predictor `headline`,
    /// - `localisation.predictors.<name>.*` of every predictor that uses the reward,
    /// - `localisation.baselines.<name>.*` of every other predictor,
    /// - `localisation.by_kind.<kind>.*` of `headline` for every perturbation, with the baselines'
    ///   Hit@1 as `localisation.by_kind.<kind>.baselines.<name>.hit_1`.
    ///
    /// If the kinds that the reward was trained on are given, `localisation.trained` has the
    /// entries of `headline` on those kinds and `localisation.held_out` those on all other kinds.
    pub fn summary(
        &self,
        headline: Predictor,
        trained: Option<&[&str]>,
        settings: &BootstrapSettings,
    ) -> Summary {
        let resampler = Resampler::new(*settings);
        let mut summary = Summary::default();
        for (&predictor, outcomes) in &self.outcomes {
            let all = Own::new(outcomes, &self.problems);
            let group = if predictor.is_baseline() {
                "baselines"
            } else {
                "predictors"
            };
            let prefix = format!("localisation.{group}.{}", predictor.name());
            add_entries(&mut summary, &prefix, &all, &resampler);
            if predictor == headline {
                add_entries(&mut summary, "localisation", &all, &resampler);
            }
        }
        self.add_kinds(headline, &resampler, &mut summary);
        for (name, is_trained) in [("trained", true), ("held_out", false)] {
            let Some(kinds) = trained else { break };
            let own = self.of_kinds(headline, |kind| kinds.contains(&kind) == is_trained);
            add_entries(
                &mut summary,
                &format!("localisation.{name}"),
                &own,
                &resampler,
            );
        }
        summary
    }

    fn add_kinds(&self, headline: Predictor, resampler: &Resampler, summary: &mut Summary) {
        let kinds: BTreeSet<&str> = self.kinds.iter().map(String::as_str).collect();
        for kind in kinds.into_iter().filter(|kind| !kind.is_empty()) {
            let prefix = format!("localisation.by_kind.{}", segment(kind));
            let own = self.of_kinds(headline, |other| other == kind);
            add_entries(summary, &prefix, &own, resampler);
            for baseline in self.outcomes.keys().filter(|p| p.is_baseline()) {
                let own = self.of_kinds(*baseline, |other| other == kind);
                let name = format!("{prefix}.baselines.{}.hit_1", baseline.name());
                let hits = own.mean(resampler, |outcome| outcome.hits[HIT_AT_1]);
                summary.insert_some(&name, hits);
            }
        }
    }

    fn of_kinds(&self, predictor: Predictor, member: impl Fn(&str) -> bool) -> Own {
        let all = self.outcomes.get(&predictor).into_iter().flatten();
        Own::new(
            all.filter(|(case, _)| member(&self.kinds[*case])),
            &self.problems,
        )
    }
}

/// Outcomes with the number of each one's problem, from 0.
#[derive(Default)]
struct Own {
    outcomes: Vec<Outcome>,
    problems: Vec<usize>,
}

impl Own {
    /// Outcomes of cases, whose problems are in `problems`.
    fn new<'o>(
        outcomes: impl IntoIterator<Item = &'o (usize, Outcome)>,
        problems: &[String],
    ) -> Self {
        let mut own = Self::default();
        let (mut places, mut next) = (BTreeMap::new(), 0);
        for (case, outcome) in outcomes {
            let id = problems.get(*case).filter(|id| !id.is_empty());
            let place = match id {
                Some(id) => *places.entry(id).or_insert(next),
                None => next,
            };
            next = next.max(place + 1);
            own.outcomes.push(*outcome);
            own.problems.push(place);
        }
        own
    }

    fn mean(&self, resampler: &Resampler, of: impl Fn(&Outcome) -> f64) -> Option<Estimate> {
        let values: Vec<f64> = self.outcomes.iter().map(of).collect();
        resampler.clustered_mean(&values, &self.problems)
    }
}

fn add_entries(summary: &mut Summary, prefix: &str, own: &Own, resampler: &Resampler) {
    let mut add = |name: &str, of: &dyn Fn(&Outcome) -> f64| {
        summary.insert_some(&format!("{prefix}.{name}"), own.mean(resampler, of));
    };
    for (index, window) in HIT_WINDOWS.into_iter().enumerate() {
        add(&format!("hit_{window}"), &|outcome| outcome.hits[index]);
    }
    add("mrr", &|outcome| outcome.reciprocal_rank);
    add("map", &|outcome| outcome.average_precision);
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: [(usize, usize); 7] = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 6)];

    fn case(rewards: &[Option<f32>]) -> LocalisationCase<'_> {
        LocalisationCase {
            kind: "corrupt_numbers",
            text: "a 12 b",
            token_offsets: &OFFSETS,
            token_rewards: rewards,
            error_start: 2,
            error_end: 4,
            ..LocalisationCase::default()
        }
    }

    #[test]
    fn a_drop_at_the_error_is_a_hit() {
        let rewards = [1.0, 1.0, -1.0, -1.0, 0.0, -0.5, -0.5].map(Some);
        let result = localise([case(&rewards)]);
        assert_eq!(result.hit(Predictor::LargestDrop, 0), Some(1.0));
        let outcome = result.outcomes[&Predictor::LargestDrop][0].1;
        assert_eq!(outcome.reciprocal_rank, 1.0);
        // Ranks of the span's tokens 2 and 3: first; then drop 0.5 of token 5, then tokens 1, 3, 6
        // with drop 0, in one step.
        assert!((outcome.average_precision - (1.0 + 2.0 / 5.0) / 2.0).abs() < 1e-12);
        // The lowest reward is shared by tokens 2 and 3.
        assert_eq!(result.hit(Predictor::LowestReward, 0), Some(0.5));
        assert_eq!(result.hit(Predictor::LowestReward, 1), Some(1.0));
    }

    #[test]
    fn chance_is_the_exact_expectation() {
        let rewards = [Some(0.0); 7];
        let result = localise([case(&rewards)]);
        for (window, expected) in [(0, 1.0 / 7.0), (1, 3.0 / 7.0), (2, 6.0 / 7.0), (3, 1.0)] {
            assert!((result.hit(Predictor::Chance, window).unwrap() - expected).abs() < 1e-12);
        }
        let harmonic: f64 = (1..=7).map(|i| 1.0 / f64::from(i)).sum();
        assert!(
            (result.outcomes[&Predictor::Chance][0].1.reciprocal_rank - harmonic / 7.0).abs()
                < 1e-12
        );
        assert!(
            (result.outcomes[&Predictor::Chance][0].1.average_precision - 2.0 / 7.0).abs() < 1e-12
        );
    }

    #[test]
    fn the_summary_names_every_kind_and_baseline() {
        let rewards = [1.0, 1.0, -1.0, -1.0, 0.0, -0.5, -0.5].map(Some);
        let logprobs = [-1.0, -1.0, -9.0, -1.0, -1.0, -1.0, 0.0];
        let other = LocalisationCase {
            kind: "off_by_one",
            logprobs: Some(&logprobs),
            error_start: 5,
            error_end: 6,
            ..case(&rewards)
        };
        let lost = LocalisationCase {
            error_start: 6,
            error_end: 6,
            ..case(&rewards)
        };
        let result = localise([case(&rewards), lost, other]);
        assert_eq!(result.skipped, 1);
        let summary = result.summary(
            Predictor::LargestDrop,
            Some(&["off_by_one"]),
            &BootstrapSettings::default(),
        );
        let value = |name: &str| {
            summary
                .get(name)
                .map(|estimate| (estimate.value, estimate.n))
        };
        assert_eq!(value("localisation.hit_0"), Some((0.5, 2)));
        assert_eq!(value("localisation.hit_3"), Some((1.0, 2)));
        assert_eq!(
            value("localisation.by_kind.off_by_one.hit_0"),
            Some((0.0, 1))
        );
        assert_eq!(
            value("localisation.baselines.surprising_number.hit_0"),
            Some((0.0, 1))
        );
        assert_eq!(value("localisation.trained.hit_0"), Some((0.0, 1)));
        assert_eq!(value("localisation.held_out.hit_0"), Some((1.0, 1)));
        assert_eq!(
            value("localisation.by_kind.corrupt_numbers.baselines.chance.hit_1"),
            Some((3.0 / 7.0, 1))
        );
    }

    #[test]
    fn the_threshold_comes_from_the_other_half() {
        let rewards = [1.0, 0.9, -1.0, -1.0, -0.5, -0.5, -0.5].map(Some);
        // Between -1 and .9 the first token below is the error; the lowest such threshold is kept.
        let threshold = PredictorConstants::fit(&[&case(&rewards)])
            .threshold
            .unwrap();
        assert!(threshold > -1.0 && threshold <= -0.5, "{threshold}");
        let named = |id| LocalisationCase {
            id,
            ..case(&rewards)
        };
        let of_half = |half: u64| {
            let mut names = ["a", "b", "c", "d"].into_iter();
            names.find(|id| text_key(id) % 2 == half).unwrap()
        };
        let both = localise([named(of_half(0)), named(of_half(1))]);
        assert_eq!(both.outcomes[&Predictor::BelowThreshold].len(), 2);
        assert_eq!(both.hit(Predictor::BelowThreshold, 1), Some(1.0));
        // With one half alone there are no other cases to fit a threshold on.
        let one = localise([named(of_half(0))]);
        assert!(!one.outcomes.contains_key(&Predictor::BelowThreshold));
    }

    #[test]
    fn cases_of_one_problem_are_resampled_together() {
        let (found, missed) = ([1.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0], [1.0; 7]);
        let (found, missed) = (found.map(Some), missed.map(Some));
        let of = |ids: [&'static str; 4]| {
            let rewards = [&found, &missed, &found, &missed];
            let cases = ids
                .into_iter()
                .zip(rewards)
                .map(|(id, rewards)| LocalisationCase {
                    id,
                    ..case(rewards)
                });
            let result = localise(cases);
            let summary =
                result.summary(Predictor::LargestDrop, None, &BootstrapSettings::default());
            *summary.get("localisation.hit_0").unwrap()
        };
        let apart = of(["a", "b", "c", "d"]);
        let together = of(["a", "a", "b", "b"]);
        assert_eq!((apart.n, together.n), (4, 2));
        assert!((apart.value - together.value).abs() < 1e-12);
        // Both problems have the same mean, so resampling them changes nothing.
        assert_eq!(together.low, together.high);
        assert!(apart.low < apart.high);
    }
}
