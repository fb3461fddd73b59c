//! Recomputes a failed update, trace by trace, with the weights of the last checkpoint.
//!
//! These are not the weights at the time of the failure. To get a checkpoint right before it,
//! resume with `run.checkpoint_every = 1`: a resumed run fails at the same place.

use std::path::Path;

use assay_critic::RewardModel;
use assay_critic::player::Player;
use assay_lm::gradients::Gradients;
use assay_lm::packed::{Group, PackedBatch};
use serde::Serialize;

use super::inputs::TrainInputs;
use super::saving::restore_policy;
use super::start::{start_discriminator, start_policy};
use super::state::{POLICY, REWARD};
use crate::failed_update::{FailedPart, FailedTrace, FailedUpdate};
use crate::trace::TraceRole;
use crate::{TrainError, checkpoint};

/// The result of replaying a failed update.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// Iterations done by the checkpoint whose weights were used; `None` for the initial weights.
    pub checkpoint: Option<usize>,
    /// Trainable parameters of the checkpoint that are not finite.
    pub damaged_parameters: Vec<String>,
    /// Every trace of the batch.
    pub traces: Vec<ReplayedTrace>,
}

/// One trace of a failed update, replayed alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayedTrace {
    /// Id of its problem.
    pub problem: String,
    /// Who wrote it.
    pub role: TraceRole,
    /// Number of tokens.
    pub tokens: usize,
    /// First token whose scalar was not finite when the run failed.
    pub failed_token: Option<usize>,
    /// First token whose scalar is not finite now.
    pub token: Option<usize>,
    /// Mean scalar now: the mean log-probability or logit; `None` if one is not finite or there are
    /// none.
    pub mean: Option<f64>,
    /// First-order loss: the sum of the failed update's loss gradients times the scalars now, or
    /// minus the mean scalar if the loss was not computed. `None` in the same cases as `mean`.
    pub loss: Option<f64>,
    /// Norm of that loss's gradient over all trained parameters; `None` when it is not finite.
    pub gradient_norm: Option<f64>,
    /// First parameter whose gradient is not finite.
    pub parameter: Option<String>,
}

/// Runs every trace of a failed update alone. Changes no weight.
///
/// # Errors
/// There is no intact checkpoint, the batch does not fit the model, or an operation fails.
pub fn replay(
    inputs: &TrainInputs<'_>,
    run: &Path,
    failure: &FailedUpdate,
) -> Result<Replay, TrainError> {
    let newest = checkpoint::newest_whole(run)?.whole;
    let dir = newest.as_ref().map(|(_, path)| path.as_path());
    let player: Box<dyn Player> = match failure.part {
        FailedPart::Sft | FailedPart::Rollout | FailedPart::Policy => {
            let mut policy = start_policy(inputs)?;
            if let Some(dir) = dir {
                restore_policy(&mut policy, &dir.join(POLICY))?;
            }
            Box::new(policy)
        }
        FailedPart::Reward | FailedPart::TokenRewards => Box::new(match dir {
            Some(dir) => RewardModel::load(&dir.join(REWARD), inputs.reward_backbone.clone())?,
            None => start_discriminator(inputs)?.model,
        }),
    };
    check_tokens(failure, player.as_ref())?;
    let traces = failure.traces.iter();
    let traces = traces.map(|trace| replay_trace(player.as_ref(), failure, trace));
    Ok(Replay {
        checkpoint: newest.map(|(number, _)| number),
        damaged_parameters: damaged_parameters(player.as_ref())?,
        traces: traces.collect::<Result<_, _>>()?,
    })
}

fn check_tokens(failure: &FailedUpdate, player: &dyn Player) -> Result<(), TrainError> {
    let vocabulary = player.body().0.config().vocab_size;
    let traces = failure.traces.iter().map(|trace| &trace.token_ids);
    let mut ids = traces.chain(&failure.prompts).flatten();
    match ids.find(|&&id| id as usize >= vocabulary) {
        Some(id) => Err(TrainError::malformed(
            failure.file.clone().unwrap_or_default(),
            format!("token {id} is beyond the model's {vocabulary}"),
        )),
        None => Ok(()),
    }
}

fn damaged_parameters(player: &dyn Player) -> Result<Vec<String>, TrainError> {
    let mut damaged = Vec::new();
    for (name, var) in player.parameters() {
        let values = var.flatten_all()?.to_vec1::<f32>()?;
        if !values.iter().all(|value| value.is_finite()) {
            damaged.push(name);
        }
    }
    Ok(damaged)
}

fn replay_trace(
    player: &dyn Player,
    failure: &FailedUpdate,
    trace: &FailedTrace,
) -> Result<ReplayedTrace, TrainError> {
    let batch = PackedBatch::new(&[Group {
        prompt: failure.prompts[trace.group].clone(),
        completions: vec![trace.token_ids.clone()],
    }])?;
    let mut replayed = ReplayedTrace {
        problem: trace.problem.clone(),
        role: trace.role,
        tokens: trace.token_ids.len(),
        failed_token: trace.scalars.iter().position(Option::is_none),
        token: None,
        mean: None,
        loss: None,
        gradient_norm: None,
        parameter: None,
    };
    if trace.token_ids.is_empty() {
        return Ok(replayed);
    }
    let (scalars, recording) = player.forward(&batch, 0)?;
    let scalars = &scalars[0];
    replayed.token = scalars.iter().position(|scalar| !scalar.is_finite());
    let weights = loss_gradients(trace);
    if replayed.token.is_none() {
        let sum: f64 = scalars.iter().map(|&scalar| f64::from(scalar)).sum();
        let terms = scalars.iter().zip(&weights);
        replayed.mean = Some(sum / scalars.len() as f64);
        replayed.loss = Some(terms.map(|(&s, &w)| f64::from(s) * f64::from(w)).sum());
    }
    let mut gradients = Gradients::default();
    player.backward(&batch, recording, &[weights], &mut gradients)?;
    let mut squares = 0.0;
    for (name, var) in player.parameters() {
        let Some(gradient) = gradients.get(&var) else {
            continue;
        };
        let values = gradient.flatten_all()?.to_vec1::<f32>()?;
        if replayed.parameter.is_none() && !values.iter().all(|value| value.is_finite()) {
            replayed.parameter = Some(name);
        }
        squares += values.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
    }
    replayed.gradient_norm = Some(squares.sqrt()).filter(|norm| norm.is_finite());
    Ok(replayed)
}

/// The loss gradients of the failed update if all are known, else those of minus the mean scalar.
fn loss_gradients(trace: &FailedTrace) -> Vec<f32> {
    let known: Option<Vec<f32>> = trace.loss_gradients.iter().copied().collect();
    let count = trace.token_ids.len();
    match known {
        Some(known) if known.len() == count => known,
        _ => vec![-1.0 / count as f32; count],
    }
}
