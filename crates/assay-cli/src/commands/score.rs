//! `assay score`: token rewards, and on request policy log-probabilities, for traces.

use std::io::Write;

use anyhow::Result;
use assay_irl::critic::{Beside, Critic, ScoreReport};
use assay_irl::policy_model::PolicyModel;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::TraceWriter;
use serde_json::json;

use crate::args::ScoreArgs;
use crate::open::{self, Traces};
use crate::progress::Progress;

/// Runs the command.
pub(crate) fn run(args: &ScoreArgs) -> Result<()> {
    let mut traces = match open::traces(&args.traces)? {
        Traces::Texts(traces) => traces,
        Traces::Steps(steps) => steps.into_iter().map(joined).collect(),
    };
    let (model, reward) = open::reward(&args.reward, args.model.as_deref())?;
    let policy_model = args.policy.as_deref().map(open::model).transpose()?;
    let policy = match &policy_model {
        Some(model) => Some(open::policy(model, args.adapter.as_deref())?),
        None => None,
    };
    let beside = policy.as_ref().map(|policy: &PolicyModel| Beside {
        transformer: &policy.transformer,
        adapter: policy.adapter(),
    });
    let critic = Critic::new(&reward, &model, args.token_budget);
    let mut writer = TraceWriter::create(&args.out)?;
    let mut progress = Progress::new("score", traces.len());
    let (mut total, mut done) = (ScoreReport::default(), 0);
    let all = traces.len();
    for group in traces.chunk_by_mut(|a, b| a.id == b.id) {
        let report = critic.score(group, beside)?;
        total.scored += report.scored;
        total.unscored += report.unscored;
        for trace in group.iter() {
            writer.write(trace)?;
        }
        done += group.len();
        progress.set(done, all, "");
    }
    progress.finish();
    writer.finish()?;
    let mut out = std::io::stdout();
    if args.json {
        writeln!(
            out,
            "{}",
            json!({ "scored": total.scored, "unscored": total.unscored })
        )?;
    } else {
        writeln!(
            out,
            "{} traces scored, {} left without rewards",
            total.scored, total.unscored
        )?;
    }
    Ok(())
}

/// Steps as one text, a line each.
fn joined(trace: assay_tasks::trace_io::StepTrace) -> ScoredTrace {
    ScoredTrace {
        id: trace.id,
        question: trace.question,
        generator: trace.generator,
        text: trace.steps.join("\n"),
        correct: Some(trace.label.is_none()),
        ..ScoredTrace::default()
    }
}
