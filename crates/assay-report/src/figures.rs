//! The figures of a report: each a named SVG, shown on the page and written to a file.

use std::collections::{BTreeMap, BTreeSet};

use assay_evals::localisation::HIT_WINDOWS;
use assay_evals::scores::TraceScore;
use assay_evals::statistics::Estimate;
use assay_evals::{Alarm, Evaluation, MetricRow, Summary};

use crate::error::ReportError;
use crate::plot::{
    Labels, Mark, Point, Range, ReliabilityCurve, Series, histogram, lines, matrix, reliability,
    standalone,
};
use crate::tables::NamedSummary;
use crate::templates::Templates;

/// Maximum number of points of a training curve; longer curves are averaged over neighbours.
const MAX_CURVE_POINTS: usize = 150;
/// Maximum number of characters of a file name.
const MAX_FILE_NAME: usize = 80;

/// A plot with its file name.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// File name without extension: letters, digits, `_` and `-`.
    pub name: String,
    /// The plot as inline SVG, which takes its colours from the page's style sheet.
    pub svg: String,
}

/// The training metrics of one run, with the alarms found in them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Training<'a> {
    /// The run's name.
    pub(crate) name: &'a str,
    /// Lines of `metrics.jsonl`.
    pub(crate) metrics: &'a [MetricRow],
    /// Its alarms.
    pub(crate) alarms: &'a [Alarm],
}

/// Titles and metrics of the plots shown first; with one run, the metrics of a title share a plot.
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
    ("Tokens per sample", &["rollout/length"]),
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

/// Text as part of a file name: everything but ASCII letters, digits and `-` becomes `_`.
pub fn file_name(text: &str) -> String {
    let safe = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '-' => c,
        _ => '_',
    };
    text.chars().take(MAX_FILE_NAME).map(safe).collect()
}

impl Figure {
    fn new(kind: &str, run: &str, svg: String) -> Self {
        Self {
            name: file_name(&format!("{kind}-{run}")),
            svg,
        }
    }

    /// The plot as the contents of an SVG file, in the light colours.
    pub fn standalone(&self) -> String {
        standalone(&self.svg)
    }
}

