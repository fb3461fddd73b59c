//! Compares tiny random models of every family with transformers and peft: logits,
//! log-probabilities, gradients of the SFT, GRPO and BCE losses and of the implicit head, ten AdamW
//! steps. The references come from tools/golden/models.py. In bf16, the distance from the f32
//! references is compared with that of transformers in bf16 (tools/golden/models_bf16.py).

#![allow(clippy::unwrap_used, clippy::panic)] // tests stop where something is not as expected

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assay_critic::HeadSettings;
use assay_critic::player::{Player, TokenScalars};
use assay_critic::policy_model::{PolicyModel, Trainable, logprobs_and_entropies};
use assay_critic::reward_model::RewardModel;
use assay_lm::gradients::Gradients;
use assay_lm::packed::{Group, PackedBatch};
use assay_lm::transformer::Transformer;
use assay_lm::{
    Architecture, DeviceName, ModelConfig, Placement, PlacementSettings, Precision, RopeScaling,
    Weights, peft,
};
use assay_ops::{AdamWSettings, linear};
use assay_train::TrainError;
use assay_train::adam::AdamW;
use assay_train::execution::Execution;
use assay_train::settings::PassBudget;
use assay_train::update::{LossGradients, Reach, UpdatePasses, update};
use candle_core::{Device, Tensor};
use serde::Deserialize;

const MODELS: [&str; 9] = [
    "llama",
    "llama-tied",
    "qwen2-tied",
    "qwen2",
    "qwen3",
    "mistral",
    "phi3",
    "smollm3",
    "gemma3",
];

#[derive(Deserialize)]
struct Golden {
    groups: Vec<GoldenGroup>,
    extra: Vec<Extra>,
    beta: f64,
    head_bias: f32,
    base_logprobs: TokenScalars,
    base_logits: Vec<Vec<Vec<f32>>>,
    policy_logprobs: TokenScalars,
    old_logprobs: TokenScalars,
    full_sft_loss: f64,
    sft_loss: f64,
    grpo_loss: f64,
    implicit_logits: TokenScalars,
    implicit_loss: f64,
    reward_logits: TokenScalars,
    reward_loss: f64,
    trajectory: Vec<Iteration>,
}

#[derive(Deserialize)]
struct GoldenGroup {
    prompt: Vec<u32>,
    completions: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Extra {
    advantages: Vec<f32>,
    label: u8,
}

#[derive(Deserialize)]
struct Iteration {
    loss: f64,
    norm: f64,
    lr: f64,
}

struct Case {
    dir: PathBuf,
    golden: Golden,
    groups: Vec<Group>,
    config: ModelConfig,
    base: Arc<Transformer>,
}

/// The distance of transformers in bf16 from itself in f32.
#[derive(Deserialize)]
struct Distance {
    /// Root mean square over log-probabilities.
    logprobs: f64,
    /// Root mean square over all gradients of the adapter, relative to theirs.
    gradients: f64,
    /// Root mean square over the losses of ten steps.
    losses: f64,
}

/// On the first GPU if the tests are built for one, else on the CPU.
fn place(dtype: Precision) -> Placement {
    let device = match cfg!(feature = "cuda") {
        true => DeviceName::Cuda(0),
        false => DeviceName::Cpu,
    };
    PlacementSettings { device, dtype }.resolve().unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models")
}

fn case(name: &str) -> Case {
    case_in(name, Precision::F32)
}

fn case_in(name: &str, dtype: Precision) -> Case {
    let dir = folder().join(name);
    let golden: Golden =
        serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let groups = golden.groups.iter().map(|g| Group {
        prompt: g.prompt.clone(),
        completions: g.completions.clone(),
    });
    let groups = groups.collect();
    let config = ModelConfig::read(&dir.join("model")).unwrap();
    let weights = Weights::open(&dir.join("model")).unwrap();
    let base = Arc::new(Transformer::load(&config, &weights, &place(dtype)).unwrap());
    Case {
        dir,
        golden,
        groups,
        config,
        base,
    }
}

impl Case {
    fn policy(&self) -> PolicyModel {
        let loaded = peft::load(&self.dir.join("policy"), &self.config).unwrap();
        PolicyModel {
            transformer: self.base.clone(),
            trainable: Trainable::Adapter(
                loaded
                    .adapter
                    .to_device(&self.base.placement().device)
                    .unwrap(),
            ),
        }
    }

