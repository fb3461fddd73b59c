//! The quickstart's results as files and as text.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use assay_evals::localisation::Predictor;
use assay_evals::statistics::{BootstrapSettings, Estimate};
use assay_evals::{MetricRow, Summary};
use assay_report::{HeatmapTrace, ReportInput, ReportSettings, RunView, render};
use assay_tasks::trace_io::write_traces;
use assay_train::checkpoint::{self, write_file};
use assay_train::metrics::{self, IterationMetrics};
use assay_train::settings::Settings;

use super::measure::{Measured, SAMPLES};

/// The predictor that is reported as the reward's.
const HEADLINE: Predictor = Predictor::LargestDrop;
const PASS: &str = "pass_at_k.1";

/// The entries of summary.json.
pub(super) fn summary(
    measured: &Measured,
    settings: &Settings,
    elapsed: Duration,
) -> Result<Summary> {
    // Accuracies are of every policy. All other entries are of the SFT model's traces alone.
    let mut summary = measured.critic.summary.clone();
    let policies = measured.policies.summary.iter();
    for (name, estimate) in policies.filter(|(name, _)| name.starts_with("policy.")) {
        summary.insert(name, *estimate);
    }
    let trained = &settings.reward.perturbations.kinds;
    let trained: Vec<&str> = trained.iter().map(|kind| kind.name()).collect();
    summary.extend(measured.localisation.summary(
        HEADLINE,
        Some(&trained),
        &BootstrapSettings::default(),
    ));
    summary.insert("seconds", Estimate::exact(elapsed.as_secs_f64()));
    summary.insert("seed", Estimate::exact(settings.seed as f64));
    summary.extend(measured.speeds.clone());
    if let Some(bytes) = peak_bytes() {
        summary.insert("peak_bytes", Estimate::exact(bytes as f64));
    }
    for (name, against) in [
        ("airl", "sft"),
        ("grpo", "sft"),
        ("more_sft", "sft"),
        ("airl", "more_sft"),
    ] {
        summary.insert_some(
            &format!("difference.{name}_minus_{against}"),
            difference(measured, name, against),
        );
    }
    Ok(summary)
}

/// Paired bootstrap of pass@1 over the test problems.
fn difference(measured: &Measured, name: &str, against: &str) -> Option<Estimate> {
    let per_problem = |name: &str| {
        measured
            .policies
            .per_problem
            .get(&format!("policy.{name}.{PASS}"))
    };
    let (own, other) = (per_problem(name)?, per_problem(against)?);
    let (a, b): (Vec<f64>, Vec<f64>) = own
        .iter()
        .filter_map(|(id, v)| Some((*v, *other.get(id)?)))
        .unzip();
    assay_evals::statistics::paired_difference(&a, &b, &BootstrapSettings::default())
}

/// Peak resident memory of this process in bytes; `None` where the system does not report it.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kibibytes| kibibytes * 1024)
}

/// Writes summary.json, traces.jsonl, report.html and, into the reward's directory, its
/// calibration.
pub(super) fn write(out: &Path, measured: &Measured, summary: &Summary) -> Result<()> {
    summary.write(&out.join("summary.json"))?;
    write_traces(&out.join("traces.jsonl"), &measured.traces)?;
    let newest = checkpoint::list(&out.join("airl"))?.pop();
    if let (Some(calibration), Some((_, dir))) = (&measured.calibration, newest) {
        calibration.write(&dir.join("reward"))?;
    }
    let lines = metrics::read(&out.join("airl").join("metrics.jsonl"))?;
    let rows: Vec<MetricRow> = lines.iter().map(IterationMetrics::row).collect();
    let injected = measured.errors.iter().take(20);
    let injected = injected.map(|case| HeatmapTrace {
        trace: &case.trace,
        injected: Some(case.span.clone()),
    });
    let sampled = measured
        .traces
        .iter()
        .step_by(SAMPLES)
        .take(20)
        .map(|trace| HeatmapTrace {
            trace,
            injected: None,
        });
    let traces: Vec<HeatmapTrace<'_>> = injected.chain(sampled).collect();
    let run = RunView {
        name: "airl",
        summary: Some(summary),
        metrics: &rows,
        evaluation: Some(&measured.critic),
        traces: &traces,
        chosen_from: measured.traces.len() + measured.errors.len(),
    };
    let input = ReportInput {
        title: "assay quickstart",
        runs: &[run],
    };
    Ok(write_file(
        &out.join("report.html"),
        render(&input, &ReportSettings::default())?.as_bytes(),
    )?)
}

/// The table of results and one sentence per comparison: the difference and its significance.
pub(super) fn text(measured: &Measured, summary: &Summary) -> String {
    let mut text = String::new();
    let percent = |e: &Estimate| {
        format!(
            "{:5.1} %  [{:.1}, {:.1}]",
            100.0 * e.value,
            100.0 * e.low,
            100.0 * e.high
        )
    };
    let mut row = |label: &str, name: &str| {
        if let Some(estimate) = summary.get(name) {
            let _ = writeln!(text, "  {label:<44} {}", percent(estimate));
        }
    };
    row("pass@1 after SFT", "policy.sft.pass_at_k.1");
    row(
        "  after more SFT, equal tokens",
        "policy.more_sft.pass_at_k.1",
    );
    row(
        "  after AIRL: dense reward, no answers",
        "policy.airl.pass_at_k.1",
    );
    row("  after GRPO with the verifier", "policy.grpo.pass_at_k.1");
    row("one of 16 at random", "select.random.at_16");
    row("  best of 16 by the reward", "select.best_of_n.at_16");
    row("  best of 16 by log-probability", "select.logprob.at_16");
    row("  majority vote", "select.majority.at_16");
    row(
        "  vote weighted by the reward",
        "select.weighted_vote.at_16",
    );
    row("reward against correctness: AUROC", "critic.auroc");
    row("injected error found within 1 token", "localisation.hit_1");
    row(
        "  by the lowest reward",
        "localisation.predictors.lowest_reward.hit_1",
    );
    row(
        "  by log-probability",
        "localisation.baselines.lowest_logprob.hit_1",
    );
    row("  by chance", "localisation.baselines.chance.hit_1");
    let _ = writeln!(
        text,
        "\nTrace score `{}`, chosen on validation. 95 % intervals.",
        measured.score.name()
    );
    for (label, name) in [
        ("AIRL against SFT", "difference.airl_minus_sft"),
        ("GRPO against SFT", "difference.grpo_minus_sft"),
        ("more SFT against SFT", "difference.more_sft_minus_sft"),
    ] {
        if let Some(estimate) = summary.get(name) {
            let verdict = match (estimate.low > 0.0, estimate.high < 0.0) {
                (true, _) => "significantly better",
                (_, true) => "significantly worse",
                _ => "no significant difference",
            };
            let points = |value: f64| format!("{:+.1}", 100.0 * value);
            let (value, low, high) = (
                points(estimate.value),
                points(estimate.low),
                points(estimate.high),
            );
            let _ = writeln!(
                text,
                "{label}: {value} points [{low}, {high}], paired: {verdict}."
            );
        }
    }
    text
}
