//! The speed of the stages of an iteration, on the quickstart's own model and traces.

use std::ops::Range;
use std::time::Instant;

use anyhow::Result;
use assay_critic::player::Player;
use assay_evals::Summary;
use assay_evals::statistics::Estimate;
use assay_lm::packed::Group;
use assay_tasks::trace::ScoredTrace;
use assay_train::TrainError;
use assay_train::execution::{Execution, infer_all};
use assay_train::settings::Settings;
use assay_train::update::{LossGradients, Reach, UpdatePasses, update};

use super::stages::Players;

/// The entries `tokens_per_second.{score, update_reward, update_policy}`: completion tokens of one
/// iteration's batch divided by the seconds of one pass. One untimed pass warms up. Gradients are
/// computed and dropped.
pub(super) fn speeds(
    players: &Players,
    traces: &[ScoredTrace],
    settings: &Settings,
) -> Result<Summary> {
    let groups = batch(traces, settings);
    let execution = Execution {
        budget: settings.run.pass_budget(),
        ..Execution::single_process(settings.run.token_budget)
    };
    let tokens: usize = groups
        .iter()
        .flat_map(|group| &group.completions)
        .map(Vec::len)
        .sum();
    let mut summary = Summary::default();
    let mut time = |name: &str, pass: &dyn Fn() -> Result<(), TrainError>| -> Result<()> {
        pass()?;
        let started = Instant::now();
        pass()?;
        let speed = tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
        summary.insert(&format!("tokens_per_second.{name}"), Estimate::exact(speed));
        Ok(())
    };
    time("score", &|| {
        infer_all(&players.reward, &groups, execution).map(|_| ())
    })?;
    time("update_reward", &|| {
        trained(&players.reward, &groups, execution)
    })?;
    time("update_policy", &|| {
        trained(&players.airl, &groups, execution)
    })?;
    Ok(summary)
}

/// A batch with as many prompts and samples as an iteration has.
fn batch(traces: &[ScoredTrace], settings: &Settings) -> Vec<Group> {
    let group = |traces: &[ScoredTrace]| Group {
        prompt: traces[0].prompt_token_ids.clone(),
        completions: traces
            .iter()
            .take(settings.sampling.samples)
            .map(|trace| trace.token_ids.clone())
            .collect(),
    };
    let problems = traces.chunk_by(|a, b| a.id == b.id);
    problems
        .take(settings.run.prompts_per_iteration)
        .map(group)
        .collect()
}

/// One forward and one backward pass.
fn trained(
    player: &dyn Player,
    groups: &[Group],
    execution: Execution<'_>,
) -> Result<(), TrainError> {
    let loss = |scalars: &[Vec<f32>], _: Range<usize>| {
        Ok(LossGradients {
            report: (),
            gradients: scalars.iter().map(|own| vec![1e-3; own.len()]).collect(),
        })
    };
    let passes = UpdatePasses {
        execution,
        reach: Reach::Completion,
    };
    update(player, groups, passes, loss).map(|_| ())
}