    fn reference(&self, file: &str) -> HashMap<String, Tensor> {
        candle_core::safetensors::load(self.dir.join(file), &Device::Cpu).unwrap()
    }

    fn tokens(&self) -> usize {
        self.groups
            .iter()
            .flat_map(|g| &g.completions)
            .map(Vec::len)
            .sum()
    }
}

/// An update with a loss that compares completions of one group at most.
fn updated(
    player: &dyn Player,
    groups: &[Group],
    execution: Execution<'_>,
    loss: impl Fn(&[Vec<f32>]) -> Result<(f64, TokenScalars), TrainError>,
) -> Result<(f64, Gradients), TrainError> {
    let passes = UpdatePasses {
        execution,
        reach: Reach::Group,
    };
    update(player, groups, passes, |scalars, _| {
        let (report, gradients) = loss(scalars)?;
        Ok(LossGradients { report, gradients })
    })
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (found - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{what}: {found} against {expected}"
    );
}

fn close_lists(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert_eq!(f.len(), e.len(), "{what}");
        for (f, e) in f.iter().zip(e) {
            close(f64::from(*f), f64::from(*e), 1e-4, what);
        }
    }
}

/// Asserts that every gradient is within 1e-4 of the largest entry of its reference, and that none
/// is missing on either side.
fn close_gradients(
    player: &dyn Player,
    gradients: &Gradients,
    expected: &HashMap<String, Tensor>,
    what: &str,
) {
    let parameters = player.parameters();
    assert_eq!(
        parameters.len(),
        expected.len(),
        "{what}: number of parameters"
    );
    for (name, var) in parameters {
        let expected = expected
            .get(&name)
            .unwrap_or_else(|| panic!("{what}: no reference for {name}"));
        let found = gradients
            .get(&var)
            .unwrap_or_else(|| panic!("{what}: no gradient for {name}"));
        close_tensors(found, expected, 1e-4, &format!("{what} {name}"));
    }
}

fn close_tensors(found: &Tensor, expected: &Tensor, tolerance: f32, what: &str) {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (flat(found), flat(expected));
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3_f32, |m, e| m.max(e.abs()));
    for (f, e) in found.iter().zip(&expected) {
        assert!(
            (f - e).abs() <= tolerance * scale,
            "{what}: {f} against {e} (scale {scale})"
        );
    }
}

fn sft(tokens: usize) -> impl Fn(&[Vec<f32>]) -> Result<(f64, TokenScalars), TrainError> {
    move |logprobs| {
        let n = tokens as f32;
        let loss = -logprobs
            .iter()
            .flatten()
            .map(|&l| f64::from(l))
            .sum::<f64>()
            / tokens as f64;
        Ok((
            loss,
            logprobs.iter().map(|l| vec![-1.0 / n; l.len()]).collect(),
        ))
    }
}

/// Class-balanced BCE with smoothing 0.1 written out by hand, independent of the crate's loss.
fn bce(golden: &Golden) -> impl Fn(&[Vec<f32>]) -> Result<(f64, TokenScalars), TrainError> + '_ {
    move |logits| {
        let count = |label| -> f64 {
            let of = |(z, e): (&Vec<f32>, &Extra)| if e.label == label { z.len() } else { 0 };
            logits.iter().zip(&golden.extra).map(of).sum::<usize>() as f64
        };
        let mut loss = 0.0;
        let mut grads = Vec::new();
        for (row, extra) in logits.iter().zip(&golden.extra) {
            let (target, weight) = if extra.label == 1 {
                (0.9, 0.5 / count(1))
            } else {
                (0.1, 0.5 / count(0))
            };
            grads.push(
                row.iter()
                    .map(|&z| {
                        let z = f64::from(z);
                        loss += weight * ((1.0 + z.exp()).ln() - target * z);
                        (weight * (1.0 / (1.0 + (-z).exp()) - target)) as f32
                    })
                    .collect(),
            );
        }
        Ok((loss, grads))
    }
}

