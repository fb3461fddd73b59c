//! Updates that are cut into micro-batches.

use assay_irl::adam::AdamW;
use assay_irl::encode::EncodedCompletion;
use assay_irl::policy::advantage::ExpertInGroup;
use assay_irl::settings::PolicySettings;
use assay_irl::trainer::policy_phase::{PolicyOptimiser, policy_groups, update_policy};
use assay_irl::trainer::rollout::Sample;
use assay_lm::sampling::Completion;

use super::*;

/// A policy whose log-probabilities lie thousands of nats apart.
fn steep() -> PolicyModel {
    let model = model();
    let tensors: BTreeMap<String, candle_core::Tensor> = model
        .transformer
        .named_tensors()
        .unwrap()
        .into_iter()
        .collect();
    let config = model.transformer.config();
    let scaled = |name: &str| match name.ends_with("model.norm.weight") {
        true => tensors[name].affine(1e4, 0.0).unwrap(),
        false => tensors[name].clone(),
    };
    let (transformer, _) = Transformer::trainable(config, |name, _| Ok(scaled(name))).unwrap();
    let adapter = Adapter::new(config, &LoraSettings::with_rank(2), 7).unwrap();
    PolicyModel {
        transformer: Arc::new(transformer.detached()),
        trainable: Trainable::Adapter(adapter.to_device(&place().device).unwrap()),
    }
}

fn sample(ids: &[u32]) -> Sample {
    Sample {
        completion: EncodedCompletion {
            ids: ids.to_vec(),
            ..EncodedCompletion::default()
        },
        drawn: Completion {
            token_ids: ids.to_vec(),
            sampling_logprobs: vec![0.0; ids.len()],
            ..Completion::default()
        },
        predicted_answer: None,
        correct: None,
    }
}

/// The second update of an iteration compares with the log-probabilities of the first; what a micro-batch has not reached is not 0.
#[test]
fn updates_that_are_cut_take_nothing_for_what_they_do_not_know() {
    let policy = steep();
    let rollout = |first: u32| RolloutGroup {
        problem: 0,
        prompt: vec![first, 4],
        samples: vec![sample(&[5, 6, 7]), sample(&[9, 2])],
    };
    let rollouts = [rollout(1), rollout(3)];
    let groups = policy_groups(&rollouts, &[], ExpertInGroup::Off);
    let rewards: Vec<Vec<f32>> = vec![
        vec![1.0, 0.0, 1.0],
        vec![0.0; 2],
        vec![0.5; 3],
        vec![0.0; 2],
    ];
    let mut settings = PolicySettings {
        updates_per_iteration: 2,
        ..PolicySettings::default()
    };
    settings.objective.importance_cap = 0.0;
    settings.optimiser.learning_rate = 1e-9;
    let run = |budget: usize| {
        let mut adamw = AdamW::new(&policy.parameters()).unwrap();
        let optimiser = PolicyOptimiser {
            schedule: settings.optimiser.schedule(2),
            adamw: &mut adamw,
        };
        let mut metrics = IterationMetrics::default();
        let passes = (&settings, Passes::alone(budget));
        update_policy(
            &policy,
            optimiser,
            (&groups, &rewards),
            passes,
            &mut metrics,
        )
        .unwrap();
        metrics.values
    };
    let (whole, cut) = (run(1000), run(1));
    assert!(whole["policy/gradient_norm"] > 0.0);
    for (name, value) in &whole {
        let off = (value - cut[name]).abs();
        assert!(
            off <= 1e-3 * (1.0 + value.abs()),
            "{name}: {value} {}",
            cut[name]
        );
    }
}
