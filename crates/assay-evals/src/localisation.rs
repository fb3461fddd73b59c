//! Localisation: where in a trace does the reward say that something went wrong.
//!
//! A case is a correct demonstration with one injected error at a known place. A predictor gives every token a
//! suspicion; the predicted error token is the one with the highest. Equal suspicions are averaged over exactly, so a
//! constant reward scores as chance and no predictor gains from the order of tokens.

mod fitted;
mod predictors;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

pub use fitted::{Combination, Fitted};
pub use predictors::Predictor;

use assay_tasks::random::text_key;

use crate::statistics::{BootstrapSettings, Resampler, mean};
use crate::summary::Summary;

/// Tolerances w of Hit@w, in tokens.
pub const HIT_WINDOWS: [usize; 5] = [0, 1, 3, 7, 15];
/// Place of Hit@1 among them.
const HIT_AT_1: usize = 1;

/// A demonstration with one injected error, scored.
///
/// # Shapes
/// Every slice has one entry a completion token of the perturbed text, except `reference_rewards`: one a token of the
/// unperturbed text, whose tokens before the error are the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalisationCase<'a> {
    /// The demonstration's problem.
    pub id: &'a str,
    /// Name of the perturbation.
    pub kind: &'a str,
    /// The perturbed text.
    pub text: &'a str,
    /// Byte range of each token in `text`.
    pub token_offsets: &'a [(usize, usize)],
    /// Reward after each token; `None` where nothing was scored.
    pub token_rewards: &'a [Option<f32>],
    /// Rewards of the unperturbed demonstration.
    pub reference_rewards: Option<&'a [Option<f32>]>,
    /// log-probability of each token under the policy.
    pub logprobs: Option<&'a [f32]>,
    /// Entropy of the policy before each token.
    pub entropies: Option<&'a [f32]>,
    /// First byte of the corrupted span in `text`.
    pub error_start: usize,
    /// End of the corrupted span in `text`; equal to the start after a deletion.
    pub error_end: usize,
}

/// How well one prediction met the error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Hit@w for each of [`HIT_WINDOWS`]: `P(|predicted - error| <= w)` over the tokens of highest suspicion.
    pub hits: [f64; HIT_WINDOWS.len()],
    /// `E[1 / rank of the error token]` over orders of equally suspicious tokens.
    pub reciprocal_rank: f64,
    /// Average precision of the ranking for all tokens of the corrupted span; equal suspicions form one step.
    pub average_precision: f64,
}

/// Outcomes of every predictor on every case.
#[derive(Clone, Debug, Default)]
pub struct Localisation {
    /// By predictor: the case's index and its outcome; cases a predictor is not defined on are absent.
    pub outcomes: BTreeMap<Predictor, Vec<(usize, Outcome)>>,
    /// Perturbation of each case, empty for cases without an error token.
    pub kinds: Vec<String>,
    /// Cases left out because no token follows the start of the corrupted span.
    pub skipped: usize,
}

