//! `assay score`: token rewards, and on request policy log-probabilities, for traces.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use assay_critic::{Beside, Critic, ScoreReport};
use assay_evals::calibration::PROBABILITY;
use assay_lm::LanguageModel;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::{StepTrace, TraceWriter};
use serde_json::json;

use crate::args::ScoreArgs;
use crate::commands::eval::stored_calibration;
use crate::open::{self, Traces};
use crate::progress::Progress;
use crate::signals::{Interrupted, StopFlag};

/// Traces scored together; a signal waits for them.
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
    let dir = open::reward_dir(open::locate(&args.reward)?)?;
    let calibration = match args.calibrated {
        true => Some(stored_calibration(&dir)?),
        false => None,
    };
    let mut writer = TraceWriter::create(&args.out)?;
    let placement = args.compute.placement()?;
    let (model, reward) = open::reward(&dir, args.model.as_deref(), &placement)?;
    let other = match args.policy.as_deref() {
        Some(path) if path != Path::new(&model.name) => Some(open::model(path, &placement)?),
        _ => None,
    };
    if let Some(other) = &other {
        ensure_same_tokens(&model, other, &traces)?;
    }
    let policy = match &args.policy {
        Some(_) => {
            let base = other.as_ref().unwrap_or(&model);
            Some(open::policy(base, args.adapter.as_deref())?)
        }
        None => None,
    };
    let beside = policy.as_ref().map(|policy| Beside {
        transformer: &policy.transformer,
        adapter: policy.adapter(),
    });
    let critic = Critic::new(&reward, &model, args.token_budget);
    let all = traces.len();
    let flag = StopFlag::listen()?;
    let mut progress = Progress::new("score", all);
    let (mut report, mut done) = (ScoreReport::default(), 0);
    for chunk in traces.chunks_mut(CHUNK) {
        let own =
            critic.score_watched(chunk, beside, |scored| progress.set(done + scored, all, ""))?;
        report.scored += own.scored;
        report.unscored += own.unscored;
        report.encoded_again += own.encoded_again;
        for trace in chunk.iter_mut() {
            let probability = calibration.as_ref().and_then(|c| c.probability(trace));
            let named = probability.map(|p| (PROBABILITY.to_owned(), p as f32));
            trace.scores.extend(named);
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
    print(&report, args)
}

fn print(report: &ScoreReport, args: &ScoreArgs) -> Result<()> {
    let ScoreReport {
        scored,
        unscored,
        encoded_again,
    } = *report;
    let mut out = std::io::stdout();
    if args.json {
        let counts =
            json!({ "scored": scored, "unscored": unscored, "encoded_again": encoded_again });
        writeln!(out, "{counts}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{scored} traces scored, {unscored} left without rewards (empty, without a question, or longer than the model reads)"
    )?;
    if encoded_again > 0 {
        writeln!(
            out,
            "{encoded_again} carried another tokenizer's ids and were encoded again"
        )?;
    }
    Ok(())
}

/// Refuses a policy that would read other tokens than the reward gives rewards to.
fn ensure_same_tokens(
    reward: &LanguageModel,
    policy: &LanguageModel,
    traces: &[ScoredTrace],
) -> Result<()> {
    for trace in traces.iter().take(8) {
        for text in [&trace.question, &trace.text] {
            ensure!(
                reward.tokenizer.encode(text)? == policy.tokenizer.encode(text)?,
                "the policy {} splits text into other tokens than the reward's model {}: its log-probabilities \
                 cannot stand beside these rewards",
                policy.name,
                reward.name
            );
        }
    }
    Ok(())
}

/// Steps as one text, a line each.
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
