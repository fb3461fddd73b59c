//! Failed allocations in a pass: it is repeated with half as much at a time, with the same result.

use std::cell::Cell;

use assay_critic::CriticError;
use assay_critic::player::{Recording, TokenScalars};
use assay_lm::gradients::Gradients;
use assay_ops::OpsError;
use assay_train::backoff::{BoundedWork, MemoryBackoff};
use assay_train::execution::infer_all;
use candle_core::{Tensor, Var};

use super::*;

/// A policy on a machine with memory for a limited number of rows in the forward and backward
/// passes.
struct Tight<'p> {
    policy: &'p PolicyModel,
    forward: usize,
    backward: usize,
    refused: Cell<usize>,
}

impl<'p> Tight<'p> {
    fn new(policy: &'p PolicyModel, forward: usize, backward: usize) -> Self {
        Self {
            policy,
            forward,
            backward,
            refused: Cell::new(0),
        }
    }

    fn ask(&self, batch: &PackedBatch, room: usize) -> Result<(), CriticError> {
        if batch.len() <= room {
            return Ok(());
        }
        self.refused.set(self.refused.get() + 1);
        Err(OpsError::OutOfMemory { bytes: batch.len() }.into())
    }
}

impl Player for Tight<'_> {
    fn scalar(&self) -> &'static str {
        self.policy.scalar()
    }

    fn body(&self) -> (&Transformer, Option<&Adapter>) {
        self.policy.body()
    }

    fn head(&self, hidden: &Tensor, batch: &PackedBatch) -> Result<Tensor, CriticError> {
        self.policy.head(hidden, batch)
    }

    fn head_tensors(&self) -> Vec<&Tensor> {
        self.policy.head_tensors()
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        self.policy.parameters()
    }

    fn infer(&self, batch: &PackedBatch) -> Result<TokenScalars, CriticError> {
        self.ask(batch, self.forward)?;
        self.policy.infer(batch)
    }

    fn forward(
        &self,
        batch: &PackedBatch,
        kept_bytes: u64,
    ) -> Result<(TokenScalars, Recording), CriticError> {
        self.ask(batch, self.forward)?;
        self.policy.forward(batch, kept_bytes)
    }

    fn backward(
        &self,
        batch: &PackedBatch,
        recording: Recording,
        grads: &[Vec<f32>],
        gradients: &mut Gradients,
    ) -> Result<(), CriticError> {
        self.ask(batch, self.backward)?;
        self.policy.backward(batch, recording, grads, gradients)
    }
}

fn policy() -> PolicyModel {
    let model = model();
    let adapter = Adapter::new(model.transformer.config(), &LoraSettings::with_rank(4), 7).unwrap();
    PolicyModel {
        transformer: model.transformer,
        trainable: Trainable::Adapter(adapter.to_device(&place().device).unwrap()),
    }
}

/// Four groups of 20 rows.
fn groups() -> Vec<Group> {
    let group = |first: u32| Group {
        prompt: (first..first + 8).collect(),
        completions: vec![(2..8).collect(), (3..9).collect()],
    };
    (1..5).map(group).collect()
}

/// The scalars of each call of the loss with all scalars, and the bits of every gradient.
fn gradients(player: &dyn Player, execution: Execution<'_>) -> (Vec<TokenScalars>, Vec<Vec<f32>>) {
    let mut seen = Vec::new();
    let loss = |scalars: &[Vec<f32>], part: Range<usize>| {
        if part.len() == scalars.len() {
            seen.push(scalars.to_vec());
        }
        let own = |row: &Vec<f32>| row.iter().map(|x| x.sin()).collect();
        Ok(LossGradients {
            report: (),
            gradients: scalars.iter().map(own).collect(),
        })
    };
    let passes = UpdatePasses {
        execution,
        reach: Reach::Completion,
    };
    let ((), gradients) = update(player, &groups(), passes, loss).unwrap();
    let of = |var: &Var| gradients.get(var).unwrap().flatten_all().unwrap();
    let parameters = player.parameters();
    let values = parameters.iter().map(|(_, var)| of(var).to_vec1().unwrap());
    (seen, values.collect())
}

#[test]
fn refused_memory_halves_the_budget() {
    let policy = policy();
    let whole = gradients(&policy, Execution::single_process(1000));
    let halves = gradients(&policy, Execution::single_process(40));
    // Forward and backward passes that do not fit at once, and an update larger than its budget.
    for (budget, room, half) in [
        (1000, (40, 1000), 40),
        (1000, (1000, 40), 40),
        (60, (20, 60), 30),
    ] {
        let tight = Tight::new(&policy, room.0, room.1);
        let backoff = MemoryBackoff::default();
        let execution = Execution {
            backoff: Some(&backoff),
            ..Execution::single_process(budget)
        };
        let (seen, found) = gradients(&tight, execution);
        assert_eq!(tight.refused.get(), 1, "refused once, then remembered");
        assert_eq!(backoff.limit(BoundedWork::Tokens), Some(half));
        let same = gradients(&policy, Execution::single_process(half)).1;
        assert!(
            found == same,
            "the bits of a run that began with half the budget"
        );
        assert!(seen.iter().all(|scalars| *scalars == whole.0[0]));
        for (found, whole) in found.iter().flatten().zip(whole.1.iter().flatten()) {
            assert!(
                (found - whole).abs() <= 1e-5 * (1.0 + whole.abs()),
                "{found} {whole}"
            );
        }
        gradients(&tight, execution);
        assert_eq!(tight.refused.get(), 1, "the next update does not try again");
    }
    assert!(halves.0 == whole.0);
}

#[test]
fn a_second_refusal_of_memory_is_an_error() {
    let policy = policy();
    let backoff = MemoryBackoff::default();
    let execution = Execution {
        backoff: Some(&backoff),
        ..Execution::single_process(1000)
    };
    let tight = Tight::new(&policy, 40, 40);
    let found = infer_all(&tight, &groups(), execution).unwrap();
    assert_eq!(
        found,
        infer_all(&policy, &groups(), Execution::single_process(1000)).unwrap()
    );
    let tighter = Tight::new(&policy, 19, 19);
    let error = infer_all(&tighter, &groups(), execution).unwrap_err();
    assert!(
        matches!(error, TrainError::OutOfMemoryAgain { .. }),
        "{error}"
    );
    let told = error.to_string();
    assert!(
        told.contains("40 tokens at a time") && told.contains("run.activation_mib"),
        "{told}"
    );
    let alone = infer_all(&tight, &groups(), Execution::single_process(1000)).unwrap_err();
    assert!(alone.is_out_of_memory(), "{alone}");
}

#[test]
fn a_resumed_run_keeps_the_halved_budget() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.run.iterations = 2;
    run(&settings, TrainerKind::Grpo, dir.path(), RunMode::Fresh).unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut metrics = read(&path).unwrap();
    let last = metrics.len() - 1;
    assert!(!metrics[last].values.contains_key("memory/token_budget"));
    metrics[last - 1].set("memory/token_budget", 90.0).unwrap();
    let lines = metrics
        .iter()
        .map(|line| serde_json::to_string(line).unwrap() + "\n");
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    let (_, newest) = checkpoint::list(dir.path()).unwrap().pop().unwrap();
    std::fs::remove_dir_all(newest).unwrap();
    run(&settings, TrainerKind::Grpo, dir.path(), RunMode::Resume).unwrap();
    let metrics = read(&path).unwrap();
    assert_eq!(metrics.len(), last + 1);
    assert_eq!(metrics[last].values["memory/token_budget"], 90.0);
}