#[test]
fn logits_and_logprobs_equal_transformers() {
    for name in MODELS {
        let case = case(name);
        let batch = PackedBatch::new(&case.groups).unwrap();
        let (logprobs, _) = logprobs_and_entropies(&case.base, None, &batch).unwrap();
        close_lists(&logprobs, &case.golden.base_logprobs, name);
        let hidden = case.base.hidden(&batch, None).unwrap();
        let logits = linear(&hidden, case.base.output_matrix(), None, None)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        for (span, expected) in batch.completions.iter().zip(&case.golden.base_logits) {
            let rows: Vec<Vec<f32>> = span
                .prediction_rows()
                .map(|row| logits[row as usize].clone())
                .collect();
            close_lists(&rows, expected, name);
        }
        let (logprobs, _) = case.policy().logprobs_and_entropies(&batch).unwrap();
        close_lists(&logprobs, &case.golden.policy_logprobs, name);
    }
}

/// The largest distance from transformers' log-probabilities when `name` is computed with another
/// configuration.
fn distance_with(name: &str, change: impl Fn(&mut ModelConfig)) -> f32 {
    let case = case(name);
    let mut config = case.config.clone();
    change(&mut config);
    let weights = Weights::open(&case.dir.join("model")).unwrap();
    let wrong = Transformer::load(&config, &weights, &place(Precision::F32)).unwrap();
    let batch = PackedBatch::new(&case.groups).unwrap();
    let (found, _) = logprobs_and_entropies(&wrong, None, &batch).unwrap();
    let pairs = found
        .iter()
        .flatten()
        .zip(case.golden.base_logprobs.iter().flatten());
    pairs.map(|(f, e)| (f - e).abs()).fold(0.0, f32::max)
}

#[test]
fn wrong_models_fail_the_golden() {
    assert!(distance_with("qwen3", |_| {}) < 1e-4);
    let no_query_norm = distance_with("qwen3", |config| config.architecture = Architecture::Llama);
    assert!(no_query_norm > 0.1, "{no_query_norm}");
    let half_the_rope = distance_with("qwen3", |config| {
        let mut divisors = vec![1.0; config.head_dim / 2];
        divisors[config.head_dim / 4..].fill(1e30);
        config.rope.scaling = RopeScaling::Divisors { divisors };
    });
    assert!(half_the_rope > 1e-2, "{half_the_rope}");
    type Change = fn(&mut ModelConfig);
    let wrong: [(&str, Change); 5] = [
        ("smollm3", |config| config.pattern.unrotated.clear()),
        ("gemma3", |config| config.pattern.local.clear()),
        ("gemma3", |config| config.pattern.query_factor = None),
        ("gemma3", |config| config.rope.scaling = RopeScaling::None),
        ("phi3", |config| config.rope.theta = 1e4),
    ];
    for (name, change) in wrong {
        assert!(distance_with(name, |_| {}) < 1e-4);
        let distance = distance_with(name, change);
        assert!(distance > 1e-3, "{name}: {distance}");
    }
}

#[test]
fn every_gradient_of_every_loss_equals_peft() {
    for name in MODELS {
        let case = case(name);
        let golden = &case.golden;
        let policy = case.policy();
        let (loss, gradients) = updated(
            &policy,
            &case.groups,
            Execution::single_process(100_000),
            sft(case.tokens()),
        )
        .unwrap();
        close(loss, golden.sft_loss, 1e-5, name);
        close_gradients(
            &policy,
            &gradients,
            &case.reference("grad_sft.safetensors"),
            &format!("{name} sft"),
        );

        let (loss, gradients) = updated(
            &policy,
            &case.groups,
            Execution::single_process(100_000),
            grpo(golden),
        )
        .unwrap();
        close(loss, golden.grpo_loss, 1e-5, name);
        close_gradients(
            &policy,
            &gradients,
            &case.reference("grad_grpo.safetensors"),
            &format!("{name} grpo"),
        );

        let reward = RewardModel::load(&case.dir.join("reward"), case.base.clone()).unwrap();
        let batch = PackedBatch::new(&case.groups).unwrap();
        close_lists(&reward.infer(&batch).unwrap(), &golden.reward_logits, name);
        let (loss, gradients) = updated(
            &reward,
            &case.groups,
            Execution::single_process(100_000),
            bce(golden),
        )
        .unwrap();
        close(loss, golden.reward_loss, 1e-5, name);
        close_gradients(
            &reward,
            &gradients,
            &case.reference("grad_reward.safetensors"),
            &format!("{name} bce"),
        );
    }
}

