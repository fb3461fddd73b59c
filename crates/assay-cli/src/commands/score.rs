//! `assay score`: token rewards of traces, log-probabilities of a policy, or both.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use assay_critic::{Critic, PolicyModel, PolicyScorer, ScoreReport, ScoringPolicy};
use assay_evals::calibration::PROBABILITY;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::{StepTrace, TraceWriter};
use serde_json::json;

use crate::args::ScoreArgs;
use crate::commands::eval::stored_calibration;
use crate::open::{self, Traces};
use crate::progress::Progress;
use crate::signals::{Interrupted, StopFlag};

/// Traces per chunk; a signal stops after a chunk.
const CHUNK: usize = 1024;

/// Runs the command.
pub(crate) fn run(args: &ScoreArgs) -> Result<()> {
    open::ensure_output(&args.out, &[])?;
    let mut traces = match open::traces(&args.traces)? {
        Traces::Texts(traces) => traces,
        Traces::Steps(steps) => steps.into_iter().map(joined).collect(),
    };
    ensure!(
        !traces.is_empty(),
        "{} holds no trace",
        args.traces.display()
    );
    let report = match &args.reward {
        Some(reward) => by_reward(args, reward, &mut traces)?,
        None => by_policy(args, &mut traces)?,
    };
    print(&report, args)
}

/// Fills in token rewards, and log-probabilities of the policy if one is named.
fn by_reward(args: &ScoreArgs, reward: &Path, traces: &mut [ScoredTrace]) -> Result<ScoreReport> {
    ensure!(
        args.adapter.is_none() || args.policy.is_some(),
        "--adapter is the adapter of a policy: name the policy with --policy"
    );
    let dir = open::reward_dir(open::locate(reward)?)?;
    let calibration = match args.calibrated {
        true => Some(stored_calibration(&dir)?),
        false => None,
    };
    let writer = TraceWriter::create(&args.out)?;
    let placement = args.compute.placement()?;
    let (model, reward) = open::reward(&dir, args.model.as_deref(), &placement)?;
    let other = match args.policy.as_deref() {
        Some(path) if path != Path::new(&model.name) => Some(open::model(path, &placement)?),
        _ => None,
    };
    let policy = match &args.policy {
        Some(_) => {
            let base = other.as_ref().unwrap_or(&model);
            Some(open::policy(base, args.adapter.as_deref())?)
        }
        None => None,
    };
    let policy = policy.as_ref().map(scoring);
    // Another model has its own tokenizer and chat template.
    let run = args.adapter.as_deref().map(open::settings_of_run);
    let run = run.transpose()?.flatten();
    let prompt = run.map_or_else(|| reward.scoring.prompt.clone(), |run| run.prompt);
    let own_prompts = other.as_ref().zip(policy);
    let own_prompts = own_prompts
        .map(|(model, policy)| PolicyScorer::new(policy, model, &prompt, args.token_budget));
    let policy = policy.filter(|_| own_prompts.is_none());
    let critic = Critic::new(&reward, &model, args.token_budget);
    write_scored(args, traces, writer, |chunk, on_scored| {
        let report = critic.score_watched(chunk, policy, on_scored)?;
        if let Some(scorer) = &own_prompts {
            scorer.add(chunk)?;
        }
        for trace in chunk {
            let probability = calibration.as_ref().and_then(|c| c.probability(trace));
            let named = probability.map(|p| (PROBABILITY.to_owned(), p as f32));
            trace.scores.extend(named);
        }
        Ok(report)
    })
}

/// Fills in log-probabilities and entropies of a policy, without rewards.
fn by_policy(args: &ScoreArgs, traces: &mut [ScoredTrace]) -> Result<ScoreReport> {
    let name = match (&args.policy, &args.model) {
        (Some(name), None) | (None, Some(name)) => name,
        (Some(_), Some(_)) => {
            bail!("without --reward one model scores: name --policy or --model, not both")
        }
        (None, None) => {
            bail!("name a --reward, or a --policy whose log-probabilities are written")
        }
    };
    let adapter = args.adapter.as_deref();
    let writer = TraceWriter::create(&args.out)?;
    let model = open::model(name, &args.compute.placement()?)?;
    let policy = open::policy(&model, adapter)?;
    let prompt = open::prompt_settings(adapter, args.style, args.template)?;
    let scorer = PolicyScorer::new(scoring(&policy), &model, &prompt, args.token_budget);
    write_scored(args, traces, writer, |chunk, on_scored| {
        Ok(scorer.score(chunk, on_scored)?)
    })
}

fn scoring(policy: &PolicyModel) -> ScoringPolicy<'_> {
    ScoringPolicy {
        transformer: &policy.transformer,
        adapter: policy.adapter(),
    }
}

/// Scores the traces chunk by chunk and writes them. A signal stops it after a chunk.
fn write_scored(
    args: &ScoreArgs,
    traces: &mut [ScoredTrace],
    mut writer: TraceWriter,
    mut score: impl FnMut(&mut [ScoredTrace], &mut dyn FnMut(usize)) -> Result<ScoreReport>,
) -> Result<ScoreReport> {
    let all = traces.len();
    let flag = StopFlag::listen()?;
    let mut progress = Progress::new("score", all);
    let (mut report, mut done) = (ScoreReport::default(), 0);
    for chunk in traces.chunks_mut(CHUNK) {
        report += score(chunk, &mut |scored| progress.set(done + scored, all, ""))?;
        for trace in chunk.iter() {
            writer.write(trace)?;
        }
        done += chunk.len();
        if flag.is_raised() {
            break;
        }
    }
    progress.finish();
    writer.finish()?;
    if done < all {
        bail!(Interrupted {
            done,
            all,
            what: "traces",
            path: args.out.clone(),
        });
    }
    Ok(report)
}

fn print(report: &ScoreReport, args: &ScoreArgs) -> Result<()> {
    let ScoreReport {
        scored,
        unscored,
        too_long,
        encoded_again,
    } = *report;
    let mut out = std::io::stdout();
    if args.json {
        let counts = json!({
            "scored": scored,
            "unscored": unscored,
            "too_long": too_long,
            "encoded_again": encoded_again,
        });
        writeln!(out, "{counts}")?;
        return Ok(());
    }
    let missing = match args.reward {
        Some(_) => "rewards",
        None => "log-probabilities",
    };
    writeln!(
        out,
        "{scored} traces scored, {unscored} left without {missing}: {too_long} with more tokens than the model \
         reads, the others empty or without a question"
    )?;
    if encoded_again > 0 {
        writeln!(
            out,
            "{encoded_again} carried another tokenizer's ids and were encoded again"
        )?;
    }
    Ok(())
}

/// A trace of the steps' text, one line per step.
fn joined(trace: StepTrace) -> ScoredTrace {
    ScoredTrace {
        id: trace.id,
        question: trace.question,
        generator: trace.generator,
        text: trace.steps.join("\n"),
        correct: Some(trace.label.is_none()),
        ..ScoredTrace::default()
    }
}
