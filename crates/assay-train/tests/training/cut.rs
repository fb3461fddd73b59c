//! Updates that are split into micro-batches.

use assay_critic::encode::EncodedCompletion;
use assay_train::adam::AdamW;
use assay_train::optimiser::OptimiserSettings;
use assay_train::run::policy_update::{PolicyPlan, PolicyReport, update_policy};
use assay_train::settings::PolicySettings;
use assay_train::trace::{SampleRecord, TraceRole};

use super::*;

/// A policy whose log-probabilities differ by thousands of nats.
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

fn sample(ids: &[u32], rewards: &[f32]) -> Trace {
    let completion = EncodedCompletion {
        ids: ids.to_vec(),
        ..EncodedCompletion::default()
    };
    Trace {
        sampling: Some(Arc::new(SampleRecord {
            sampling_logprobs: vec![0.0; ids.len()],
            ..SampleRecord::default()
        })),
        rewards: rewards.to_vec(),
        ..Trace::new(TraceRole::Policy, completion)
    }
}

/// The second update of an iteration compares with the log-probabilities of the first. Those that a
/// micro-batch has not computed yet must not count as 0.
#[test]
fn cut_updates_assume_nothing_about_others() {
    let policy = steep();
    let group = |first: u32, rewards: [f32; 3]| {
        let prompt = PromptGroup::new(0, Problem::default(), vec![first, 4]);
        prompt.with_traces(vec![
            sample(&[5, 6, 7], &rewards),
            sample(&[9, 2], &[0.0; 2]),
        ])
    };
    let groups = [group(1, [1.0, 0.0, 1.0]), group(3, [0.5; 3])];
    let mut settings = PolicySettings {
        updates_per_iteration: 2,
        ..PolicySettings::default()
    };
    settings.objective.importance_cap = 0.0;
    let optimiser = OptimiserSettings {
        learning_rate: 1e-9,
        ..OptimiserSettings::default()
    };
    let run = |budget: usize| {
        let mut adamw = AdamW::new(&policy.parameters()).unwrap();
        let plan = PolicyPlan {
            settings: &settings,
            optimiser: &optimiser,
            schedule: &optimiser.schedule(2),
            execution: Execution::single_process(budget),
        };
        update_policy(&policy, &mut adamw, &groups, &plan).unwrap()
    };
    let (whole, cut) = (run(1000), run(1));
    assert!(whole.optimiser.gradient_norm > 0.0);
    let values = |report: &PolicyReport| {
        let (o, s) = (&report.optimiser, &report.objective);
        [
            ("loss", o.loss),
            ("gradient_norm", o.gradient_norm),
            ("approx_kl", s.approx_kl),
            ("ratio_max", s.ratio_max),
            ("clip_fraction_low", s.clip_fraction_low),
            ("clip_fraction_high", s.clip_fraction_high),
            ("sampling_gap_mean", s.sampling_gap_mean),
        ]
    };
    for ((name, value), (_, cut)) in values(&whole).into_iter().zip(values(&cut)) {
        let off = (value - cut).abs();
        assert!(off <= 1e-3 * (1.0 + value.abs()), "{name}: {value} {cut}");
    }
}
