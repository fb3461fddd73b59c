//! `assay quickstart`: the whole method on a built-in task, offline, in a few minutes.
//!
//! A small Llama learns clock arithmetic, or deduction in words, from demonstrations. Some of them
//! write every step and some skip steps. Training then continues from this model in three ways,
//! with equal numbers of tokens: AIRL with a dense reward and no answers, GRPO with the verifier,
//! and more supervised fine-tuning.

mod measure;
mod outcome;
mod speed;
mod stages;
mod task;

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use assay_critic::HeadSettings;
use assay_train::settings::Settings;

use crate::args::{Head, QuickstartArgs, Task};
use crate::progress::message;
use stages::Stages;

/// The repository's settings files.
const SETTINGS: &str = include_str!("../../../../configs/quickstart.toml");
const DEDUCTION: &str = include_str!("../../../../configs/deduction.toml");
const BASE: &str = include_str!("../../../../configs/base.toml");

/// Runs the command.
pub(crate) fn run(args: &QuickstartArgs) -> Result<()> {
    let started = Instant::now();
    let settings = settings(args)?;
    ensure!(
        !args.out.join("settings.toml").exists(),
        "{} holds a training run; choose another --out",
        args.out.display()
    );
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the directory {}", args.out.display()))?;
    let stages = Stages::new(args.task, &settings, &args.out)?;
    message(&format!(
        "task: {} demonstrations, {} test problems, disjoint; e.g. {}",
        stages.train.len(),
        stages.test.len(),
        stages.train.first().map_or("", |problem| &problem.question)
    ))?;
    let base = stages.fine_tune()?;
    let players = stages.play(&base)?;
    let measured = measure::measure(&stages, &base, &players)?;
    let summary = outcome::summary(&measured, &settings, started.elapsed())?;
    outcome::write(&args.out, &measured, &summary)?;
    let mut out = std::io::stdout();
    if args.json {
        writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&summary.to_value()?)?
        )?;
    } else {
        write!(out, "{}", outcome::text(&measured, &summary))?;
        writeln!(out, "\nresults: {}", args.out.display())?;
    }
    Ok(())
}

/// The built-in settings with the arguments' overrides.
fn settings(args: &QuickstartArgs) -> Result<Settings> {
    let own = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("extends"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut texts = vec![
        (BASE.to_owned(), "base.toml"),
        (own(SETTINGS), "quickstart.toml"),
    ];
    if matches!(args.task, Task::Deduction) {
        texts.push((own(DEDUCTION), "deduction.toml"));
    }
    let mut settings = Settings::from_texts(&texts, &args.set)?;
    settings.seed = args.seed;
    let (beta, reference_weight) = match settings.reward.head {
        HeadSettings::Implicit {
            beta,
            reference_weight,
        }
        | HeadSettings::Hybrid {
            beta,
            reference_weight,
        } => (beta, reference_weight),
        HeadSettings::Linear => (1.0, 1.0),
    };
    if let Some(head) = args.head {
        settings.reward.head = match head {
            Head::Linear => HeadSettings::Linear,
            Head::Implicit => HeadSettings::Implicit {
                beta,
                reference_weight,
            },
            Head::Hybrid => HeadSettings::Hybrid {
                beta,
                reference_weight,
            },
        };
    }
    settings.validate()?;
    Ok(settings)
}
