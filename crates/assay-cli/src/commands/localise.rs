//! `assay localise`: does the reward find errors injected into demonstrations, or the first wrong step of real traces?

use std::path::Path;

use anyhow::{Context, Result, ensure};
use assay_evals::localisation::{Predictor, localise};
use assay_evals::processbench::{StepCase, StepScore, cross_fitted_summary};
use assay_evals::statistics::BootstrapSettings;
use assay_evals::summary::Summary;
use assay_irl::critic::{Beside, Critic};
use assay_irl::settings::Settings;
use assay_tasks::datasets::Required;
use assay_tasks::perturbations::{Perturbation, Registry};
use assay_tasks::trace_io::read_step_traces;

use crate::args::LocaliseArgs;
use crate::open;
use crate::output::print_summary;
use crate::progress::{Progress, message};

/// The kind of a run that names none: one number of the reasoning, as in the published comparisons.
const DEFAULT_KIND: &str = "corrupt_numbers";

/// Runs the command.
pub(crate) fn run(args: &LocaliseArgs) -> Result<()> {
    ensure!(args.limit != Some(0), "--limit must be at least 1");
    let summary = match open::holds_steps(&args.demonstrations)? {
        true => steps(args)?,
        false => injected(args)?,
    };
    ensure!(
        !summary.is_empty(),
        "{} holds too little to judge: it takes demonstrations with a number to change, or step traces of both kinds",
        args.demonstrations.display()
    );
    print_summary(&summary, args.json)
}

fn injected(args: &LocaliseArgs) -> Result<Summary> {
    let kinds = if args.kinds.is_empty() {
        vec![DEFAULT_KIND.to_owned()]
    } else {
        args.kinds.clone()
    };
    let registry = Registry::named(&kinds)?;
    let problems = open::problems(
        (&args.demonstrations, args.format),
        args.limit,
        Required::DemonstrationAndAnswer,
    )?;
    let (model, reward) = open::reward(
        &args.reward,
        args.model.as_deref(),
        &args.compute.placement()?,
    )?;
    let critic = Critic::new(&reward, &model, args.token_budget);
    let beside = Beside {
        transformer: &model.transformer,
        adapter: None,
    };
    let mut progress = Progress::new("localise", problems.len());
    let total = problems.len();
    let cases = critic.inject(&problems, (&registry, args.seed), beside, |done| {
        progress.set(done, total, "")
    })?;
    progress.finish();
    if cases.len() < total {
        let rest = total - cases.len();
        message(&format!(
            "{rest} of {total} demonstrations left out: too long, or they offer no such error"
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

/// The kinds of errors a reward was trained on, where it still lies in its run (`RUN/checkpoints/iter-N/reward`).
fn trained_kinds(reward: &Path) -> Result<Option<Vec<Perturbation>>> {
    let absolute = std::path::absolute(reward)?;
    let settings = absolute
        .ancestors()
        .nth(3)
        .map(|run| run.join("settings.toml"));
    let Some(path) = settings.filter(|path| path.is_file()) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let settings = Settings::from_toml(&text, &path.display().to_string())?;
    Ok(Some(settings.reward.perturbations.kinds))
}

fn steps(args: &LocaliseArgs) -> Result<Summary> {
    let traces = read_step_traces(&args.demonstrations)?;
    let (model, reward) = open::reward(
        &args.reward,
        args.model.as_deref(),
        &args.compute.placement()?,
    )?;
    let critic = Critic::new(&reward, &model, args.token_budget);
    let limit = args.limit.unwrap_or(traces.len()).min(traces.len());
    let mut progress = Progress::new("localise", limit);
    let scored = critic.score_steps(&traces[..limit], |done| progress.set(done, limit, ""))?;
    progress.finish();
    let cases: Vec<StepCase> = traces
        .iter()
        .zip(&scored)
        .map(|(trace, (scored, steps))| StepCase {
            id: trace.id.clone(),
            step_scores: StepScore::Min.of_steps(
                &scored.token_offsets,
                &scored.token_rewards,
                steps,
            ),
            label: trace.label,
        })
        .collect();
    Ok(cross_fitted_summary(&cases, &BootstrapSettings::default()))
}
