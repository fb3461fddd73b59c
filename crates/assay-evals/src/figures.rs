//! The figures of a report: each a named SVG, shown in the page and written as a file of its own.

use std::collections::{BTreeMap, BTreeSet};

use crate::alarms::Alarm;
use crate::evaluation::Evaluation;
use crate::localisation::HIT_WINDOWS;
use crate::metrics::MetricRow;
use crate::plot::{Labels, Mark, Point, Series, histogram, lines, matrix, reliability};
use crate::scores::TraceScore;
use crate::statistics::Estimate;
use crate::summary::Summary;

/// Longest curve drawn; longer ones are averaged over neighbours.
const LONGEST_CURVE: usize = 150;

/// A plot with its file name.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// File name without ending: letters, digits, `_` and `-`.
    pub name: String,
    /// The plot as inline SVG.
    pub svg: String,
}

/// The training metrics of one run, with the alarms found in them.
#[derive(Clone, Copy, Debug)]
pub struct Training<'a> {
    /// The run's name.
    pub name: &'a str,
    /// Lines of `metrics.jsonl`.
    pub metrics: &'a [MetricRow],
    /// Its alarms.
    pub alarms: &'a [Alarm],
}

/// What is drawn first, and which metrics share a plot where there is one run.
const PANELS: [(&str, &[&str]); 15] = [
    ("Validation accuracy", &["validation/accuracy"]),
    ("Accuracy of samples", &["rollout/accuracy"]),
    ("Mean reward of samples", &["rollout/reward"]),
    (
        "Discriminator accuracy",
        &[
            "reward/accuracy_expert",
            "reward/accuracy_policy",
            "reward/accuracy_perturbed",
        ],
    ),
    (
        "Expert preferred",
        &[
            "reward/pairs_policy",
            "reward/pairs_perturbed",
            "reward/pairs_at_error",
        ],
    ),
    (
        "Gap to the expert, logits",
        &["reward/gap_policy", "reward/gap_perturbed"],
    ),
    (
        "Discriminator loss",
        &["reward/loss", "reward/loss_bce", "reward/loss_relativistic"],
    ),
    ("Supervised loss", &["sft/loss"]),
    ("Tokens a sample", &["rollout/length"]),
    ("Entropy estimate, nats", &["rollout/entropy_estimate"]),
    (
        "Shares of samples and groups",
        &["rollout/truncated_share", "advantage/zero_std_share"],
    ),
    (
        "Correlation of reward",
        &[
            "rollout/reward_length_correlation",
            "rollout/reward_format_correlation",
        ],
    ),
    (
        "Clipped share",
        &["policy/clip_fraction_low", "policy/clip_fraction_high"],
    ),
    (
        "KL divergence",
        &["policy/approx_kl", "policy/reference_kl"],
    ),
    (
        "Gradient norm",
        &[
            "policy/gradient_norm",
            "reward/gradient_norm",
            "sft/gradient_norm",
        ],
    ),
];

/// A name as part of a file name: everything but ASCII letters, digits and `-` becomes `_`.
pub fn file_name(text: &str) -> String {
    let safe = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '-' => c,
        _ => '_',
    };
    text.chars().take(80).map(safe).collect()
}

/// The curves of both players that are looked at first, over all runs.
pub fn training(runs: &[Training<'_>]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (title, metrics) in PANELS {
        if let [run] = runs {
            let series: Vec<Series> = metrics
                .iter()
                .filter_map(|m| curve(run, m, &short_name(m)))
                .collect();
            figures.extend(panel(title, title, &series, &marks(runs, metrics)));
            continue;
        }
        for metric in metrics {
            let series: Vec<Series> = runs
                .iter()
                .filter_map(|run| curve(run, metric, run.name))
                .collect();
            let title = match metrics.len() {
                1 => title.to_owned(),
                _ => format!("{title}: {}", short_name(metric)),
            };
            figures.extend(panel(&title, metric, &series, &marks(runs, &[metric])));
        }
    }
    figures
}

