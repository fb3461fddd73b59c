//! `assay select`: the accuracy of choosing among each problem's traces, or the chosen traces.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use assay_evals::selection::{Selector, choose_among};
use assay_evals::{EvalSettings, Summary};
use assay_tasks::trace::{FinishReason, ScoredTrace};
use assay_tasks::trace_io::{TraceReader, TraceWriter};
use serde_json::json;

use crate::args::SelectArgs;
use crate::commands::eval::{ensure_judged, read, settings};
use crate::open;
use crate::output::print_summary;

/// Runs the command.
pub(crate) fn run(args: &SelectArgs) -> Result<()> {
    let wanted = args.selector.as_deref().map(Selector::parse).transpose()?;
    let settings = EvalSettings {
        group_by: args.among.into(),
        ..settings(&args.score, args.calibration.as_deref())?
    };
    if let (Some(out), Some(selector)) = (&args.out, wanted) {
        let counts = write_chosen(args, out, selector, &settings)?;
        return counts.print(args, out);
    }
    let evaluation = read(&args.traces, settings, None)?.finish();
    ensure_judged(&evaluation, &args.traces)?;
    let mut summary = Summary::default();
    for (name, estimate) in evaluation.summary.iter() {
        let selector = name
            .strip_prefix("select.")
            .and_then(|rest| rest.split('.').next());
        let chosen = selector.is_some_and(|name| wanted.is_none_or(|one| one.name() == name));
        if chosen || wanted.is_none() && name.starts_with("budget.") {
            summary.insert(name, *estimate);
        }
    }
    let others = evaluation.summary.iter();
    if let (Some(selector), true) = (wanted, summary.is_empty())
        && others
            .into_iter()
            .any(|(name, _)| name.starts_with("select."))
    {
        bail!("{}", lacking(&args.traces, selector));
    }
    ensure!(
        !summary.is_empty(),
        "no problem has two or more traces to choose among; --among problem chooses among those of all generators"
    );
    print_summary(&summary, args.json)
}

/// Counts of the problems of a file of traces.
#[derive(Default)]
struct Counts {
    /// Problems whose chosen trace was written.
    chosen: usize,
    /// Problems without a trace to choose.
    without: usize,
    /// Chosen traces of known correctness, and how many of them are right.
    known: usize,
    right: usize,
}

/// Writes the choice among each problem's complete traces, in the order of the problems.
fn write_chosen(
    args: &SelectArgs,
    out: &Path,
    selector: Selector,
    settings: &EvalSettings,
) -> Result<Counts> {
    open::ensure_output(out, &[&args.traces])?;
    let (mut traces, mut problems) = (Vec::new(), HashSet::new());
    for trace in TraceReader::open(&args.traces)? {
        let trace: ScoredTrace = trace?;
        problems.insert(trace.id.clone());
        if trace.finish_reason != Some(FinishReason::Length) {
            traces.push(trace);
        }
    }
    let chosen = choose_among(&traces, selector, settings);
    let chosen: Vec<&ScoredTrace> = chosen
        .iter()
        .filter_map(|choice| choice.chosen.map(|index| &traces[index]))
        .collect();
    if chosen.is_empty() && !traces.is_empty() {
        bail!("{}", lacking(&args.traces, selector));
    }
    let mut writer = TraceWriter::create(out)?;
    for trace in &chosen {
        writer.write(trace)?;
    }
    writer.finish()?;
    let written: HashSet<&str> = chosen.iter().map(|trace| trace.id.as_str()).collect();
    let known = chosen.iter().filter_map(|trace| trace.correct);
    Ok(Counts {
        chosen: chosen.len(),
        without: problems.len() - written.len(),
        known: known.clone().count(),
        right: known.filter(|&right| right).count(),
    })
}

impl Counts {
    fn print(&self, args: &SelectArgs, path: &Path) -> Result<()> {
        let mut out = std::io::stdout();
        let Self {
            chosen,
            without,
            known,
            right,
        } = self;
        if args.json {
            let counts = json!({
                "chosen": chosen, "problems_without": without, "known": known, "right": right,
            });
            writeln!(out, "{counts}")?;
            return Ok(());
        }
        writeln!(out, "{chosen} chosen traces in {}", path.display())?;
        if *without > 0 {
            writeln!(out, "{without} problems have no complete trace to choose")?;
        }
        if *known > 0 {
            writeln!(out, "{right} of {known} with a gold answer are right")?;
        }
        Ok(())
    }
}

fn lacking(traces: &Path, selector: Selector) -> String {
    format!(
        "{} lacks the values that `{}` needs: rewards come from `assay score --reward`, log-probabilities from its \
         --policy, fitted weights from --calibration",
        traces.display(),
        selector.name()
    )
}
