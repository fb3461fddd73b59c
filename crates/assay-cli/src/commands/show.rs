//! `assay show`: traces as heatmaps in the terminal.

use std::env;
use std::io::{IsTerminal, Write, stdout};

use anyhow::{Result, ensure};
use assay_report::HeatScale;
use assay_report::terminal::{ColourMode, TerminalEnvironment, heatmap, legend};
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::TraceReader;

use crate::args::{Color, ShowArgs};

/// Number of traces at the beginning of the file whose rewards also set the colour scale, so that a
/// single trace is not shown on a scale of its own.
const SCALE_TRACES: usize = 200;

/// Runs the command.
pub(crate) fn run(args: &ShowArgs) -> Result<()> {
    let (mut shown, mut others) = (Vec::new(), Vec::new());
    let (mut passed, mut read) = (0, 0);
    for trace in TraceReader::open(&args.traces)? {
        let trace = trace?;
        read += 1;
        let wanted = args.id.as_ref().is_none_or(|id| *id == trace.id);
        if wanted && passed < args.skip {
            passed += 1;
        } else if wanted && shown.len() < args.limit {
            shown.push(trace);
        } else if others.len() < SCALE_TRACES {
            others.push(trace);
        }
        if shown.len() == args.limit && read >= SCALE_TRACES {
            break;
        }
    }
    ensure_found(args, &shown, passed)?;
    let scale = HeatScale::from_traces(shown.iter().chain(&others));
    let mode = mode(args.color);
    let mut out = stdout();
    write!(out, "{}", legend(&scale, mode))?;
    for trace in &shown {
        write!(out, "\n{}", heatmap(trace, &scale, mode))?;
    }
    Ok(())
}

fn ensure_found(args: &ShowArgs, shown: &[ScoredTrace], passed: usize) -> Result<()> {
    let file = args.traces.display();
    ensure!(args.limit > 0, "--limit must be at least 1");
    if let (Some(id), true) = (&args.id, shown.is_empty() && passed == 0) {
        anyhow::bail!("{file} holds no trace of problem `{id}`");
    }
    ensure!(
        !shown.is_empty(),
        "{file} holds no trace after the {passed} that --skip leaves out"
    );
    ensure!(
        shown
            .iter()
            .any(|trace| trace.token_rewards.iter().any(Option::is_some)),
        "the traces of {file} have no token rewards: run `assay score` first"
    );
    Ok(())
}

fn mode(color: Color) -> ColourMode {
    let value = |name| env::var(name).ok();
    let (no_color, colorterm, term) = (value("NO_COLOR"), value("COLORTERM"), value("TERM"));
    let environment = TerminalEnvironment {
        is_terminal: stdout().is_terminal(),
        no_color: no_color.as_deref(),
        colorterm: colorterm.as_deref(),
        term: term.as_deref(),
    };
    match color {
        Color::Auto => ColourMode::detect(&environment),
        Color::Always => ColourMode::with_colours(&environment),
        Color::Never => ColourMode::Plain,
    }
}
