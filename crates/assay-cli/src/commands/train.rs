//! `assay train sft|grpo|airl`: settings and data to a run directory.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use assay_irl::settings::Settings;
use assay_irl::trainer::run::{RunMode, TrainInputs, TrainerKind, train};
use assay_lm::{LanguageModel, Storage};
use assay_tasks::datasets::{DatasetSettings, load_problems};
use assay_tasks::problem::{Problem, assert_disjoint};

use crate::args::{TrainArgs, Trainer};
use crate::progress::{Progress, message};

/// Runs the command.
pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    let settings = Settings::load(std::slice::from_ref(&args.config), &args.set)?;
    if args.dry_run {
        write!(std::io::stdout(), "{}", settings.resolved_toml()?)?;
        return Ok(());
    }
    let Some(out) = &args.out else {
        bail!("--out is missing: the run directory")
    };
    let train_problems = problems(&settings.data.train, "data.train")?;
    let validation = problems(&settings.data.validation, "data.validation")?;
    let test = problems(&settings.data.test, "data.test")?;
    assert_disjoint(&train_problems, &validation, &test)?;
    if train_problems.is_empty() {
        bail!("data.train.path names no problems: there is nothing to learn from");
    }
    let model = open(&settings.model.path, "model.path")?;
    let reward_path = settings.reward_model_path();
    let shared = *reward_path == settings.model.path;
    let other = if shared {
        None
    } else {
        Some(open(reward_path, "reward_model.path")?)
    };
    let inputs = TrainInputs {
        kind: match args.trainer {
            Trainer::Sft => TrainerKind::Sft,
            Trainer::Grpo => TrainerKind::Grpo,
            Trainer::Airl => TrainerKind::Airl,
        },
        settings: &settings,
        model: &model,
        reward_backbone: Arc::clone(
            other
                .as_ref()
                .map_or(&model.transformer, |other| &other.transformer),
        ),
        train: &train_problems,
        validation: &validation,
    };
    let mode = if args.resume {
        RunMode::Resume
    } else {
        RunMode::Fresh
    };
    let mut progress = Progress::new("train", 0);
    let trained = train(&inputs, out, mode, &mut progress)?;
    progress.finish();
    if args.json {
        writeln!(
            std::io::stdout(),
            "{}",
            serde_json::to_string(&trained.metrics)?
        )?;
    } else {
        message(&format!("done: {}", out.display()))?;
    }
    Ok(())
}

fn open(path: &std::path::Path, key: &str) -> Result<LanguageModel> {
    if path.as_os_str().is_empty() {
        bail!("setting `{key}` is empty: name a Hugging Face directory or a .gguf file");
    }
    Ok(LanguageModel::open(path, Storage::Expanded)?)
}

/// The problems of a data set; none for an empty path. What is left out is said.
fn problems(settings: &DatasetSettings, key: &str) -> Result<Vec<Problem>> {
    if settings.path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let (problems, report) = load_problems(settings).with_context(|| format!("reading {key}"))?;
    for (reason, count) in &report.skipped {
        message(&format!("{key}: left out {count}: {reason}"))?;
    }
    Ok(problems)
}