#[test]
fn the_implicit_head_equals_its_formula_in_torch() {
    for name in MODELS {
        let case = case(name);
        let adapter = peft::load(&case.dir.join("policy"), &case.config)
            .unwrap()
            .adapter;
        let head = HeadSettings::Implicit {
            beta: case.golden.beta,
            reference_weight: 1.0,
        };
        let reward = RewardModel::new(case.base.clone(), adapter, head).unwrap();
        reward.set_bias(case.golden.head_bias).unwrap();
        let batch = PackedBatch::new(&case.groups).unwrap();
        close_lists(
            &reward.infer(&batch).unwrap(),
            &case.golden.implicit_logits,
            name,
        );
        let (loss, gradients) = updated(
            &reward,
            &case.groups,
            Execution::single_process(100_000),
            bce(&case.golden),
        )
        .unwrap();
        close(loss, case.golden.implicit_loss, 1e-5, name);
        let mut expected = case.reference("grad_implicit.safetensors");
        let bias = expected.remove("head.bias").unwrap();
        expected.insert("base_model.model.score.bias".to_owned(), bias);
        close_gradients(&reward, &gradients, &expected, &format!("{name} implicit"));
    }
}

#[test]
fn every_weight_has_torchs_gradient() {
    for name in MODELS {
        let case = case(name);
        let tensors: HashMap<String, Tensor> =
            case.base.named_tensors().unwrap().into_iter().collect();
        let (model, parameters) =
            Transformer::trainable(&case.config, |name, _| Ok(tensors[name].clone())).unwrap();
        let model = PolicyModel {
            transformer: Arc::new(model),
            trainable: Trainable::Whole(parameters),
        };
        let (loss, gradients) = updated(
            &model,
            &case.groups,
            Execution::single_process(100_000),
            sft(case.tokens()),
        )
        .unwrap();
        close(loss, case.golden.full_sft_loss, 1e-5, name);
        close_gradients(
            &model,
            &gradients,
            &case.reference("grad_full_sft.safetensors"),
            &format!("{name} full"),
        );
    }
}

/// Loss and gradient norm of ten steps on the SFT loss, with the learning rates of the reference.
fn ten_steps(case: &Case, policy: &PolicyModel) -> Vec<Iteration> {
    let parameters = policy.parameters();
    let mut optimiser = AdamW::new(&parameters).unwrap();
    let step = |expected: &Iteration| {
        let execution = Execution::single_process(100_000);
        let updated = updated(policy, &case.groups, execution, sft(case.tokens()));
        let (loss, gradients) = updated.unwrap();
        let settings = AdamWSettings {
            lr: expected.lr,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
        };
        let report = optimiser.step(&parameters, &gradients, &settings, 1.0);
        Iteration {
            loss,
            norm: report.unwrap().gradient_norm,
            lr: expected.lr,
        }
    };
    case.golden.trajectory.iter().map(step).collect()
}

#[test]
fn ten_adamw_steps_follow_torch() {
    for name in MODELS {
        let case = case(name);
        let policy = case.policy();
        let steps = ten_steps(&case, &policy);
        for (index, (own, expected)) in steps.iter().zip(&case.golden.trajectory).enumerate() {
            close(
                own.loss,
                expected.loss,
                1e-4,
                &format!("{name} loss {index}"),
            );
            close(
                own.norm,
                expected.norm,
                1e-3,
                &format!("{name} norm {index}"),
            );
        }
        let expected = case.reference("adamw_final.safetensors");
        for (parameter, var) in &policy.parameters() {
            close_tensors(
                var.as_tensor(),
                &expected[parameter],
                2e-3,
                &format!("{name} {parameter}"),
            );
        }
    }
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), v| (sum + v * v, count + 1.0));
    (sum / count).sqrt()
}

