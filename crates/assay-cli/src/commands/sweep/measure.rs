//! The measurements of a sweep's run: new samples of the policy, their correctness and, if there is
//! a reward, their scores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use assay_critic::encode::{Encoder, TokenLimits};
use assay_critic::{Critic, ScoringPolicy};
use assay_evals::localisation::{Predictor, localise};
use assay_evals::statistics::BootstrapSettings;
use assay_evals::{EvalSettings, Evaluation, Summary, evaluate};
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::datasets::{DatasetSettings, Required, load_problems};
use assay_tasks::perturbations::Registry;
use assay_tasks::problem::Problem;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::{read_traces, write_traces};
use assay_train::run::evaluate::{EvaluationPlan, sample_problems};
use assay_train::settings::Settings;

use super::newest;
use crate::open;

/// The policy's own accuracy.
pub(super) const PASS_AT_1: &str = "policy.policy.pass_at_k.1";
const GENERATOR: &str = "policy";

/// The results of one run.
pub(super) struct Measured {
    evaluation: Evaluation,
    summary: Summary,
}

impl Measured {
    /// The values of an entry by problem. An entry without values per problem has one value under
    /// an empty name.
    pub(super) fn values(&self, entry: &str) -> Option<BTreeMap<String, f64>> {
        let name = match entry.strip_suffix("at_N") {
            Some(selector) => format!("{selector}at_{}", self.largest_n()?),
            None => entry.to_owned(),
        };
        if let Some(values) = self.evaluation.per_problem.get(&name) {
            return Some(values.clone());
        }
        let estimate = self.summary.get(&name)?;
        Some(BTreeMap::from([(String::new(), estimate.value)]))
    }

    fn largest_n(&self) -> Option<usize> {
        let entries = self.summary.iter();
        let counts =
            entries.filter_map(|(name, _)| name.strip_prefix("select.random.at_")?.parse().ok());
        counts.max()
    }
}

/// Samples `run.eval_samples` completions of up to `run.eval_problems` test problems (validation
/// problems where no test file is named) from the last checkpoint, scores them with its reward, and
/// writes `traces.jsonl` and `summary.json`.
pub(super) fn measure(dir: &Path, settings: &Settings) -> Result<Measured> {
    let problems = problems(settings)?;
    let checkpoint = newest(dir)?;
    let mut traces = sample(&checkpoint, settings, &problems)?;
    let localised = score(&checkpoint, settings, &problems, &mut traces)?;
    write_traces(&dir.join("traces.jsonl"), &traces)?;
    let evaluation = evaluation_of(traces, settings)?;
    let mut summary = evaluation.summary.clone();
    summary.extend(localised);
    summary.write(&dir.join("summary.json"))?;
    Ok(Measured {
        evaluation,
        summary,
    })
}

/// Reads the results that [`measure`] wrote.
pub(super) fn read(dir: &Path) -> Result<Measured> {
    let text = std::fs::read_to_string(dir.join("settings.toml"))?;
    let settings = Settings::from_toml(&text, "settings.toml")?;
    let evaluation = evaluation_of(read_traces(&dir.join("traces.jsonl"))?, &settings)?;
    Ok(Measured {
        evaluation,
        summary: Summary::read(&dir.join("summary.json"))?,
    })
}

fn evaluation_of(traces: Vec<ScoredTrace>, settings: &Settings) -> Result<Evaluation> {
    let samples = settings.run.eval_samples;
    let eval = EvalSettings {
        sample_counts: [2, 4, 8, 16]
            .into_iter()
            .filter(|n| *n < samples)
            .chain([samples])
            .collect(),
        ..EvalSettings::default()
    };
    Ok(evaluate(traces, &eval)?)
}

fn problems(settings: &Settings) -> Result<Vec<Problem>> {
    let data = match settings.data.test.path.as_os_str().is_empty() {
        true => settings.data.validation(),
        false => settings.data.test(),
    };
    ensure!(
        !data.path.as_os_str().is_empty(),
        "a sweep measures on data.test or data.validation: name one of them"
    );
    let most = settings.run.eval_problems;
    let data = DatasetSettings {
        limit: Some(data.limit.map_or(most, |limit| limit.min(most))),
        required: data.required.or(Some(Required::Answer)),
        ..data
    };
    let (problems, report) = load_problems(&data)?;
    open::print_report(&data.path.display().to_string(), &report)?;
    ensure!(
        !problems.is_empty() && settings.run.eval_samples > 0,
        "there is nothing to measure on: {} problems, run.eval_samples {}",
        problems.len(),
        settings.run.eval_samples
    );
    Ok(problems)
}

fn sample(
    checkpoint: &Path,
    settings: &Settings,
    problems: &[Problem],
) -> Result<Vec<ScoredTrace>> {
    let own = checkpoint.join("policy");
    let is_adapter = own.join("adapter_config.json").exists();
    let base: PathBuf = match is_adapter {
        true => settings.model.path.clone(),
        false => own.clone(),
    };
    let model = open::model(&base, &open::placement(settings.compute)?)?;
    let policy = open::policy(&model, is_adapter.then_some(own.as_path()))?;
    let limits = TokenLimits {
        prompt: settings.sampling.max_prompt_tokens,
        completion: settings.sampling.max_completion_tokens,
    };
    let encoder = Encoder::new(&model, &settings.prompt, limits);
    let stop = SamplingLimits {
        max_new_tokens: settings.sampling.max_completion_tokens,
        stop_tokens: vec![model.end_of_turn()],
        max_sequences: settings.sampling.max_sequences,
    };
    let draw = DrawSettings::default();
    let plan = EvaluationPlan {
        draw: &draw,
        limits: &stop,
        samples: settings.run.eval_samples,
        seed: settings.seed,
        first_problem: 0,
        generator: GENERATOR,
    };
    Ok(sample_problems(&policy, &encoder, problems, &plan, |_| ())?)
}

/// Fills in token rewards, and measures localisation on the demonstrations of the problems. Does
/// nothing if the run has no reward.
fn score(
    checkpoint: &Path,
    settings: &Settings,
    problems: &[Problem],
    traces: &mut [ScoredTrace],
) -> Result<Summary> {
    let dir = checkpoint.join("reward");
    if !dir.exists() {
        return Ok(Summary::default());
    }
    let (model, reward) = open::reward(
        &dir,
        Some(settings.reward_model_path()),
        &open::placement(settings.compute)?,
    )
    .with_context(|| format!("opening the reward of {}", checkpoint.display()))?;
    let critic = Critic::new(&reward, &model, settings.run.token_budget);
    let policy = ScoringPolicy {
        transformer: &model.transformer,
        adapter: None,
    };
    critic.score(traces, Some(policy))?;
    let told: Vec<Problem> = problems
        .iter()
        .filter(|problem| problem.demonstration.is_some())
        .cloned()
        .collect();
    if told.is_empty() {
        return Ok(Summary::default());
    }
    let kinds = &settings.reward.perturbations;
    let all = [kinds.kinds.as_slice(), kinds.held_out.as_slice()].concat();
    let registry = kinds.within_alphabet(Registry::of(&all));
    let cases = critic.inject(&told, &registry, settings.seed, policy, |_| ())?;
    let trained: Vec<&str> = kinds.kinds.iter().map(|kind| kind.name()).collect();
    let found = localise(cases.iter().map(|case| case.view()));
    Ok(found.summary(
        Predictor::LargestDrop,
        Some(&trained),
        &BootstrapSettings::default(),
    ))
}
