//! `assay localise`: measures how often the reward finds errors injected into demonstrations, the
//! first wrong step of real traces, or the first wrong token that people marked.

mod marked;

use std::path::Path;

use anyhow::{Result, bail, ensure};
use assay_critic::{Critic, RewardModel, ScoredSteps, ScoringPolicy};
use assay_evals::Summary;
use assay_evals::localisation::{Predictor, localise};
use assay_evals::processbench::{StepCase, StepScore, chance_summary, cross_fitted_summary};
use assay_evals::statistics::BootstrapSettings;
use assay_lm::LanguageModel;
use assay_tasks::datasets::{DatasetSettings, Required};
use assay_tasks::perturbations::{Perturbation, Registry};
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::StepTrace;

use crate::args::LocaliseArgs;
use crate::open;
use crate::output::print_summary;
use crate::progress::{Progress, message};

/// Scores of a step. The first one selects the lowest step of a trace.
const STEP_SCORES: [StepScore; 4] = [
    StepScore::Min,
    StepScore::Mean,
    StepScore::Last,
    StepScore::Drop,
];
/// The default kind: one number of the reasoning, as in the published comparisons.
const DEFAULT_KIND: &str = "corrupt_numbers";

/// Runs the command.
pub(crate) fn run(args: &LocaliseArgs) -> Result<()> {
    ensure!(args.limit != Some(0), "--limit must be at least 1");
    let summary = match (&args.labels, &args.demonstrations) {
        (Some(labels), _) => marked::marked(args, labels)?,
        (None, Some(demonstrations)) => of_demonstrations(args, demonstrations)?,
        (None, None) => bail!("give --demonstrations or --labels"),
    };
    print_summary(&summary, args.json)
}

/// The reward and its base model.
fn opened(args: &LocaliseArgs) -> Result<(LanguageModel, RewardModel)> {
    let placement = args.compute.placement()?;
    open::reward(&args.reward, args.model.as_deref(), &placement)
}

fn of_demonstrations(args: &LocaliseArgs, path: &Path) -> Result<Summary> {
    let has_steps = !args.layout.names_columns() && open::holds_steps(path)?;
    let summary = match has_steps {
        true => steps(args, path)?,
        false => injected(args, path)?,
    };
    ensure!(
        !summary.is_empty(),
        "{} holds too few records to measure: demonstrations with a number to change, or step traces with labels, \
         are needed",
        path.display()
    );
    Ok(summary)
}

fn injected(args: &LocaliseArgs, path: &Path) -> Result<Summary> {
    let kinds = if args.kinds.is_empty() {
        vec![DEFAULT_KIND.to_owned()]
    } else {
        args.kinds.clone()
    };
    let registry = Registry::named(&kinds)?;
    let data = args.layout.settings(path, Required::DemonstrationAndAnswer);
    let problems = open::problems(&DatasetSettings {
        limit: args.limit,
        ..data
    })?;
    let (model, reward) = opened(args)?;
    let critic = Critic::new(&reward, &model, args.token_budget);
    let policy = ScoringPolicy {
        transformer: &model.transformer,
        adapter: None,
    };
    let mut progress = Progress::new("localise", problems.len());
    let total = problems.len();
    let cases = critic.inject(&problems, &registry, args.seed, policy, |done| {
        progress.set(done, total, "")
    })?;
    progress.finish();
    if cases.len() < total {
        let rest = total - cases.len();
        message(&format!(
            "{rest} of {total} demonstrations left out: too long, or no such error can be injected"
        ))?;
    }
    let result = localise(cases.iter().map(|case| case.view()));
    let trained = trained_kinds(&args.reward)?;
    let names: Option<Vec<&str>> = trained
        .as_ref()
        .map(|kinds| kinds.iter().map(|kind| kind.name()).collect());
    Ok(result.summary(
        Predictor::LargestDrop,
        names.as_deref(),
        &BootstrapSettings::default(),
    ))
}

/// The kinds of errors that a reward was trained on; `None` if it is no longer in its run
/// (`RUN/checkpoints/iter-N/reward`).
fn trained_kinds(reward: &Path) -> Result<Option<Vec<Perturbation>>> {
    let settings = open::settings_of_run(reward)?;
    Ok(settings.map(|settings| settings.reward.perturbations.kinds))
}

fn steps(args: &LocaliseArgs, path: &Path) -> Result<Summary> {
    let traces = open::step_traces(path)?;
    let (model, reward) = opened(args)?;
    let critic = Critic::new(&reward, &model, args.token_budget);
    let limit = args.limit.unwrap_or(traces.len()).min(traces.len());
    let mut progress = Progress::new("localise", limit);
    let policy = ScoringPolicy {
        transformer: &model.transformer,
        adapter: None,
    };
    let scored = critic.score_steps(&traces[..limit], Some(policy), |done| {
        progress.set(done, limit, "")
    })?;
    progress.finish();
    let wrong = traces[..limit].iter().filter(|trace| trace.label.is_some());
    let wrong = wrong.count();
    if wrong == 0 || wrong == limit {
        let class = if wrong == 0 { "right" } else { "wrong" };
        message(&format!(
            "all {limit} traces are {class} ones: no threshold can be chosen, so there is no F1"
        ))?;
    }
    let settings = BootstrapSettings::default();
    let rewards = step_cases(&traces, &scored, |trace| trace.token_rewards.clone());
    let logprobs = step_cases(&traces, &scored, |trace| {
        let logprobs = trace.policy_logprobs.iter().flatten();
        logprobs.map(|&value| Some(value)).collect()
    });
    let mut summary = cross_fitted_summary("processbench", &rewards, &settings);
    let baseline = |name: &str| format!("processbench.baselines.{name}");
    summary.extend(cross_fitted_summary(
        &baseline("logprob"),
        &logprobs,
        &settings,
    ));
    summary.extend(chance_summary(&baseline("chance"), &rewards[0], &settings));
    Ok(summary)
}

/// The traces with every step score, computed from one value per token.
fn step_cases(
    traces: &[StepTrace],
    scored: &[ScoredSteps],
    values: impl Fn(&ScoredTrace) -> Vec<Option<f32>>,
) -> [Vec<StepCase>; 4] {
    STEP_SCORES.map(|score| {
        let case = |(trace, (scored, steps)): (&StepTrace, &ScoredSteps)| StepCase {
            id: trace.id.clone(),
            step_scores: score.of_steps(&scored.token_offsets, &values(scored), steps),
            label: trace.label,
        };
        traces.iter().zip(scored).map(case).collect()
    })
}