/// The distance of assay in bf16 from transformers in f32.
fn distance_in_bf16(name: &str) -> Distance {
    let case = case_in(name, Precision::Bf16);
    let policy = case.policy();
    let batch = PackedBatch::new(&case.groups).unwrap();
    let (logprobs, _) = policy.logprobs_and_entropies(&batch).unwrap();
    let pairs = logprobs.iter().zip(&case.golden.policy_logprobs);
    let pairs = pairs.flat_map(|(own, reference)| own.iter().zip(reference));
    let logprobs = rms(pairs.map(|(a, b)| f64::from(a - b)));
    let execution = Execution::single_process(100_000);
    let updated = updated(&policy, &case.groups, execution, sft(case.tokens()));
    let (_, gradients) = updated.unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let reference = case.reference("grad_sft.safetensors");
    let (mut own, mut expected) = (Vec::new(), Vec::new());
    for (name, var) in policy.parameters() {
        own.extend(flat(gradients.get(&var).unwrap()));
        expected.extend(flat(&reference[&name]));
    }
    let difference = own.iter().zip(&expected).map(|(a, b)| f64::from(a - b));
    let gradients = rms(difference) / rms(expected.iter().map(|&g| f64::from(g)));
    let steps = ten_steps(&case, &policy);
    let steps = steps.iter().zip(&case.golden.trajectory);
    Distance {
        logprobs,
        gradients,
        losses: rms(steps.map(|(own, reference)| own.loss - reference.loss)),
    }
}

/// The losses of ten steps of one model depend on a few roundings, so they are compared over all
/// models.
#[test]
fn bf16_is_no_further_than_transformers() {
    let text = std::fs::read(folder().join("bf16.json")).unwrap();
    let theirs: HashMap<String, Distance> = serde_json::from_slice(&text).unwrap();
    let (mut own_losses, mut their_losses) = (Vec::new(), Vec::new());
    for name in MODELS {
        let (own, theirs) = (distance_in_bf16(name), &theirs[name]);
        for (quantity, own, theirs) in [
            ("log-probabilities", own.logprobs, theirs.logprobs),
            ("gradients", own.gradients, theirs.gradients),
        ] {
            let said = format!("{name}, {quantity}: {own:.2e} against {theirs:.2e}");
            assert!(own > 0.0 && own <= theirs, "{said}");
        }
        own_losses.push(own.losses);
        their_losses.push(theirs.losses);
    }
    let (own, theirs) = (rms(own_losses.into_iter()), rms(their_losses.into_iter()));
    assert!(
        own > 0.0 && own <= theirs,
        "losses: {own:.2e} against {theirs:.2e}"
    );
}

/// Softplus of the difference to the mean of the sums of the group's other completions, so the loss
/// depends on whole groups.
fn compared(groups: &[Group], scalars: &[Vec<f32>]) -> (f64, TokenScalars) {
    let (mut loss, mut gradients) = (0.0, TokenScalars::new());
    let mut rest = scalars;
    for group in groups {
        let (own, later) = rest.split_at(group.completions.len());
        rest = later;
        let sums: Vec<f64> = own
            .iter()
            .map(|row| row.iter().map(|&x| f64::from(x)).sum())
            .collect();
        let mean = sums.iter().sum::<f64>() / sums.len() as f64;
        for (row, sum) in own.iter().zip(&sums) {
            loss += 0.5 * (sum - mean).powi(2);
            gradients.push(vec![(sum - mean) as f32; row.len()]);
        }
    }
    (loss, gradients)
}

