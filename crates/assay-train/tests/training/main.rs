//! Complete runs of the trainers on a tiny model: resuming, determinism, and agreement of sampled
//! and recomputed log-probabilities.

#![allow(clippy::unwrap_used, clippy::panic)] // tests stop where something is not as expected

mod cut;
mod early_stop;
mod faults;
mod judging;
mod memory;
mod rollout_server;
mod sampling;
mod trees;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use assay_critic::HeadSettings;
use assay_critic::encode::{Encoder, TokenLimits};
use assay_critic::player::Player;
use assay_critic::policy_model::{PolicyModel, Trainable, logprobs_and_entropies};
use assay_critic::reward_model::RewardModel;
use assay_lm::adapter::{Adapter, LoraSettings};
use assay_lm::draw::DrawSettings;
use assay_lm::packed::{Group, PackedBatch};
use assay_lm::sampling::SamplingLimits;
use assay_lm::transformer::Transformer;
use assay_lm::{DeviceName, LanguageModel, Placement, PlacementSettings, Precision};
use assay_ops::has_kernels;
use assay_tasks::arithmetic::{ArithmeticSettings, Split, alphabet, generate};
use assay_tasks::problem::Problem;
use assay_tasks::prompts::{PromptSettings, PromptStyle};
use assay_tasks::random::StreamKey;
use assay_testkit::tiny_model;
use assay_train::execution::Execution;
use assay_train::metrics::{IterationMetrics, read};
use assay_train::ranks::SingleProcess;
use assay_train::reward::loss::{DiscriminatorLossSettings, LabelledTrace, discriminator_loss};
use assay_train::reward::schedule::PolicyNegatives;
use assay_train::run::Silent;
use assay_train::run::rollout::{RolloutPlan, rollout};
use assay_train::run::{RunMode, TrainInputs, TrainerKind, newest_checkpoint, train};
use assay_train::settings::{BranchSource, PlayerLora, PolicyStart, Settings};
use assay_train::trace::{PromptGroup, TokenSpans, Trace, packed, traces};
use assay_train::update::{LossGradients, Reach, UpdatePasses, update};
use assay_train::{TrainError, checkpoint};

/// f32 on the first GPU if the tests are built for one, else on the CPU.
fn place() -> Placement {
    let device = match cfg!(feature = "cuda") {
        true => DeviceName::Cuda(0),
        false => DeviceName::Cpu,
    };
    let dtype = Precision::F32;
    PlacementSettings { device, dtype }.resolve().unwrap()
}

fn model() -> LanguageModel {
    let tiny = tiny_model(&[], 128);
    let transformer = Arc::unwrap_or_clone(tiny.transformer);
    LanguageModel {
        transformer: Arc::new(transformer.placed(&place()).unwrap()),
        ..tiny
    }
}

fn problems(count: usize) -> Vec<Problem> {
    generate(
        &ArithmeticSettings {
            problems: count,
            ..ArithmeticSettings::default()
        },
        Split::Train,
        5,
    )
    .unwrap()
}

fn settings() -> Settings {
    let mut settings = Settings {
        seed: 3,
        ..Settings::default()
    };
    settings.prompt = PromptSettings {
        style: PromptStyle::Plain,
        ..PromptSettings::default()
    };
    settings.lora.policy = PlayerLora::with_rank(4);
    settings.lora.reward = PlayerLora::with_rank(4);
    settings.sampling.samples = 3;
    settings.sampling.max_completion_tokens = 48;
    settings.sampling.max_prompt_tokens = 40;
    settings.sft.epochs = 1;
    settings.sft.demonstrations_per_update = 4;
    settings.optimiser.sft.learning_rate = 1e-2;
    settings.reward.head = HeadSettings::Hybrid {
        beta: 1.0,
        reference_weight: 1.0,
    };
    settings.reward.perturbations.alphabet = Some(alphabet(&ArithmeticSettings::default()));
    settings.reward.schedule.warmup_iterations = 1;
    settings.reward.schedule.policy_negatives = PolicyNegatives::Constant { weight: 0.5 };
    settings.reward.schedule.replay.share = 0.5;
    settings.reward.schedule.updates_per_iteration = 2;
    settings.policy.start = PolicyStart::Sft;
    settings.optimiser.policy.learning_rate = 1e-3;
    settings.policy.updates_per_iteration = 2;
    settings.policy.objective.kl_weight = 0.01;
    settings.run.iterations = 4;
    settings.run.prompts_per_iteration = 2;
    settings.run.checkpoint_every = 1;
    settings.run.keep_last = 0;
    settings.run.eval_every = 3;
    settings.run.eval_problems = 2;
    settings.run.eval_samples = 2;
    settings
}

