//! `assay bench`: the speed of each stage of an iteration at a named model shape, and its share of
//! the machine's peak.
//!
//! Weights are random, since speed does not depend on them. Speed is reported in two units. Packed
//! rows count a prompt once per group. Tokens count it once per sample, as a trainer with padded
//! batches does.

mod shapes;
mod stages;

use std::io::Write;

use anyhow::{Result, ensure};
use assay_lm::{ModelConfig, Placement};
use assay_ops::Ceilings;
use assay_train::memory::{self, AdapterRanks, MemoryPlan, Residence, Workload, bytes, peak_bytes};
use serde::Serialize;

pub(crate) use self::shapes::Shape;
pub(crate) use self::stages::Stage;
use self::stages::Workbench;
use crate::args::BenchArgs;
use crate::progress::message;

/// Measurements of one stage.
#[derive(Serialize)]
struct Measured {
    stage: Stage,
    /// Seconds of every repetition, in order.
    seconds: Vec<f64>,
    median_seconds: f64,
    /// Packed rows per second; a prompt counts once per group.
    rows_per_second: f64,
    /// Tokens per second; a prompt counts once per sample. For `sample`, generated tokens only.
    tokens_per_second: f64,
    /// Operations per second of the stage's matrix products, divided by the rate of the measured
    /// matrix product.
    share_of_product: f64,
    /// Bytes of weights per second that the stage must read, divided by the rate of the measured
    /// copy.
    share_of_memory: f64,
}

#[derive(Serialize)]
struct BenchReport {
    shape: &'static str,
    prompts: usize,
    samples: usize,
    prompt_tokens: usize,
    new_tokens: usize,
    rank: usize,
    threads: usize,
    /// Device and number type of the stages.
    device: String,
    /// Operations per second of a large matrix product of that type.
    product_operations_per_second: Option<f64>,
    /// Bytes per second of a memory copy.
    copy_bytes_per_second: Option<f64>,
    memory: MemoryPlan,
    peak_bytes: Option<u64>,
    stages: Vec<Measured>,
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    for (name, value) in [
        ("--prompts", args.prompts),
        ("--samples", args.samples),
        ("--prompt-tokens", args.prompt_tokens),
        ("--new-tokens", args.new_tokens),
        ("--vocabulary", args.vocabulary.unwrap_or(1)),
        ("--rank", args.rank),
        ("--repeats", args.repeats),
    ] {
        ensure!(value > 0, "{name} must be at least 1");
    }
    let config = stages::config(args);
    let placement = args.compute.placement()?;
    let memory = plan(args, &config, Residence::of(&placement));
    let mut report = BenchReport {
        shape: args.shape.name(),
        prompts: args.prompts,
        samples: args.samples,
        prompt_tokens: args.prompt_tokens,
        new_tokens: args.new_tokens,
        rank: args.rank,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        device: String::new(),
        product_operations_per_second: None,
        copy_bytes_per_second: None,
        memory,
        peak_bytes: None,
        stages: Vec::new(),
    };
    if !args.dry_run {
        measure(args, &placement, &mut report)?;
    }
    print(&report, args)
}

/// The memory plan of the requested stages.
fn plan(args: &BenchArgs, config: &ModelConfig, residence: Residence) -> MemoryPlan {
    let asked = |stages: &[Stage]| {
        let asked = |stage: &Stage| *stage == Stage::Iteration || stages.contains(stage);
        args.stages.is_empty() || args.stages.iter().any(asked)
    };
    let samples = usize::from(asked(&[Stage::Sample]));
    let trains = asked(&[Stage::UpdateReward, Stage::UpdatePolicy]);
    let passes = usize::from(trains || asked(&[Stage::Score]));
    let rank = |stages: &[Stage]| args.rank * usize::from(asked(stages));
    let ranks = AdapterRanks {
        policy: rank(&[Stage::Sample, Stage::UpdatePolicy]),
        reward: rank(&[Stage::Score, Stage::UpdateReward]),
    };
    let kept_bytes = args.pass_budget().kept_bytes;
    let group = args.prompt_tokens + args.samples * args.new_tokens;
    let workload = Workload {
        sequences: samples * args.prompts * args.samples,
        new_tokens: args.new_tokens,
        prompt_rows: samples * args.prompts * args.prompt_tokens,
        training_rows: match trains {
            true => training_rows(args, residence)
                .max(group)
                .min(args.token_budget),
            false => 0,
        },
        scored_rows: passes * args.token_budget.min(rows(args)),
        kept_bytes: if trains { kept_bytes } else { 0 },
        residence,
    };
    let mut plan = MemoryPlan::new(config, ranks, &workload);
    if !trains {
        plan.optimiser = 0;
    }
    plan
}

