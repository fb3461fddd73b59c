//! `assay calibrate`: P(correct) of a reward, fitted on validation traces and stored with it.

use std::io::Write;

use anyhow::{Context, Result};
use assay_critic::reward_model::HEAD_FILE;
use assay_evals::EvalSettings;
use assay_evals::calibration::{CALIBRATION_FILE, Calibration};
use assay_lm::peft::CONFIG_FILE;

use crate::args::CalibrateArgs;
use crate::commands::eval::read;

/// Runs the command.
pub(crate) fn run(args: &CalibrateArgs) -> Result<()> {
    let is_reward = [HEAD_FILE, CONFIG_FILE].map(|file| args.reward.join(file).is_file());
    anyhow::ensure!(
        is_reward.contains(&true),
        "{} is not a reward directory: name the one that scored the traces",
        args.reward.display()
    );
    let name = args.traces.file_name().unwrap_or(args.traces.as_os_str());
    let data = match &args.data {
        Some(name) => name.clone(),
        None => name.to_string_lossy().into_owned(),
    };
    let evaluator = read(&args.traces, EvalSettings::default(), None)?;
    let calibration = evaluator.calibrate(&data).with_context(|| {
        format!(
            "{} holds too few traces to fit: scored traces are needed, some known to be correct and some wrong \
             (`assay score` gives rewards)",
            args.traces.display()
        )
    })?;
    calibration.write(&args.reward)?;
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&calibration)?)?;
        return Ok(());
    }
    write!(out, "{}", described(&calibration))?;
    let path = args.reward.join(CALIBRATION_FILE);
    writeln!(out, "written: {}", path.display())?;
    Ok(())
}

fn described(calibration: &Calibration) -> String {
    let fitted = &calibration.fitted;
    let mut text = format!(
        "trace score `{}`, chosen on {} traces of {} problems ({})\n\
         P(correct) = sigmoid({:.4} score {:+.4}), isotonic through {} points; in use: {}\n",
        fitted.score.name(),
        calibration.traces,
        calibration.problems,
        calibration.data,
        fitted.platt.scale,
        fitted.platt.bias,
        fitted.isotonic.scores.len(),
        serde_json::to_string(&calibration.method).unwrap_or_default()
    );
    if let Some(error) = &calibration.error {
        text += &format!(
            "cross-fitted ECE: {:.4} before, {:.4} temperature and bias, {:.4} isotonic\n",
            error.ece_before, error.ece_platt, error.ece_isotonic
        );
    }
    text
}
