//! How fast the stages of an iteration are on the quickstart's own model and traces.

use std::ops::Range;
use std::time::Instant;

use anyhow::Result;
use assay_evals::Summary;
use assay_evals::statistics::Estimate;
use assay_irl::IrlError;
use assay_irl::player::{Passes, Player, Reach, TokenScalars, infer_all, update};
use assay_irl::settings::Settings;
use assay_lm::packed::Group;
use assay_tasks::trace::ScoredTrace;

use super::stages::Players;

/// Entries `tokens_per_second.{score, update_reward, update_policy}`: completion tokens of one batch of an iteration, one pass each after
/// one to warm up. Gradients are computed and dropped.
pub(super) fn speeds(
    players: &Players,
    traces: &[ScoredTrace],
    settings: &Settings,
) -> Result<Summary> {
    let groups = batch(traces, settings);
    let passes = Passes {
        kept_bytes: settings.run.kept_bytes(),
        ..Passes::alone(settings.run.token_budget)
    };
    let tokens: usize = groups
        .iter()
        .flat_map(|group| &group.completions)
        .map(Vec::len)
        .sum();
    let mut summary = Summary::default();
    let mut time = |name: &str, pass: &dyn Fn() -> Result<(), IrlError>| -> Result<()> {
        pass()?;
        let started = Instant::now();
        pass()?;
        let speed = tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
        summary.insert(&format!("tokens_per_second.{name}"), Estimate::exact(speed));
        Ok(())
    };
    time("score", &|| {
        infer_all(&players.reward, &groups, passes).map(|_| ())
    })?;
    time("update_reward", &|| {
        trained(&players.reward, &groups, passes)
    })?;
    time("update_policy", &|| trained(&players.airl, &groups, passes))?;
    Ok(summary)
}

/// As many prompts and samples as an iteration has.
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

/// One pass forward and backward.
fn trained(player: &dyn Player, groups: &[Group], passes: Passes<'_>) -> Result<(), IrlError> {
    let loss = |scalars: &[Vec<f32>], _: Range<usize>| -> Result<((), TokenScalars), IrlError> {
        Ok((
            (),
            scalars.iter().map(|own| vec![1e-3; own.len()]).collect(),
        ))
    };
    update(player, groups, (passes, Reach::Completion), loss).map(|_| ())
}
