//! `assay select`: the accuracy of choosing among each problem's traces.

use std::io::Write;

use anyhow::{Result, ensure};
use assay_evals::scores::TraceScore;
use assay_evals::selection::Selector;
use assay_evals::summary::Summary;

use crate::args::SelectArgs;
use crate::commands::eval::{ensure_judged, evaluate};

/// Runs the command.
pub(crate) fn run(args: &SelectArgs) -> Result<()> {
    let wanted = args.selector.as_deref().map(Selector::parse).transpose()?;
    let evaluation = evaluate(&args.traces, TraceScore::parse(&args.score)?)?;
    ensure_judged(&evaluation, &args.traces)?;
    let mut summary = Summary::default();
    for (name, estimate) in evaluation.summary.iter() {
        let Some(rest) = name.strip_prefix("select.") else {
            continue;
        };
        if wanted.is_none_or(|selector| rest.starts_with(&format!("{}.", selector.name()))) {
            summary.insert(name, *estimate);
        }
    }
    ensure!(
        !summary.is_empty(),
        "no problem has the two traces or more that a choice needs"
    );
    let mut out = std::io::stdout();
    if args.json {
        writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&summary.to_value()?)?
        )?;
    } else {
        write!(out, "{}", summary.table())?;
    }
    Ok(())
}