fn run(
    settings: &Settings,
    kind: TrainerKind,
    dir: &Path,
    mode: RunMode,
) -> Result<(), TrainError> {
    let (model, train_problems) = (model(), problems(8));
    let inputs = TrainInputs {
        kind,
        settings,
        model: &model,
        reward_backbone: model.transformer.clone(),
        train: &train_problems,
        validation: &train_problems[..2],
        ranks: &SingleProcess,
    };
    train(&inputs, dir, mode, &mut Silent).map(|_| ())
}

/// The results of a run: metrics without their timing, and every file of its last checkpoint.
fn result(dir: &Path) -> (Vec<IterationMetrics>, BTreeMap<String, Vec<u8>>) {
    let mut metrics = read(&dir.join("metrics.jsonl")).unwrap();
    for iteration in &mut metrics {
        iteration.values.remove("seconds");
    }
    let newest = newest_checkpoint(dir).unwrap();
    let mut files = BTreeMap::new();
    for part in ["policy", "reward", "."] {
        let Ok(entries) = std::fs::read_dir(newest.join(part)) else {
            continue;
        };
        for entry in entries
            .map(Result::unwrap)
            .filter(|entry| entry.path().is_file())
        {
            let name = format!("{part}/{}", entry.file_name().to_string_lossy());
            files.insert(name, canonical(&entry.path()));
        }
    }
    (metrics, files)
}

/// A file's bytes; safetensors by tensor, since the order of the header is not fixed.
fn canonical(path: &Path) -> Vec<u8> {
    if path.extension().is_none_or(|e| e != "safetensors") {
        return std::fs::read(path).unwrap();
    }
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let sorted: BTreeMap<_, _> = tensors.into_iter().collect();
    format!(
        "{:?}",
        sorted.iter().map(|(k, t)| (k, bits(t))).collect::<Vec<_>>()
    )
    .into_bytes()
}

fn bits(tensor: &candle_core::Tensor) -> Vec<u32> {
    let flat = tensor.flatten_all().unwrap();
    flat.to_dtype(candle_core::DType::F32)
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .map(|x| x.to_bits())
        .collect()
}