/// Every other metric that occurs at least twice, one plot each, in the order of names.
pub fn other_training(runs: &[Training<'_>]) -> Vec<Figure> {
    let shown: BTreeSet<&str> = PANELS
        .iter()
        .flat_map(|(_, metrics)| *metrics)
        .copied()
        .collect();
    let rows = runs.iter().flat_map(|run| run.metrics);
    let names: BTreeSet<&str> = rows
        .flat_map(|row| row.values.keys())
        .map(String::as_str)
        .collect();
    names
        .difference(&shown)
        .filter_map(|metric| {
            let series: Vec<Series> = runs
                .iter()
                .filter_map(|run| curve(run, metric, run.name))
                .collect();
            panel(metric, metric, &series, &marks(runs, &[metric]))
        })
        .collect()
}

/// pass@k, accuracy against N, calibration, histograms, correlations and localisation of one run.
pub fn evaluation(name: &str, evaluation: Option<&Evaluation>, summary: &Summary) -> Vec<Figure> {
    let mut figures: Vec<Figure> = Vec::new();
    figures.extend(pass_at_k(name, summary));
    figures.extend(selection(name, summary));
    if let Some(evaluation) = evaluation.filter(|e| !e.reliability.is_empty()) {
        let bins: [(&str, &[_]); 3] = [
            ("calibrated", &evaluation.reliability),
            ("isotonic", &evaluation.reliability_isotonic),
            ("as it stands", &evaluation.reliability_raw),
        ];
        let mut add = |what: &str, svg: String| figures.push(figure(what, name, svg));
        let score = evaluation.score.map_or("", TraceScore::name);
        let axis = format!("trace score: {}", score.replace('_', " "));
        let labels = |title, x| Labels { title, x };
        add(
            "reliability",
            reliability(
                labels(
                    "Reliability: share correct",
                    "predicted probability of correct",
                ),
                &bins,
            ),
        );
        add(
            "scores_by_correctness",
            histogram(
                labels("Trace score by correctness, share of class", &axis),
                &evaluation.histogram,
            ),
        );
        add(
            "scores_by_format",
            histogram(
                labels("Trace score by format, share of class", &axis),
                &evaluation.histogram_by_format,
            ),
        );
        let map = &evaluation.correlations;
        add(
            "correlations",
            matrix("Spearman correlations", &map.names, &map.rho),
        );
    }
    figures.extend(localisation(name, summary));
    figures
}

fn figure(what: &str, run: &str, svg: String) -> Figure {
    Figure {
        name: file_name(&format!("{what}-{run}")),
        svg,
    }
}

fn panel(title: &str, name: &str, series: &[Series], marks: &[Mark]) -> Option<Figure> {
    (!series.is_empty()).then(|| Figure {
        name: file_name(&format!("training-{name}")),
        svg: lines(
            Labels {
                title,
                x: "iteration",
            },
            series,
            marks,
        ),
    })
}

fn short_name(metric: &str) -> String {
    let last = metric.rsplit('/').next().unwrap_or(metric);
    let bare = last
        .strip_prefix("accuracy_")
        .or_else(|| last.strip_prefix("pairs_"));
    let bare = bare.or_else(|| last.strip_prefix("gap_")).unwrap_or(last);
    let named = match metric {
        "policy/gradient_norm" => "policy",
        "reward/gradient_norm" => "reward",
        "sft/gradient_norm" => "supervised",
        _ => bare,
    };
    named.replace('_', " ")
}

fn curve(run: &Training<'_>, metric: &str, name: &str) -> Option<Series> {
    let points: Vec<Point> = run
        .metrics
        .iter()
        .filter_map(|row| {
            Some(Point {
                x: row.iteration,
                y: *row.values.get(metric)?,
                band: None,
            })
        })
        .collect();
    (points.len() > 1).then(|| Series {
        name: name.to_owned(),
        points: thinned(&points),
    })
}

/// Averages runs of neighbours so that at most [`LONGEST_CURVE`] points are left.
fn thinned(points: &[Point]) -> Vec<Point> {
    let run = points.len().div_ceil(LONGEST_CURVE).max(1);
    let average = |run: &[Point]| {
        let n = run.len() as f64;
        Point {
            x: run.iter().map(|p| p.x).sum::<f64>() / n,
            y: run.iter().map(|p| p.y).sum::<f64>() / n,
            band: None,
        }
    };
    points.chunks(run).map(average).collect()
}

fn marks(runs: &[Training<'_>], metrics: &[&str]) -> Vec<Mark> {
    let mut marks = Vec::new();
    for run in runs {
        let own = run.alarms.iter();
        for alarm in own.filter(|alarm| metrics.iter().any(|m| alarm.kind.concerns(m))) {
            let of = if runs.len() > 1 {
                format!("{}: ", run.name)
            } else {
                String::new()
            };
            marks.push(Mark {
                x: alarm.iteration,
                text: format!("{of}{}", alarm.text()),
            });
        }
    }
    marks
}

/// The points of all entries `PREFIX<number>SUFFIX`, by what stands between prefix and number.
fn families(summary: &Summary, prefix: &str, before_number: &str) -> BTreeMap<String, Vec<Point>> {
    let mut found: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for (name, estimate) in summary.iter() {
        let parts = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.rsplit_once(before_number));
        if let Some((family, Ok(x))) = parts.map(|(family, x)| (family, x.parse::<u32>())) {
            found
                .entry(family.to_owned())
                .or_default()
                .push(at(f64::from(x), estimate));
        }
    }
    found
        .values_mut()
        .for_each(|points| points.sort_by(|a, b| a.x.total_cmp(&b.x)));
    found
}

fn at(x: f64, e: &Estimate) -> Point {
    Point {
        x,
        y: e.value,
        band: Some((e.low, e.high)),
    }
}

fn pass_at_k(name: &str, summary: &Summary) -> Option<Figure> {
    let families = families(summary, "policy.", ".pass_at_k.");
    let series: Vec<Series> = families
        .into_iter()
        .map(|(name, points)| Series { name, points })
        .collect();
    let labels = Labels {
        title: "pass@k",
        x: "k",
    };
    (!series.is_empty()).then(|| figure("pass_at_k", name, lines(labels, &series, &[])))
}

fn selection(name: &str, summary: &Summary) -> Vec<Figure> {
    let mut families = families(summary, "select.", ".at_");
    /// Selectors with their labels.
    type Lines = &'static [(&'static str, &'static str)];
    let plots: [(&str, &str, Lines); 2] = [
        (
            "selection",
            "Accuracy against N: the reward",
            &[
                ("random", "random"),
                ("majority", "majority"),
                ("best_of_n", "best by reward"),
                ("weighted_vote", "weighted vote"),
            ],
        ),
        (
            "selection_baselines",
            "Accuracy against N: combinations and baselines",
            &[
                ("combined", "reward + logprob"),
                ("logprob", "logprob"),
                ("length", "shortest"),
                ("oracle", "bound"),
            ],
        ),
    ];
    let mut figures = Vec::new();
    for (what, title, names) in plots {
        let series: Vec<Series> = names
            .iter()
            .filter_map(|(selector, label)| {
                Some(Series {
                    name: (*label).to_owned(),
                    points: families.remove(*selector)?,
                })
            })
            .collect();
        if !series.is_empty() {
            let labels = Labels {
                title,
                x: "traces sampled a problem",
            };
            figures.push(figure(what, name, lines(labels, &series, &[])));
        }
    }
    figures
}

fn localisation(name: &str, summary: &Summary) -> Option<Figure> {
    let shown = [
        ("predictors.largest_drop", "largest drop"),
        ("predictors.lowest_reward", "lowest reward"),
        ("baselines.lowest_logprob", "lowest logprob"),
        ("baselines.surprising_number", "surprising number"),
        ("baselines.chance", "chance"),
    ];
    let of = |(entry, label): (&str, &str)| {
        let points: Vec<Point> = HIT_WINDOWS
            .iter()
            .filter_map(|w| {
                let estimate = summary.get(&format!("localisation.{entry}.hit_{w}"))?;
                Some(at(*w as f64, estimate))
            })
            .collect();
        (!points.is_empty()).then(|| Series {
            name: label.to_owned(),
            points,
        })
    };
    let series: Vec<Series> = shown.into_iter().filter_map(of).collect();
    let labels = Labels {
        title: "Injected errors found within w tokens",
        x: "w",
    };
    (!series.is_empty()).then(|| figure("localisation", name, lines(labels, &series, &[])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(names: &[&str]) -> Vec<MetricRow> {
        (0..3)
            .map(|i| MetricRow {
                iteration: f64::from(i),
                values: names
                    .iter()
                    .map(|n| ((*n).to_owned(), f64::from(i)))
                    .collect(),
            })
            .collect()
    }

    #[test]
    fn one_run_shares_panels_and_several_share_metrics() {
        let metrics = rows(&["reward/accuracy_expert", "reward/accuracy_policy", "x/y"]);
        let run = |name| Training {
            name,
            metrics: &metrics,
            alarms: &[],
        };
        let one = training(&[run("a")]);
        assert_eq!(one.len(), 1);
        assert!(one[0].svg.contains(">expert<") && one[0].svg.contains(">policy<"));
        let two = training(&[run("a"), run("b")]);
        assert_eq!(two.len(), 2);
        assert!(two[0].svg.contains(">a<") && two[0].svg.contains(">b<"));
        let rest = other_training(&[run("a")]);
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].name, "training-x_y");
    }

    #[test]
    fn long_curves_are_averaged() {
        let points: Vec<Point> = (0..450)
            .map(|i| Point {
                x: f64::from(i),
                y: f64::from(i % 3),
                band: None,
            })
            .collect();
        let thin = thinned(&points);
        assert_eq!((thin.len(), thin[0].x, thin[149].y), (150, 1.0, 1.0));
    }

    #[test]
    fn points_come_in_the_order_of_their_numbers() {
        let mut summary = Summary::default();
        for n in [2, 4, 8, 16] {
            summary.insert(
                &format!("select.majority.at_{n}"),
                Estimate::exact(f64::from(n) / 16.0),
            );
        }
        let found = families(&summary, "select.", ".at_");
        let xs: Vec<f64> = found["majority"].iter().map(|p| p.x).collect();
        assert_eq!(xs, [2.0, 4.0, 8.0, 16.0]);
        assert_eq!(evaluation("r", None, &summary).len(), 1);
    }

    #[test]
    fn file_names_cannot_leave_their_directory() {
        assert_eq!(file_name("../../etc/passwd\0"), "______etc_passwd_");
    }
}