/// The most important training curves of all runs.
///
/// # Errors
/// [`ReportError::Template`].
pub(crate) fn training(
    templates: &Templates,
    runs: &[Training<'_>],
) -> Result<Vec<Figure>, ReportError> {
    let mut figures = Vec::new();
    for (title, metrics) in PANELS {
        if let [run] = runs {
            let series = metrics
                .iter()
                .filter_map(|metric| curve(run, metric, &short_name(metric)));
            let panel = Panel {
                title,
                name: title,
                series: series.collect(),
                marks: marks(runs, metrics),
            };
            figures.extend(panel.figure(templates)?);
            continue;
        }
        for metric in metrics {
            let title = match metrics.len() {
                1 => title.to_owned(),
                _ => format!("{title}: {}", short_name(metric)),
            };
            figures.extend(Panel::over_runs(runs, metric, &title).figure(templates)?);
        }
    }
    Ok(figures)
}

/// One plot for every other metric that occurs at least twice, in the order of names.
///
/// # Errors
/// [`ReportError::Template`].
pub(crate) fn other_training(
    templates: &Templates,
    runs: &[Training<'_>],
) -> Result<Vec<Figure>, ReportError> {
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
    let others = names.difference(&shown);
    others
        .filter_map(|metric| {
            Panel::over_runs(runs, metric, metric)
                .figure(templates)
                .transpose()
        })
        .collect()
}

/// pass@k, accuracy against N, calibration, histograms, correlations and localisation of one run.
///
/// # Errors
/// [`ReportError::Template`].
pub(crate) fn evaluation(
    templates: &Templates,
    run: NamedSummary<'_>,
    evaluation: Option<&Evaluation>,
) -> Result<Vec<Figure>, ReportError> {
    let mut figures: Vec<Figure> = Vec::new();
    figures.extend(pass_at_k(templates, run)?);
    figures.extend(selection(templates, run)?);
    if let Some(evaluation) = evaluation.filter(|e| !e.reliability.is_empty()) {
        figures.extend(score_figures(templates, run.name, evaluation)?);
    }
    figures.extend(localisation(templates, run)?);
    Ok(figures)
}

/// Reliability, histograms and correlations of the trace score.
fn score_figures(
    templates: &Templates,
    run: &str,
    evaluation: &Evaluation,
) -> Result<[Figure; 4], ReportError> {
    let curves = [
        ("calibrated", &evaluation.reliability),
        ("isotonic", &evaluation.reliability_isotonic),
        ("uncalibrated", &evaluation.reliability_raw),
    ]
    .map(|(name, bins)| ReliabilityCurve { name, bins });
    let score = evaluation.score.map_or("", TraceScore::name);
    let axis = format!("trace score: {}", score.replace('_', " "));
    let scored = |title| Labels { title, x: &axis };
    let calibration = Labels {
        title: "Reliability: share correct",
        x: "predicted probability of correct",
    };
    let by_correctness = scored("Trace score by correctness, share of class");
    let by_format = scored("Trace score by format, share of class");
    let map = &evaluation.correlations;
    Ok([
        ("reliability", reliability(templates, calibration, &curves)?),
        (
            "scores_by_correctness",
            histogram(templates, by_correctness, &evaluation.histogram)?,
        ),
        (
            "scores_by_format",
            histogram(templates, by_format, &evaluation.histogram_by_format)?,
        ),
        (
            "correlations",
            matrix(templates, "Spearman correlations", &map.names, &map.rho)?,
        ),
    ]
    .map(|(kind, svg)| Figure::new(kind, run, svg)))
}

/// A plot of training curves.
struct Panel<'a> {
    title: &'a str,
    /// The part of its file name after `training-`.
    name: &'a str,
    series: Vec<Series>,
    marks: Vec<Mark>,
}

impl<'a> Panel<'a> {
    /// One metric, a line per run.
    fn over_runs(runs: &[Training<'_>], metric: &'a str, title: &'a str) -> Self {
        let series = runs.iter().filter_map(|run| curve(run, metric, run.name));
        Self {
            title,
            name: metric,
            series: series.collect(),
            marks: marks(runs, &[metric]),
        }
    }

    /// The figure; `None` without a curve.
    fn figure(&self, templates: &Templates) -> Result<Option<Figure>, ReportError> {
        if self.series.is_empty() {
            return Ok(None);
        }
        let labels = Labels {
            title: self.title,
            x: "iteration",
        };
        let svg = lines(templates, labels, &self.series, &self.marks)?;
        Ok(Some(Figure::new("training", self.name, svg)))
    }
}

/// The last part of a metric's name, without the prefix that its panel's title repeats.
fn short_name(metric: &str) -> String {
    let last = metric.rsplit('/').next().unwrap_or(metric);
    let bare = ["accuracy_", "pairs_", "gap_"]
        .iter()
        .find_map(|prefix| last.strip_prefix(prefix))
        .unwrap_or(last);
    let named = match metric {
        "policy/gradient_norm" => "policy",
        "reward/gradient_norm" => "reward",
        "sft/gradient_norm" => "supervised",
        _ => bare,
    };
    named.replace('_', " ")
}

/// A metric over iterations; `None` with fewer than two points.
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

/// Averages neighbouring points so that at most [`MAX_CURVE_POINTS`] are left.
fn thinned(points: &[Point]) -> Vec<Point> {
    let length = points.len().div_ceil(MAX_CURVE_POINTS).max(1);
    let average = |neighbours: &[Point]| {
        let n = neighbours.len() as f64;
        Point {
            x: neighbours.iter().map(|p| p.x).sum::<f64>() / n,
            y: neighbours.iter().map(|p| p.y).sum::<f64>() / n,
            band: None,
        }
    };
    points.chunks(length).map(average).collect()
}

/// A mark at each alarm that concerns one of the metrics.
fn marks(runs: &[Training<'_>], metrics: &[&str]) -> Vec<Mark> {
    let mut marks = Vec::new();
    for run in runs {
        let prefix = match runs.len() {
            1 => String::new(),
            _ => format!("{}: ", run.name),
        };
        let own = run.alarms.iter();
        for alarm in own.filter(|alarm| metrics.iter().any(|m| alarm.kind.concerns(m))) {
            marks.push(Mark {
                x: alarm.iteration,
                text: format!("{prefix}{}", alarm.text()),
            });
        }
    }
    marks
}

/// The points of all entries `PREFIX<family>SEPARATOR<number>`, by family.
fn families(summary: &Summary, prefix: &str, separator: &str) -> BTreeMap<String, Vec<Point>> {
    let mut found: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for (name, estimate) in summary.iter() {
        let parts = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.rsplit_once(separator));
        if let Some((family, Ok(x))) = parts.map(|(family, x)| (family, x.parse::<u32>())) {
            found
                .entry(family.to_owned())
                .or_default()
                .push(point(f64::from(x), estimate));
        }
    }
    found
        .values_mut()
        .for_each(|points| points.sort_by(|a, b| a.x.total_cmp(&b.x)));
    found
}

fn point(x: f64, estimate: &Estimate) -> Point {
    Point {
        x,
        y: estimate.value,
        band: Some(Range {
            low: estimate.low,
            high: estimate.high,
        }),
    }
}

fn pass_at_k(templates: &Templates, run: NamedSummary<'_>) -> Result<Option<Figure>, ReportError> {
    let families = families(run.summary, "policy.", ".pass_at_k.");
    let series = families
        .into_iter()
        .map(|(name, points)| Series { name, points });
    let labels = Labels {
        title: "pass@k",
        x: "k",
    };
    figure_of(templates, "pass_at_k", run.name, labels, series.collect())
}

/// The lines as a figure; `None` without a line.
fn figure_of(
    templates: &Templates,
    kind: &str,
    run: &str,
    labels: Labels<'_>,
    series: Vec<Series>,
) -> Result<Option<Figure>, ReportError> {
    if series.is_empty() {
        return Ok(None);
    }
    let svg = lines(templates, labels, &series, &[])?;
    Ok(Some(Figure::new(kind, run, svg)))
}

/// A plot of accuracy against N.
struct SelectionPlot {
    file: &'static str,
    title: &'static str,
    lines: [SelectorLine; 4],
}

struct SelectorLine {
    selector: &'static str,
    label: &'static str,
}

const fn line(selector: &'static str, label: &'static str) -> SelectorLine {
    SelectorLine { selector, label }
}

const SELECTION_PLOTS: [SelectionPlot; 2] = [
    SelectionPlot {
        file: "selection",
        title: "Accuracy against N: the reward",
        lines: [
            line("random", "random"),
            line("majority", "majority"),
            line("best_of_n", "best by reward"),
            line("weighted_vote", "weighted vote"),
        ],
    },
    SelectionPlot {
        file: "selection_baselines",
        title: "Accuracy against N: combinations and baselines",
        lines: [
            line("combined", "reward + logprob"),
            line("logprob", "logprob"),
            line("length", "shortest"),
            line("oracle", "upper bound"),
        ],
    },
];

fn selection(templates: &Templates, run: NamedSummary<'_>) -> Result<Vec<Figure>, ReportError> {
    let mut families = families(run.summary, "select.", ".at_");
    let mut figures = Vec::new();
    for plot in SELECTION_PLOTS {
        let series = plot.lines.iter().filter_map(|line| {
            Some(Series {
                name: line.label.to_owned(),
                points: families.remove(line.selector)?,
            })
        });
        let labels = Labels {
            title: plot.title,
            x: "traces per problem",
        };
        figures.extend(figure_of(
            templates,
            plot.file,
            run.name,
            labels,
            series.collect(),
        )?);
    }
    Ok(figures)
}

fn localisation(
    templates: &Templates,
    run: NamedSummary<'_>,
) -> Result<Option<Figure>, ReportError> {
    let shown = [
        ("predictors.largest_drop", "largest drop"),
        ("predictors.lowest_reward", "lowest reward"),
        ("baselines.lowest_logprob", "lowest logprob"),
        ("baselines.surprising_number", "surprising number"),
        ("baselines.chance", "chance"),
    ];
    let series = shown.into_iter().filter_map(|(entry, label)| {
        let points: Vec<Point> = HIT_WINDOWS
            .iter()
            .filter_map(|w| {
                let name = format!("localisation.{entry}.hit_{w}");
                Some(point(*w as f64, run.summary.get(&name)?))
            })
            .collect();
        (!points.is_empty()).then(|| Series {
            name: label.to_owned(),
            points,
        })
    });
    let labels = Labels {
        title: "Injected errors found within w tokens",
        x: "w",
    };
    figure_of(
        templates,
        "localisation",
        run.name,
        labels,
        series.collect(),
    )
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
        let templates = Templates::new().unwrap();
        let one = training(&templates, &[run("a")]).unwrap();
        assert_eq!(one.len(), 1);
        assert!(one[0].svg.contains(">expert<") && one[0].svg.contains(">policy<"));
        let two = training(&templates, &[run("a"), run("b")]).unwrap();
        assert_eq!(two.len(), 2);
        assert!(two[0].svg.contains(">a<") && two[0].svg.contains(">b<"));
        let rest = other_training(&templates, &[run("a")]).unwrap();
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
    fn points_are_sorted_by_their_numbers() {
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
        let run = NamedSummary {
            name: "r",
            summary: &summary,
        };
        let templates = Templates::new().unwrap();
        assert_eq!(evaluation(&templates, run, None).unwrap().len(), 1);
    }

    #[test]
    fn file_names_cannot_leave_their_directory() {
        assert_eq!(file_name("../../etc/passwd\0"), "______etc_passwd_");
    }
}