#[test]
fn any_token_budget_gives_the_same_update() {
    let case = case("llama");
    let policy = case.policy();
    let pairs = |scalars: &[Vec<f32>]| compared(&case.groups, scalars);
    let tokens = case.tokens();
    let sft_loss = move |scalars: &[Vec<f32>]| sft(tokens)(scalars).unwrap();
    type Loss<'l> = &'l dyn Fn(&[Vec<f32>]) -> (f64, TokenScalars);
    let losses: [(Reach, Loss<'_>); 3] = [
        (Reach::Completion, &sft_loss),
        (Reach::Group, &sft_loss),
        (Reach::Group, &pairs),
    ];
    for (reach, loss) in losses {
        let run = |budget| {
            let passes = UpdatePasses {
                execution: Execution::single_process(budget),
                reach,
            };
            let value = |scalars: &[Vec<f32>], _: Range<usize>| {
                let (report, gradients) = loss(scalars);
                Ok(LossGradients { report, gradients })
            };
            update(&policy, &case.groups, passes, value).unwrap()
        };
        let (whole_loss, whole) = run(100_000);
        for budget in [1, 20, 30, 60] {
            let (loss, parts) = run(budget);
            close(loss, whole_loss, 1e-6, "loss");
            for (name, var) in policy.parameters() {
                close_tensors(
                    parts.get(&var).unwrap(),
                    whole.get(&var).unwrap(),
                    1e-5,
                    &format!("{reach:?} {budget} {name}"),
                );
            }
        }
    }
    // The completions that a loss compares cannot be split into several micro-batches.
    let passes = UpdatePasses {
        execution: Execution::single_process(20),
        reach: Reach::Completion,
    };
    let cut = update(&policy, &case.groups, passes, |scalars, _| {
        let (report, gradients) = pairs(scalars);
        Ok(LossGradients { report, gradients })
    });
    assert!(
        matches!(cut, Err(TrainError::LossReach { .. })),
        "{:?}",
        cut.err()
    );
}

#[test]
fn kept_activations_give_the_bits_of_recomputed_ones() {
    for name in ["llama", "qwen2"] {
        let case = case(name);
        let policy = case.policy();
        let rows = case.groups.iter().map(Group::rows).sum();
        let layer = policy.transformer.layer_bytes(rows);
        let passes = |kept_bytes| Execution {
            budget: PassBudget {
                tokens: 100_000,
                kept_bytes,
            },
            ..Execution::single_process(100_000)
        };
        let bits = |kept_bytes| {
            let updated = updated(
                &policy,
                &case.groups,
                passes(kept_bytes),
                sft(case.tokens()),
            );
            let (loss, gradients) = updated.unwrap();
            let of = |var| gradients.get(var).unwrap().flatten_all().unwrap();
            let parameters = policy.parameters();
            let values: Vec<Vec<f32>> = parameters
                .iter()
                .map(|(_, var)| of(var).to_vec1().unwrap())
                .collect();
            (loss, values)
        };
        let recomputed = bits(0);
        for kept_bytes in [layer, 2 * layer, u64::MAX] {
            assert!(bits(kept_bytes) == recomputed, "{name}, {kept_bytes} bytes");
        }
    }
}

#[test]
fn packed_and_one_at_a_time_agree() {
    let case = case("qwen2");
    let batch = PackedBatch::new(&case.groups).unwrap();
    let (packed, _) = case.policy().logprobs_and_entropies(&batch).unwrap();
    let mut single = Vec::new();
    for group in &case.groups {
        for completion in &group.completions {
            let alone = Group {
                prompt: group.prompt.clone(),
                completions: vec![completion.clone()],
            };
            let batch = PackedBatch::new(&[alone]).unwrap();
            single.extend(case.policy().logprobs_and_entropies(&batch).unwrap().0);
        }
    }
    assert_eq!(
        packed, single,
        "bits differ between packed and one at a time"
    );
}

#[test]
fn fault_21_merged_and_unmerged_adapters_agree() {
    for name in MODELS {
        let case = case(name);
        let policy = case.policy();
        assert_eq!(policy.adapter().unwrap().settings.scale(), 1.5);
        let batch = PackedBatch::new(&case.groups).unwrap();
        let merged = case.base.merged(policy.adapter().unwrap()).unwrap();
        let (logprobs, _) = logprobs_and_entropies(&merged, None, &batch).unwrap();
        close_lists(&logprobs, &case.golden.policy_logprobs, name);
    }
}

fn grpo(golden: &Golden) -> impl Fn(&[Vec<f32>]) -> Result<(f64, TokenScalars), TrainError> + '_ {
    move |logprobs| {
        let traces = logprobs.len() as f64;
        let mut loss = 0.0;
        let mut grads = Vec::new();
        for ((row, old), extra) in logprobs.iter().zip(&golden.old_logprobs).zip(&golden.extra) {
            let weight = 1.0 / (traces * row.len() as f64);
            let token = |((&new, &old), &advantage): ((&f32, &f32), &f32)| {
                let (ratio, advantage) = (f64::from(new - old).exp(), f64::from(advantage));
                let clipped = ratio.clamp(0.8, 1.2) * advantage;
                loss -= weight * (ratio * advantage).min(clipped);
                let flows = ratio * advantage <= clipped;
                if flows {
                    (-weight * ratio * advantage) as f32
                } else {
                    0.0
                }
            };
            grads.push(
                row.iter()
                    .zip(old)
                    .zip(&extra.advantages)
                    .map(token)
                    .collect(),
            );
        }
        Ok((loss, grads))
    }
}