/// Values of three iterations of the game after the warm start on a CPU; other devices may round
/// differently. `ASSAY_RECORD=1` rewrites the file.
#[test]
fn three_iterations_have_the_recorded_numbers() {
    let mut settings = settings();
    settings.run.iterations = 3;
    let dir = tempfile::tempdir().unwrap();
    run(&settings, TrainerKind::Airl, dir.path(), RunMode::Fresh).unwrap();
    let found: Vec<BTreeMap<String, f64>> =
        result(dir.path()).0.into_iter().map(|m| m.values).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/three_iterations.json");
    if std::env::var_os("ASSAY_RECORD").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let expected: Vec<BTreeMap<String, f64>> = serde_json::from_str(&text).unwrap();
    assert_eq!(found.len(), expected.len());
    // On another device a logit that is almost 0 may have the other sign: one of 20 or more.
    let shares = if has_kernels(&place().device) {
        0.05
    } else {
        1e-3
    };
    let mut wrong = Vec::new();
    for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let names = |values: &BTreeMap<String, f64>| values.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(found), names(expected));
        for (name, &value) in expected {
            let off = (found[name] - value).abs() / value.abs().max(1.0);
            let most = if name.contains("accuracy_") {
                shares
            } else {
                1e-3
            };
            if off >= most {
                wrong.push(format!(
                    "iteration {number}: {name} is {}, not {value}",
                    found[name]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn fault_18_a_resumed_run_is_bitwise_equal() {
    let mut settings = settings();
    settings.reward.branches.per_demonstration = 1;
    let whole = tempfile::tempdir().unwrap();
    run(&settings, TrainerKind::Airl, whole.path(), RunMode::Fresh).unwrap();
    let expected = result(whole.path());
    assert_eq!(
        expected.0.len(),
        6,
        "two supervised iterations and four of the game"
    );
    for cut in 1..6 {
        let resumed = tempfile::tempdir().unwrap();
        copy(whole.path(), resumed.path());
        for (number, path) in checkpoint::list(resumed.path()).unwrap() {
            if number > cut {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
        run(
            &settings,
            TrainerKind::Airl,
            resumed.path(),
            RunMode::Resume,
        )
        .unwrap();
        assert_eq!(
            result(resumed.path()),
            expected,
            "resumed after iteration {cut}"
        );
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let results: Vec<_> = [1, 2, 3]
        .map(|threads| {
            let dir = tempfile::tempdir().unwrap();
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let mut settings = settings();
            settings.reward.branches.per_demonstration = 1;
            pool.install(|| run(&settings, TrainerKind::Airl, dir.path(), RunMode::Fresh))
                .unwrap();
            result(dir.path())
        })
        .into();
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

/// A run of the game whose negatives are the wrong traces of a file with one record per problem.
fn run_with_wrong_traces(record: impl Fn(&Problem) -> String) -> Result<(), TrainError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.jsonl");
    let records: Vec<String> = problems(8).iter().map(record).collect();
    std::fs::write(&path, records.join("\n")).unwrap();
    let mut settings = settings();
    settings.reward.perturbations.per_demonstration = 0;
    settings.reward.branches.per_demonstration = 2;
    settings.reward.branches.source = BranchSource::File { path };
    settings.policy.start = PolicyStart::Base;
    settings.run.iterations = 2;
    let out = dir.path().join("run");
    run(&settings, TrainerKind::Airl, &out, RunMode::Fresh)?;
    for iteration in read(&out.join("metrics.jsonl")).unwrap() {
        let accuracy = iteration.values.get("reward/accuracy_perturbed");
        assert!(accuracy.is_some(), "the traces are negatives");
    }
    Ok(())
}

#[test]
fn a_file_of_wrong_traces_gives_negatives() {
    run_with_wrong_traces(|problem| {
        format!(
            r##"{{"id": "{}", "text": "so 1+1=2\n#### 2"}}"##,
            problem.id
        )
    })
    .unwrap();
}

#[test]
fn unusable_wrong_traces_are_named_and_counted() {
    let said = |record: &str| {
        let error = run_with_wrong_traces(|_| record.to_owned()).unwrap_err();
        error.to_string()
    };
    let unknown = said(r#"{"id": "nobody", "text": "1+1=2"}"#);
    assert!(
        unknown.contains("`reward.branches.source.path`") && unknown.contains("8 of no demon"),
        "{unknown}"
    );
    let malformed = said(r#"{"id": 1}"#);
    assert!(
        malformed.contains("wrong.jsonl:1: column `text` is missing"),
        "{malformed}"
    );
}

#[test]
fn a_used_directory_and_other_settings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.run.iterations = 1;
    settings.run.eval_every = 0;
    run(&settings, TrainerKind::Grpo, dir.path(), RunMode::Fresh).unwrap();
    let error = run(&settings, TrainerKind::Grpo, dir.path(), RunMode::Fresh).unwrap_err();
    assert!(matches!(error, TrainError::RunExists { .. }), "{error}");
    settings.optimiser.policy.learning_rate = 0.5;
    let error = run(&settings, TrainerKind::Grpo, dir.path(), RunMode::Resume).unwrap_err();
    assert!(error.to_string().contains("learning_rate"), "{error}");
}

#[test]
fn fault_06_long_texts_are_left_out_whole() {
    let (model, problems) = (model(), problems(12));
    let prompt = PromptSettings {
        style: PromptStyle::Plain,
        ..PromptSettings::default()
    };
    let encoded = |prompt_limit, completion| {
        let limits = TokenLimits {
            prompt: prompt_limit,
            completion,
        };
        Encoder::new(&model, &prompt, limits).demonstrations(&problems)
    };
    let (all, _) = encoded(100, 100).unwrap();
    let longest = all.iter().map(|d| d.completion.ids.len()).max().unwrap();
    let longest_prompt = all.iter().map(|d| d.prompt.len()).max().unwrap();
    let (by_completion, report) = encoded(100, longest - 1).unwrap();
    assert!(report.too_long >= 1 && report.prompts_too_long == 0);
    assert_eq!(by_completion.len() + report.too_long, 12);
    let (by_prompt, report) = encoded(longest_prompt - 1, 100).unwrap();
    assert!(report.prompts_too_long >= 1 && report.too_long == 0);
    assert_eq!(by_prompt.len() + report.prompts_too_long, 12);
    for kept in by_completion.iter().chain(&by_prompt) {
        let mut whole = all.iter();
        let whole = whole.find(|d| d.problem.id == kept.problem.id).unwrap();
        assert_eq!(kept.completion, whole.completion, "a completion was cut");
        assert_eq!(kept.prompt, whole.prompt, "a prompt was cut");
        let answer = kept.problem.answer.as_deref().unwrap();
        assert!(kept.completion.text.ends_with(&format!("#### {answer}")));
    }
    let error = encoded(100, 3).unwrap_err().to_string();
    assert!(error.contains("12 are longer than 3 tokens"), "{error}");
    let error = encoded(3, 100).unwrap_err().to_string();
    assert!(error.contains("12 have a prompt longer than 3"), "{error}");
}

#[test]
fn a_long_validation_prompt_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, model, train_problems) = (settings(), model(), problems(8));
    let mut long = train_problems[0].clone();
    long.question = long.question.repeat(20);
    let inputs = TrainInputs {
        kind: TrainerKind::Sft,
        settings: &settings,
        model: &model,
        reward_backbone: model.transformer.clone(),
        train: &train_problems,
        validation: &[long],
        ranks: &SingleProcess,
    };
    let error = train(&inputs, dir.path(), RunMode::Fresh, &mut Silent)
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("40 fit beside"), "{error}");
}

fn sampled(policy: &PolicyModel, model: &LanguageModel, max_sequences: usize) -> Vec<PromptGroup> {
    let prompt = PromptSettings {
        style: PromptStyle::Plain,
        ..PromptSettings::default()
    };
    let encoder = Encoder::new(
        model,
        &prompt,
        TokenLimits {
            prompt: 64,
            completion: 64,
        },
    );
    let problems = problems(3);
    let mut groups: Vec<_> = problems
        .into_iter()
        .enumerate()
        .map(|(index, problem)| {
            let prompt = encoder.prompt(&problem.question).unwrap();
            PromptGroup::new(index, problem, prompt)
        })
        .collect();
    let limits = SamplingLimits {
        max_new_tokens: 24,
        stop_tokens: vec![model.end_of_turn()],
        max_sequences,
    };
    let plan = RolloutPlan {
        sampling: &DrawSettings::default(),
        limits: &limits,
        samples: 5,
        key: StreamKey::Rollout,
        stream_path: &[9],
        seed: 2,
    };
    rollout(policy, &encoder, &mut groups, &plan, |_| ()).unwrap();
    groups
}

#[test]
fn cached_decoding_equals_the_packed_pass() {
    let model = model();
    let policy = PolicyModel {
        transformer: model.transformer.clone(),
        trainable: Trainable::Whole(Vec::new()),
    };
    let wide = sampled(&policy, &model, 64);
    let lengths: Vec<usize> = traces(&wide).map(Trace::len).collect();
    assert!(
        lengths.iter().any(|&n| n < 24) && lengths.contains(&24),
        "one ends early, one at the limit: {lengths:?}"
    );
    let batch = PackedBatch::new(&packed(&wide)).unwrap();
    let (recomputed, _) = logprobs_and_entropies(&policy.transformer, None, &batch).unwrap();
    for (sample, recomputed) in traces(&wide).zip(&recomputed) {
        let record = sample.sampling.as_deref().unwrap();
        for (a, b) in record.policy_logprobs.iter().zip(recomputed) {
            assert!((a - b).abs() < 1e-5, "sampler {a}, packed pass {b}");
        }
        assert_eq!(
            record.sampling_logprobs, record.policy_logprobs,
            "temperature 1 samples the policy"
        );
    }
    for max_sequences in [1, 4] {
        let narrow = sampled(&policy, &model, max_sequences);
        for (a, b) in traces(&wide).zip(traces(&narrow)) {
            assert_eq!(
                a.completion.ids, b.completion.ids,
                "{max_sequences} sequences at a time"
            );
            assert_eq!(a.sampling, b.sampling);
        }
    }
}

/// Completions of one token and empty ones next to longer ones. An update of only empty completions
/// is an error.
#[test]
fn updates_of_tiny_and_empty_completions() {
    let model = model();
    let adapter = Adapter::new(model.transformer.config(), &adapter_settings(), 4).unwrap();
    let reward = RewardModel::new(
        model.transformer.clone(),
        adapter,
        HeadSettings::Hybrid {
            beta: 1.0,
            reference_weight: 0.3,
        },
    )
    .unwrap();
    reward.set_bias(0.5).unwrap();
    let group = |lengths: &[usize]| Group {
        prompt: vec![3, 4, 5],
        completions: lengths.iter().map(|&n| vec![6; n]).collect(),
    };
    let sum = |scalars: &[Vec<f32>], _: Range<usize>| {
        let ones = scalars.iter().map(|row| vec![1.0; row.len()]).collect();
        Ok(LossGradients {
            report: scalars.to_vec(),
            gradients: ones,
        })
    };
    let passes = |budget| UpdatePasses {
        execution: Execution::single_process(budget),
        reach: Reach::Completion,
    };
    for lengths in [&[1][..], &[1, 1], &[0, 1], &[1, 0, 3]] {
        let groups = [group(lengths), group(lengths)];
        let (whole, _) = update(&reward, &groups, passes(1000), sum).unwrap();
        let (cut, _) = update(&reward, &groups, passes(1), sum).unwrap();
        assert_eq!(whole, cut, "{lengths:?}");
        let found: Vec<usize> = whole[..lengths.len()].iter().map(Vec::len).collect();
        assert_eq!(found, lengths);
        assert!(whole.iter().flatten().all(|z| z.is_finite()));
    }
    for groups in [vec![], vec![group(&[])], vec![group(&[0, 0])]] {
        let error = update(&reward, &groups, passes(1000), sum).err().unwrap();
        assert!(matches!(error, TrainError::EmptyUpdate), "{error}");
    }
}

fn adapter_settings() -> assay_lm::adapter::LoraSettings {
    let targets = serde_json::from_value(serde_json::json!(["q_proj", "down_proj"])).unwrap();
    assay_lm::adapter::LoraSettings {
        rank: 2,
        alpha: 4.0,
        targets,
    }
}

/// Logits at the limits of f32: every loss term and its gradients stay finite.
#[test]
fn extreme_logits_give_finite_losses() {
    use assay_train::trace::TraceRole::{Expert, Perturbed, Policy};
    let mut settings = DiscriminatorLossSettings::default();
    settings.bce.weight = 1.0;
    settings.relativistic.weight = 1.0;
    settings.contrast.weight = 1.0;
    for z in [0.0, 1e-38, 80.0, 1e4, 1e18, f32::MAX / 4.0] {
        for sign in [1.0, -1.0] {
            let rows = [[sign * z, z], [-sign * z, -z], [z, sign * z]];
            let positions = [0, 1];
            let trace = |role, logits| LabelledTrace {
                group: 0,
                role,
                logits,
                positions: &positions,
                spans: TokenSpans {
                    corrupted_from: (role == Perturbed).then_some(1),
                    corrupted_until: None,
                    diverges_at: (role == Policy).then_some(0),
                },
                weight: 1.0,
                judged: &[],
            };
            let traces = [
                trace(Expert, &rows[0][..]),
                trace(Policy, &rows[1][..]),
                trace(Perturbed, &rows[2][..]),
            ];
            let output = discriminator_loss(&traces, &settings).unwrap();
            assert!(
                output.loss.is_finite() && output.loss >= 0.0,
                "{z} {sign}: {}",
                output.loss
            );
            assert!(
                output.grads.iter().flatten().all(|g| g.is_finite()),
                "{z} {sign}"
            );
        }
    }
}
