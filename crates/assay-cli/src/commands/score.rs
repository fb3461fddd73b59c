//! `assay score`: token rewards, and on request policy log-probabilities, for traces.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use assay_evals::calibration::PROBABILITY;
use assay_irl::critic::{Beside, Critic, ScoreReport};
use assay_lm::LanguageModel;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::{StepTrace, TraceWriter};
use serde_json::json;

use crate::args::ScoreArgs;
use crate::commands::eval::stored_calibration;
use crate::open::{self, Traces};
use crate::progress::Progress;

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
    let calibration = match args.calibrated {
        true => Some(stored_calibration(&args.reward)?),
        false => None,
    };
    let mut writer = TraceWriter::create(&args.out)?;
    let placement = args.compute.placement()?;
    let (model, reward) = open::reward(&args.reward, args.model.as_deref(), &placement)?;
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
    let mut progress = Progress::new("score", all);
    let report = critic.score_watched(&mut traces, beside, |done| progress.set(done, all, ""))?;
    progress.finish();
    for trace in &mut traces {
        let probability = calibration.as_ref().and_then(|c| c.probability(trace));
        if let Some(probability) = probability {
            trace
                .scores
                .insert(PROBABILITY.to_owned(), probability as f32);
        }
        writer.write(trace)?;
    }
    writer.finish()?;
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
        "{scored} traces scored, {unscored} left without rewards (empty, or longer than the model reads)"
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
