//! Comparison with numpy, scipy and scikit-learn; the numbers come from `tools/golden/evals.py`.

use assay_tasks::trace::ScoredTrace;
use serde::Deserialize;

use crate::classification::{auroc, auroc_within, brier, ece, fit_isotonic, fit_platt};
use crate::evaluation::{TokenBag, probe};
use crate::localisation::average_precision;
use crate::pass_at_k::pass_at_k;
use crate::scores::{ScoreSettings, TraceScore, sigmoid};
use crate::statistics::special::beta_below_half;
use crate::statistics::{
    average_ranks, pearson, population_std, quantile, residuals, spearman, welch_t,
};

#[derive(Deserialize)]
struct Golden {
    probe: Probe,
    votes: Vec<(usize, usize, f64)>,
    datasets: Vec<Dataset>,
    pass_at_k: Vec<(usize, usize, usize, f64)>,
    rewards: Vec<f64>,
    soft_min: Vec<(f64, f64)>,
    product: f64,
    discounted: f64,
}

#[derive(Deserialize)]
struct Probe {
    ids: Vec<Vec<u32>>,
    scores: Vec<f64>,
    correct: Vec<bool>,
    folds: Vec<usize>,
    correct_auroc: f64,
    reward_r2: f64,
    residual_auroc: f64,
}

#[derive(Deserialize)]
struct Dataset {
    scores: Vec<f64>,
    correct: Vec<bool>,
    lengths: Vec<f64>,
    answered: Vec<f64>,
    groups: Vec<usize>,
    auroc: f64,
    auroc_within: f64,
    average_precision: f64,
    brier: f64,
    ece: f64,
    pearson: f64,
    spearman: f64,
    partial: f64,
    partial_spearman: f64,
    welch: [f64; 3],
    population_std: f64,
    quantiles: [f64; 4],
    calibration: [f64; 2],
    isotonic_at: Vec<f64>,
    isotonic: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../tests/golden/statistics.json")).unwrap()
}

#[track_caller]
fn close(own: f64, reference: f64) {
    assert!(
        (own - reference).abs() <= 1e-9 * (1.0 + reference.abs()),
        "{own} is not {reference}"
    );
}

#[test]
fn ranking_matches_scikit_learn() {
    for data in golden().datasets {
        close(auroc(&data.scores, &data.correct).unwrap(), data.auroc);
        close(
            auroc_within(&data.scores, &data.correct, &data.groups).unwrap(),
            data.auroc_within,
        );
        // Relevant tokens are a range: put the correct traces first.
        let (right, wrong): (Vec<usize>, Vec<usize>) =
            (0..data.scores.len()).partition(|&i| data.correct[i]);
        let ordered: Vec<Option<f64>> = right
            .iter()
            .chain(&wrong)
            .map(|&i| Some(data.scores[i]))
            .collect();
        close(
            average_precision(&ordered, &(0..right.len())),
            data.average_precision,
        );
    }
}

#[test]
fn calibration_matches_the_references() {
    for data in golden().datasets {
        let p: Vec<f64> = data.scores.iter().map(|&score| sigmoid(score)).collect();
        close(brier(&p, &data.correct).unwrap(), data.brier);
        close(ece(&p, &data.correct).unwrap(), data.ece);
        let fitted = fit_platt(&data.scores, &data.correct).unwrap();
        close(fitted.scale, data.calibration[0]);
        close(fitted.bias, data.calibration[1]);
        let isotonic = fit_isotonic(&data.scores, &data.correct);
        for (&at, &expected) in data.isotonic_at.iter().zip(&data.isotonic) {
            close(isotonic.probability(at), expected);
        }
    }
}

#[test]
fn the_style_probe_matches_ridge_regression() {
    let golden = golden().probe;
    let bag = |ids: &Vec<u32>| {
        TokenBag::new(&ScoredTrace {
            token_ids: ids.clone(),
            ..ScoredTrace::default()
        })
    };
    let bags: Vec<TokenBag> = golden.ids.iter().map(bag).collect();
    let bags: Vec<&TokenBag> = bags.iter().collect();
    let found = probe(&bags, &golden.scores, &golden.correct, &golden.folds);
    close(found.correct_auroc.unwrap(), golden.correct_auroc);
    close(found.reward_r2.unwrap(), golden.reward_r2);
    close(found.residual_auroc.unwrap(), golden.residual_auroc);
}

#[test]
fn vote_confidence_matches_the_beta_distribution() {
    for (a, b, expected) in golden().votes {
        close(
            1.0 - beta_below_half(a as f64 + 1.0, b as f64 + 1.0),
            expected,
        );
    }
}

#[test]
fn correlations_and_tests_match_scipy() {
    let partial = |x: &[f64], y: &[f64], controls: &[&[f64]]| {
        let left = |values| residuals(values, controls).unwrap();
        pearson(&left(x), &left(y)).unwrap()
    };
    for data in golden().datasets {
        let right: Vec<f64> = data
            .correct
            .iter()
            .map(|&c| f64::from(u8::from(c)))
            .collect();
        close(pearson(&data.scores, &right).unwrap(), data.pearson);
        close(
            spearman(&data.scores, &data.lengths).unwrap(),
            data.spearman,
        );
        close(
            partial(&data.scores, &right, &[&data.lengths, &data.answered]),
            data.partial,
        );
        let ranks = [
            average_ranks(&data.scores),
            average_ranks(&right),
            average_ranks(&data.lengths),
        ];
        let ranked = partial(&ranks[0], &ranks[1], &[&ranks[2], &data.answered]);
        close(ranked, data.partial_spearman);
        let side = |class: bool| -> Vec<f64> {
            let members = data
                .scores
                .iter()
                .zip(&data.correct)
                .filter(|(_, c)| **c == class);
            members.map(|(score, _)| *score).collect()
        };
        let test = welch_t(&side(true), &side(false)).unwrap();
        close(test.t, data.welch[0]);
        close(test.degrees_of_freedom, data.welch[1]);
        assert!(
            (test.p / data.welch[2] - 1.0).abs() < 1e-9,
            "{} is not {}",
            test.p,
            data.welch[2]
        );
    }
}

#[test]
fn spreads_and_quantiles_match_numpy() {
    for data in golden().datasets {
        close(population_std(&data.scores).unwrap(), data.population_std);
        let mut ascending = data.scores.clone();
        ascending.sort_by(f64::total_cmp);
        for (q, expected) in [0.025, 0.3, 0.5, 0.975].into_iter().zip(data.quantiles) {
            close(quantile(&ascending, q).unwrap(), expected);
        }
    }
}

#[test]
fn counts_and_trace_scores_match() {
    let golden = golden();
    for (n, m, k, expected) in golden.pass_at_k {
        close(pass_at_k(n, m, k).unwrap(), expected);
    }
    for (soft_min_temperature, expected) in golden.soft_min {
        let settings = ScoreSettings {
            soft_min_temperature,
            ..ScoreSettings::default()
        };
        close(
            TraceScore::SoftMin
                .of_rewards(&golden.rewards, &settings)
                .unwrap(),
            expected,
        );
    }
    let settings = ScoreSettings::default();
    close(
        TraceScore::Product
            .of_rewards(&golden.rewards, &settings)
            .unwrap(),
        golden.product,
    );
    close(
        TraceScore::Discounted
            .of_rewards(&golden.rewards, &settings)
            .unwrap(),
        golden.discounted,
    );
}
