//! `assay replay`: recomputes a failed update, trace by trace.

use std::io::Write;

use anyhow::{Context, Result};
use assay_train::failed_update::FailedUpdate;
use assay_train::run::TrainerKind;
use assay_train::run::replay::{Replay, ReplayedTrace, replay};
use assay_train::settings::Settings;
use serde_json::json;

use super::train::Models;
use crate::args::ReplayArgs;
use crate::open;

/// Runs the command.
pub(crate) fn run(args: &ReplayArgs) -> Result<()> {
    let path = args.run.join("settings.toml");
    let text = std::fs::read_to_string(&path).with_context(|| open::no_run(&args.run))?;
    let failure = FailedUpdate::read(&args.run, args.iteration)?;
    let settings = Settings::from_toml(&text, &path.display().to_string())?;
    let models = Models::open(&settings, &open::placement(settings.compute)?)?;
    let inputs = models.inputs(TrainerKind::Airl, &settings, &[]);
    let found = replay(&inputs, &args.run, &failure)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let both = json!({ "failure": failure, "replay": found });
        writeln!(out, "{both}")?;
        return Ok(());
    }
    writeln!(out, "{failure}")?;
    write!(out, "{}", table(&found))?;
    Ok(())
}

fn table(found: &Replay) -> String {
    let weights = match found.checkpoint {
        Some(number) => format!("the weights of checkpoints/iter-{number}"),
        None => "the weights of the start".to_owned(),
    };
    let mut text = format!("each trace alone, with {weights}:\n");
    for name in &found.damaged_parameters {
        text.push_str(&format!("  the parameter {name} itself is not finite\n"));
    }
    text.push_str(
        "  trace role      tokens  failed at  now at       mean       loss   gradient  problem\n",
    );
    for (index, trace) in found.traces.iter().enumerate() {
        text.push_str(&line(index, trace));
    }
    text
}

fn line(index: usize, trace: &ReplayedTrace) -> String {
    let token = |token: Option<usize>| token.map_or_else(|| "-".to_owned(), |t| t.to_string());
    let number = |x: Option<f64>| x.map_or_else(|| "not finite".to_owned(), |x| format!("{x:.3e}"));
    let parameter = trace.parameter.as_ref();
    let parameter = parameter.map_or_else(String::new, |name| format!("  first at {name}"));
    format!(
        "  {index:<5} {:<9} {:>6}  {:>9} {:>7} {:>10} {:>10} {:>10}  {}{parameter}\n",
        format!("{:?}", trace.role).to_lowercase(),
        trace.tokens,
        token(trace.failed_token),
        token(trace.token),
        number(trace.mean),
        number(trace.loss),
        number(trace.gradient_norm),
        trace.problem,
    )
}