/// Packed rows of one pass of a policy update.
fn training_rows(args: &BenchArgs, residence: Residence) -> usize {
    memory::training_rows(&stages::config(args), residence, args.pass_budget()).min(rows(args))
}

/// Packed rows of the workload.
fn rows(args: &BenchArgs) -> usize {
    args.prompts * (args.prompt_tokens + args.samples * args.new_tokens)
}

fn measure(args: &BenchArgs, placement: &Placement, report: &mut BenchReport) -> Result<()> {
    report.memory.check(&placement.device)?;
    report.device = placement.to_string();
    let mut workbench = Workbench::new(args, placement)?;
    let stages = if args.stages.is_empty() {
        Stage::ALL.to_vec()
    } else {
        args.stages.clone()
    };
    let mut timed = Vec::with_capacity(stages.len());
    for stage in stages {
        let mut seconds = Vec::with_capacity(args.repeats);
        workbench.warm_up(stage)?;
        for _ in 0..args.repeats {
            let taken = workbench.run(stage)?;
            message(&format!("{}: {taken:.3} s", stage.name()))?;
            seconds.push(taken);
        }
        timed.push((stage, seconds));
    }
    // The machine is measured after this, so the peak is that of the stages alone.
    report.peak_bytes = peak_bytes();
    drop(workbench);
    let ceilings = Ceilings::measure(&placement.device, placement.dtype)?;
    let timed = timed.into_iter();
    report.stages = timed
        .map(|(stage, seconds)| measured(stage, seconds, args, placement, &ceilings))
        .collect();
    report.product_operations_per_second = Some(ceilings.product_operations_per_second);
    report.copy_bytes_per_second = Some(ceilings.copy_bytes_per_second);
    Ok(())
}

fn measured(
    stage: Stage,
    seconds: Vec<f64>,
    args: &BenchArgs,
    placement: &Placement,
    ceilings: &Ceilings,
) -> Measured {
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let sequences = args.prompts * args.samples;
    let (rows, tokens) = match stage {
        Stage::Sample => (sequences * args.new_tokens, sequences * args.new_tokens),
        _ => (
            rows(args),
            sequences * (args.prompt_tokens + args.new_tokens),
        ),
    };
    let cost = stage.cost(args, Residence::of(placement));
    Measured {
        stage,
        seconds,
        median_seconds: median,
        rows_per_second: rows as f64 / median,
        tokens_per_second: tokens as f64 / median,
        share_of_product: cost.operations / ceilings.product_operations_per_second / median,
        share_of_memory: cost.weight_bytes / ceilings.copy_bytes_per_second / median,
    }
}

fn print(report: &BenchReport, args: &BenchArgs) -> Result<()> {
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    writeln!(
        out,
        "{}: {} prompts x {} samples, {} + {} tokens, rank {}, {} threads {}",
        report.shape,
        report.prompts,
        report.samples,
        report.prompt_tokens,
        report.new_tokens,
        report.rank,
        report.threads,
        report.device
    )?;
    writeln!(out, "memory plan: {}", report.memory)?;
    let rates = report
        .product_operations_per_second
        .zip(report.copy_bytes_per_second);
    if let Some((product, copy)) = rates {
        writeln!(
            out,
            "this machine: matrix product {:.0} GFLOP/s, copy {:.1} GB/s",
            product / 1e9,
            copy / 1e9
        )?;
    }
    for stage in &report.stages {
        writeln!(
            out,
            "{:<14} {:>8.3} s  {:>8.0} rows/s  {:>8.0} tokens/s  {:>5.1} % of the matrix product  {:>5.1} % of the copy",
            stage.stage.name(),
            stage.median_seconds,
            stage.rows_per_second,
            stage.tokens_per_second,
            100.0 * stage.share_of_product,
            100.0 * stage.share_of_memory
        )?;
    }
    if let Some(peak) = report.peak_bytes {
        writeln!(out, "peak memory of the process: {}", bytes(peak))?;
    }
    Ok(())
}