/// Runs every predictor on every case.
///
/// What [`Fitted`] holds is cross-fitted: each of two halves of the problems, split by identifier, is judged with what is
/// best on the other.
pub fn localise<'a>(cases: impl IntoIterator<Item = LocalisationCase<'a>>) -> Localisation {
    let cases: Vec<LocalisationCase<'a>> = cases.into_iter().collect();
    let half = |case: &LocalisationCase<'_>| (text_key(case.id) % 2) as usize;
    let fit = |other: usize| {
        let rest: Vec<_> = cases.iter().filter(|case| half(case) == other).collect();
        Fitted::on(&rest)
    };
    let fitted = [fit(1), fit(0)];
    let mut result = Localisation::default();
    for (index, case) in cases.iter().enumerate() {
        let Some(error_tokens) = error_tokens(case) else {
            result.skipped += 1;
            result.kinds.push(String::new());
            continue;
        };
        result.kinds.push(case.kind.to_owned());
        for predictor in Predictor::ALL {
            if let Some(suspicion) = predictor.suspicion(case, &fitted[half(case)]) {
                let outcome = judge(&suspicion, &error_tokens);
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

/// The tokens that overlap the corrupted span; after a deletion the first token that ends behind its start.
///
/// The first of them is *the error token*. `None` if no token ends behind the start.
pub fn error_tokens(case: &LocalisationCase<'_>) -> Option<Range<usize>> {
    let first = case
        .token_offsets
        .iter()
        .position(|&(start, end)| end > case.error_start && end > start)?;
    let rest = &case.token_offsets[first + 1..];
    let more = rest
        .iter()
        .take_while(|&&(start, end)| start < case.error_end && end > start)
        .count();
    Some(first..first + 1 + more)
}

/// Judges one suspicion vector against the error tokens. Tokens with `None` rank below all others.
///
/// A vector without any suspicion is a miss: no hit, and the error's rank is as if all tokens were equal.
pub fn judge(suspicion: &[Option<f64>], error: &Range<usize>) -> Outcome {
    let key = |token: usize| suspicion[token].unwrap_or(f64::NEG_INFINITY);
    let tokens = 0..suspicion.len();
    let top = tokens.clone().map(key).fold(f64::NEG_INFINITY, f64::max);
    let (mut tied, mut near) = (0usize, [0usize; HIT_WINDOWS.len()]);
    for token in tokens
        .clone()
        .filter(|&token| top > f64::NEG_INFINITY && key(token) == top)
    {
        tied += 1;
        for (count, window) in near.iter_mut().zip(HIT_WINDOWS) {
            *count += usize::from(token.abs_diff(error.start) <= window);
        }
    }
    let target = key(error.start);
    let above = tokens.clone().filter(|&token| key(token) > target).count();
    let equal = tokens.filter(|&token| key(token) == target).count();
    let reciprocals = (1..=equal).map(|place| 1.0 / (above + place) as f64);
    Outcome {
        hits: near.map(|count| {
            if tied == 0 {
                0.0
            } else {
                count as f64 / tied as f64
            }
        }),
        reciprocal_rank: reciprocals.sum::<f64>() / equal as f64,
        average_precision: average_precision(suspicion, error),
    }
}

/// `sum_n (recall_n - recall_{n-1}) precision_n` over distinct suspicions from the highest down, as scikit-learn's
/// `average_precision_score`.
pub fn average_precision(suspicion: &[Option<f64>], relevant: &Range<usize>) -> f64 {
    let mut order: Vec<(f64, bool)> = suspicion
        .iter()
        .enumerate()
        .map(|(token, value)| {
            (
                value.unwrap_or(f64::NEG_INFINITY),
                relevant.contains(&token),
            )
        })
        .collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut seen, mut found, mut total) = (0usize, 0usize, 0.0);
    for tied in order.chunk_by(|a, b| a.0 == b.0) {
        let new = tied.iter().filter(|(_, relevant)| *relevant).count();
        seen += tied.len();
        found += new;
        total += new as f64 * found as f64 / seen as f64;
    }
    if found == 0 {
        0.0
    } else {
        total / found as f64
    }
}

impl Localisation {
    /// Mean Hit@`HIT_WINDOWS[window]` of a predictor; `None` if it was defined on no case.
    pub fn hit(&self, predictor: Predictor, window: usize) -> Option<f64> {
        let values: Vec<f64> = self
            .outcomes
            .get(&predictor)?
            .iter()
            .map(|(_, o)| *o.hits.get(window).unwrap_or(&0.0))
            .collect();
        mean(&values)
    }

    /// The entries of `summary.json`: `localisation.{hit_0 .. hit_15, mrr, map}` of `headline`, the same under
    /// `localisation.predictors.<name>` for every predictor of the reward, under `localisation.baselines.<name>` for
    /// those that need none, and of `headline` under `localisation.by_kind.<kind>` for every perturbation, with the
    /// baselines' Hit@1 under `localisation.by_kind.<kind>.baselines.<name>`.
    ///
    /// Where the kinds that the reward was trained on are known, `localisation.trained` and `localisation.held_out`
    /// hold the entries of `headline` on those and on the others.
    pub fn summary(
        &self,
        headline: Predictor,
        trained: Option<&[&str]>,
        settings: &BootstrapSettings,
    ) -> Summary {
        let resampler = Resampler::new(*settings);
        let mut summary = Summary::default();
        for (&predictor, outcomes) in &self.outcomes {
            let all: Vec<Outcome> = outcomes.iter().map(|(_, outcome)| *outcome).collect();
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
            let prefix = format!("localisation.by_kind.{}", crate::summary::segment(kind));
            let own = self.of_kinds(headline, |other| other == kind);
            add_entries(summary, &prefix, &own, resampler);
            for baseline in self.outcomes.keys().filter(|p| p.is_baseline()) {
                let outcomes = self.of_kinds(*baseline, |other| other == kind);
                let hits: Vec<f64> = outcomes.iter().map(|o| o.hits[HIT_AT_1]).collect();
                let name = format!("{prefix}.baselines.{}.hit_1", baseline.name());
                summary.insert_some(&name, resampler.mean(&hits));
            }
        }
    }

    fn of_kinds(&self, predictor: Predictor, member: impl Fn(&str) -> bool) -> Vec<Outcome> {
        let all = self.outcomes.get(&predictor).into_iter().flatten();
        all.filter(|(case, _)| member(&self.kinds[*case]))
            .map(|(_, outcome)| *outcome)
            .collect()
    }
}

fn add_entries(summary: &mut Summary, prefix: &str, outcomes: &[Outcome], resampler: &Resampler) {
    let mut add = |name: String, of: &dyn Fn(&Outcome) -> f64| {
        let values: Vec<f64> = outcomes.iter().map(of).collect();
        summary.insert_some(&name, resampler.mean(&values));
    };
    for (index, window) in HIT_WINDOWS.into_iter().enumerate() {
        add(format!("{prefix}.hit_{window}"), &|outcome| {
            outcome.hits[index]
        });
    }
    add(format!("{prefix}.mrr"), &|outcome| outcome.reciprocal_rank);
    add(format!("{prefix}.map"), &|outcome| {
        outcome.average_precision
    });
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
    fn error_tokens_overlap_the_span() {
        let rewards = [Some(0.0); 7];
        assert_eq!(error_tokens(&case(&rewards)), Some(2..4));
        let deletion = LocalisationCase {
            error_start: 4,
            error_end: 4,
            ..case(&rewards)
        };
        assert_eq!(error_tokens(&deletion), Some(4..5));
        let behind = LocalisationCase {
            error_start: 6,
            error_end: 6,
            ..case(&rewards)
        };
        assert_eq!(error_tokens(&behind), None);
    }

    #[test]
    fn a_drop_at_the_error_is_a_hit() {
        let rewards = [1.0, 1.0, -1.0, -1.0, 0.0, -0.5, -0.5].map(Some);
        let result = localise([case(&rewards)]);
        assert_eq!(result.hit(Predictor::LargestDrop, 0), Some(1.0));
        let outcome = result.outcomes[&Predictor::LargestDrop][0].1;
        assert_eq!(outcome.reciprocal_rank, 1.0);
        // Ranks of the span's tokens 2 and 3: first; then drop 0.5 of token 5, then tokens 1, 3, 6 with drop 0, in one step.
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
    fn without_suspicion_there_is_no_hit() {
        let outcome = judge(&[None, None], &(0..1));
        assert_eq!(outcome.hits, [0.0; 5]);
        assert_eq!(outcome.reciprocal_rank, 0.75);
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
    fn the_threshold_of_a_half_comes_from_the_other() {
        let rewards = [1.0, 0.9, -1.0, -1.0, -0.5, -0.5, -0.5].map(Some);
        // Between -1 and .9 the first token below is the error; the lowest such threshold is kept.
        let threshold = Fitted::on(&[&case(&rewards)]).threshold.unwrap();
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
        // One half alone has nothing to take a threshold from.
        let one = localise([named(of_half(0))]);
        assert!(!one.outcomes.contains_key(&Predictor::BelowThreshold));
    }
}
