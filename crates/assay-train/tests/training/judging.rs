//! The judge as a reward and as labels, and samples from a file.

use assay_critic::judge::{Judge, JudgedTraces};
use assay_tasks::perturbations::Hints;
use assay_tasks::trace::ScoredTrace;
use assay_train::settings::{EngineSettings, RewardSource};

use super::*;

/// A tiny model whose vocabulary includes English, with positions for a question and its hint.
fn reader() -> LanguageModel {
    let spelled: Vec<String> = ('a'..='z')
        .chain('A'..='Z')
        .chain("\n,.:".chars())
        .map(String::from)
        .collect();
    let known = assay_tasks::arithmetic::vocabulary();
    let extra: Vec<&str> = spelled
        .iter()
        .map(String::as_str)
        .filter(|text| !known.contains(text))
        .collect();
    tiny_model(&extra, 512)
}

fn judged_settings() -> Settings {
    let mut settings = settings();
    settings.reward.perturbations.alphabet = None;
    settings.reward.schedule.warmup_iterations = 0;
    settings.policy.start = PolicyStart::Base;
    settings.policy.objective.kl_weight = 0.0;
    settings.run.eval_every = 0;
    settings.run.iterations = 2;
    settings
}

fn run_on(settings: &Settings, model: &LanguageModel, dir: &Path) -> Result<(), TrainError> {
    let train_problems = problems(8);
    let inputs = TrainInputs {
        kind: TrainerKind::Airl,
        settings,
        model,
        reward_backbone: model.transformer.clone(),
        train: &train_problems,
        validation: &[],
        ranks: &SingleProcess,
    };
    train(&inputs, dir, RunMode::Fresh, &mut Silent).map(|_| ())
}

#[test]
fn a_judged_policy_learns_without_discriminator() {
    let mut settings = judged_settings();
    settings.reward.source = RewardSource::Privileged;
    let dir = tempfile::tempdir().unwrap();
    run_on(&settings, &reader(), dir.path()).unwrap();
    let metrics = read(&dir.path().join("metrics.jsonl")).unwrap();
    let last = &metrics.last().unwrap().values;
    assert!(last["rollout/reward"] != 0.0 && last["policy/gradient_norm"] > 0.0);
    assert!(!last.contains_key("reward/loss"), "nothing else is trained");
    let newest = newest_checkpoint(dir.path()).unwrap();
    assert!(!newest.join("reward").exists());
}

#[test]
fn the_policy_teaches_itself() {
    let mut settings = judged_settings();
    settings.reward.source = RewardSource::SelfDistilled;
    let dir = tempfile::tempdir().unwrap();
    run_on(&settings, &reader(), dir.path()).unwrap();
    let metrics = read(&dir.path().join("metrics.jsonl")).unwrap();
    let last = &metrics.last().unwrap().values;
    assert!(last["rollout/reward"] != 0.0 && last["policy/gradient_norm"] > 0.0);
    settings.policy.trained = assay_train::settings::TrainedParameters::Whole;
    let error = settings.validate().unwrap_err().to_string();
    assert!(error.contains("policy.trained"), "{error}");
}

#[test]
fn the_judge_joins_or_labels_the_discriminator() {
    let model = reader();
    let losses = |source, weight| {
        let mut settings = judged_settings();
        settings.reward.source = source;
        settings.reward.loss.judge.weight = weight;
        let dir = tempfile::tempdir().unwrap();
        run_on(&settings, &model, dir.path()).unwrap();
        let metrics = read(&dir.path().join("metrics.jsonl")).unwrap();
        let last = metrics.last().unwrap().values.clone();
        (
            last.get("reward/loss_judge").copied(),
            last["rollout/reward"],
        )
    };
    let plain = losses(RewardSource::Learned, 0.0);
    let labelled = losses(RewardSource::Learned, 1.0);
    let mixed = losses(RewardSource::Mixed, 0.0);
    assert_eq!(plain.0, None);
    assert!(labelled.0 > Some(0.0));
    assert!(mixed.1 != plain.1);
}

#[test]
fn the_judge_reads_each_hint_alone() {
    let model = reader();
    let prompt = PromptSettings {
        style: PromptStyle::Plain,
        ..PromptSettings::default()
    };
    let judge = Judge {
        model: &model,
        transformer: &model.transformer,
        adapter: None,
        prompt: &prompt,
    };
    let ids = |text: &str| model.tokenizer.encode(text).unwrap();
    let judged = JudgedTraces {
        question: "3+4",
        hints: Hints {
            right: "3+4=7".to_owned(),
            wrong: vec!["3+4=8".to_owned(), "3+4=9".to_owned()],
        },
        completions: vec![ids("7"), ids("3+4=8")],
    };
    let found = judge.rewards(&judged, 4096).unwrap();
    let probability = |hint: &str, completion: &[u32]| -> Vec<f32> {
        let group = Group {
            prompt: judge.prompt("3+4", hint).unwrap(),
            completions: vec![completion.to_vec()],
        };
        let batch = PackedBatch::new(&[group]).unwrap();
        let logprobs = logprobs_and_entropies(&model.transformer, None, &batch);
        logprobs.unwrap().0[0].iter().map(|l| l.exp()).collect()
    };
    for (completion, rewards) in judged.completions.iter().zip(&found) {
        let [right, first, second] =
            ["3+4=7", "3+4=8", "3+4=9"].map(|hint| probability(hint, completion));
        for (token, reward) in rewards.iter().enumerate() {
            let expected = right[token] - (first[token] + second[token]) / 2.0;
            assert!((reward - expected).abs() < 1e-6, "{reward} {expected}");
        }
    }
    assert_eq!(
        judge.rewards(&judged, 40).unwrap(),
        found,
        "cut in small batches"
    );
    let long = JudgedTraces {
        completions: vec![vec![1; 500]],
        ..judged
    };
    let error = judge.rewards(&long, 4096).unwrap_err().to_string();
    assert!(error.contains("3+4"), "{error}");
}

#[test]
fn stored_samples_teach_the_discriminator_only() {
    let model = reader();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("samples.jsonl");
    let problems = problems(8);
    let trace = |problem: &Problem, text: &str| ScoredTrace {
        id: problem.id.clone(),
        question: problem.question.clone(),
        generator: "old".to_owned(),
        text: text.to_owned(),
        ..ScoredTrace::default()
    };
    let lines = problems
        .iter()
        .flat_map(|p| [trace(p, "1+1=2"), trace(p, "2+2=4")])
        .map(|trace| serde_json::to_string(&trace).unwrap() + "\n");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let mut settings = judged_settings();
    settings.sampling.engine = EngineSettings::File { path: file.clone() };
    let error = run_on(&settings, &model, &dir.path().join("refused")).unwrap_err();
    assert!(
        error.to_string().contains("sampling.engine.kind"),
        "{error}"
    );
    settings.reward.schedule.warmup_iterations = settings.run.iterations;
    run_on(&settings, &model, &dir.path().join("run")).unwrap();
    let metrics = read(&dir.path().join("run/metrics.jsonl")).unwrap();
    let last = &metrics.last().unwrap().values;
    assert_eq!(last["rollout/length"], 6.0, "five characters and the end");
    assert!(last["reward/accuracy_policy"] >= 0.0 && !last.contains_key("policy/loss"));
    std::fs::write(
        &file,
        "{\"id\": 1, \"question\": \"another\", \"text\": \"7\"}\n",
    )
    .unwrap();
    let error = run_on(&settings, &model, &dir.path().join("other")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no trace of any training question"),
        "{error}"
    );
}
