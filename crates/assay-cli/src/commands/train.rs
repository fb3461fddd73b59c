//! `assay train sft|grpo|airl`: trains with settings and data, and writes a run directory.

use std::fs;
use std::io::{IsTerminal, Write, stdout};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use assay_evals::MetricRow;
use assay_lm::{LanguageModel, ModelConfig, Placement, Storage};
use assay_report::terminal::curves;
use assay_tasks::datasets::{DatasetSettings, Required, load_problems};
use assay_tasks::problem::{Problem, assert_disjoint};
use assay_train::memory::{BaseShape, MemoryPlan, Residence};
use assay_train::metrics::{self, IterationMetrics};
use assay_train::ranks::{Collective, SingleProcess, is_first};
use assay_train::run::{RunMode, TrainInputs, Trained, TrainerKind, train};
use assay_train::settings::{ModelSettings, Settings};

use crate::args::{TrainArgs, Trainer};
use crate::open;
use crate::progress::{Progress, message};
use crate::ranks;
use crate::signals::{AlarmCall, Stoppable};

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All iterations are done, the settings ended the run early, or none was asked for.
    Done,
    /// A signal stopped it; it can be resumed.
    Stopped,
}

/// Runs the command.
pub(crate) fn run(args: &TrainArgs) -> Result<Ending> {
    let settings = Settings::load(std::slice::from_ref(&args.config), &args.set)?;
    if args.dry_run {
        write!(std::io::stdout(), "{}", settings.resolved_toml()?)?;
        return Ok(Ending::Done);
    }
    let Some(out) = &args.out else {
        bail!("--out is missing: the run directory")
    };
    let ranks = ranks::join()?;
    let ran = train_on_ranks(args, &settings, out, ranks.as_ref());
    if let Err(error) = &ran {
        ranks::give_up(ranks.as_ref(), error);
    }
    ran
}

fn train_on_ranks(
    args: &TrainArgs,
    settings: &Settings,
    out: &Path,
    ranks: &dyn Collective,
) -> Result<Ending> {
    let data = &settings.data;
    let train_set = requiring(data.train(), required_to_train(args.trainer));
    let validation_set = requiring(data.validation(), Required::Answer);
    let test_set = requiring(data.test(), Required::Answer);
    let train_problems = problems(ranks, &train_set, "data.train")?;
    let validation = problems(ranks, &validation_set, "data.validation")?;
    let test = problems(ranks, &test_set, "data.test")?;
    assert_disjoint(&train_problems, &validation, &test)?;
    if train_problems.is_empty() {
        bail!("data.train.path names no problems: there is nothing to learn from");
    }
    let placement = open::placement_on(settings.compute, ranks.local_rank())?;
    let memory = memory_plan(settings, Residence::of(&placement))?;
    say(ranks, &format!("memory: {memory}"))?;
    memory.check(&placement.device)?;
    let models = Models::open(settings, &placement)?;
    let positions = models.policy.transformer.config().max_positions;
    let completion = settings.sampling.max_completion_tokens;
    ensure!(
        completion < positions,
        "sampling.max_completion_tokens = {completion} leaves no room for a prompt: the model has {positions} positions"
    );
    hints(args, settings, out, ranks)?;
    let mut inputs = models.inputs(kind(args.trainer), settings, &train_problems);
    inputs.validation = &validation;
    inputs.ranks = ranks;
    let mode = if args.resume {
        RunMode::Resume
    } else {
        RunMode::Fresh
    };
    let progress = is_first(ranks).then(|| Progress::new("train", 0));
    let on_alarm = args.on_alarm.clone().map(|action| AlarmCall {
        action,
        run: out.to_owned(),
    });
    let mut progress = Stoppable::new(progress, on_alarm)?;
    let trained = train(&inputs, out, mode, &mut progress)?;
    progress.finish();
    if is_first(ranks) {
        write_results(args, &trained, out)?;
    }
    say_ending(ranks, &trained, out)
}

/// Writes the last metrics as JSON, or the curves of the whole run to a terminal.
fn write_results(args: &TrainArgs, trained: &Trained, out: &Path) -> Result<()> {
    if args.json {
        let metrics = serde_json::to_string(&trained.metrics)?;
        writeln!(stdout(), "{metrics}")?;
    } else if stdout().is_terminal() {
        let lines = metrics::read(&out.join("metrics.jsonl"))?;
        let rows: Vec<MetricRow> = lines.iter().map(IterationMetrics::row).collect();
        write!(stdout(), "{}", curves(&rows))?;
    }
    Ok(())
}

/// Notes on settings that may not be intended.
fn hints(args: &TrainArgs, settings: &Settings, out: &Path, ranks: &dyn Collective) -> Result<()> {
    let warmup = settings.reward.schedule.warmup_iterations;
    let iterations = settings.run.iterations;
    if matches!(args.trainer, Trainer::Airl) && iterations <= warmup {
        say(
            ranks,
            &format!(
                "note: the reward alone will be trained: run.iterations = {iterations} do not go beyond \
                 reward.schedule.warmup_iterations = {warmup}"
            ),
        )?;
    }
    if args.resume && !out.join("settings.toml").exists() {
        open::refuse_several_runs(out)?;
        say(
            ranks,
            &format!("note: there is no run in {} yet: it starts", out.display()),
        )?;
    }
    Ok(())
}

/// Prints a message on the first rank only.
fn say(ranks: &dyn Collective, text: &str) -> Result<()> {
    if is_first(ranks) {
        message(text)?;
    }
    Ok(())
}

fn say_ending(ranks: &dyn Collective, trained: &Trained, out: &Path) -> Result<Ending> {
    let (done, total, out) = (trained.iterations, trained.total, out.display());
    if trained.ended_early {
        let why = trained.early_stop.as_ref().map(ToString::to_string);
        let why = why.unwrap_or_default();
        say(
            ranks,
            &format!("ended early after iteration {done} of {total} ({why}): {out}"),
        )?;
        return Ok(Ending::Done);
    }
    if done < total {
        say(
            ranks,
            &format!(
                "stopped after iteration {done} of {total}: continue with the same command and --resume ({out})"
            ),
        )?;
        return Ok(Ending::Stopped);
    }
    say(ranks, &format!("done: {out}"))?;
    Ok(Ending::Done)
}

/// The base models of both players.
pub(crate) struct Models {
    policy: LanguageModel,
    /// The discriminator's base model, if it differs from the policy's.
    reward: Option<LanguageModel>,
}

impl Models {
    pub(crate) fn open(settings: &Settings, placement: &Placement) -> Result<Self> {
        let other = (!is_shared(settings)).then(|| reward_base(settings));
        Ok(Self {
            policy: base(&settings.model, "model.path", placement)?,
            reward: other
                .map(|other| base(&other, "reward_model.path", placement))
                .transpose()?,
        })
    }

    /// The inputs of a trainer in a single process, with training problems and without validation
    /// problems.
    pub(crate) fn inputs<'i>(
        &'i self,
        kind: TrainerKind,
        settings: &'i Settings,
        train: &'i [Problem],
    ) -> TrainInputs<'i> {
        let reward = self.reward.as_ref().unwrap_or(&self.policy);
        TrainInputs {
            kind,
            settings,
            model: &self.policy,
            reward_backbone: Arc::clone(&reward.transformer),
            train,
            validation: &[],
            ranks: &SingleProcess,
        }
    }
}

/// The trainer of the command line.
fn kind(trainer: Trainer) -> TrainerKind {
    match trainer {
        Trainer::Sft => TrainerKind::Sft,
        Trainer::Grpo => TrainerKind::Grpo,
        Trainer::Airl => TrainerKind::Airl,
    }
}

/// Whether both players have one base model in memory.
fn is_shared(settings: &Settings) -> bool {
    *settings.reward_model_path() == settings.model.path
}

/// The settings of the discriminator's own base model, with the storage of the policy's.
fn reward_base(settings: &Settings) -> ModelSettings {
    ModelSettings {
        path: settings.reward_model.path.clone(),
        storage: settings.model.storage,
    }
}

/// The memory plan of a run, computed from the shapes of its models and the sizes of their files.
fn memory_plan(settings: &Settings, residence: Residence) -> Result<MemoryPlan> {
    let shape = |model: &ModelSettings, key: &str| -> Result<BaseShape> {
        ensure_named(&model.path, key)?;
        let path = open::locate(&model.path)?;
        let stored = model.storage == Storage::AsStored && path.is_file();
        Ok(BaseShape {
            config: ModelConfig::read(&path)?,
            stored_bytes: match stored {
                true => Some(fs::metadata(&path)?.len()),
                false => None,
            },
        })
    };
    let policy = shape(&settings.model, "model.path")?;
    let reward = match is_shared(settings) {
        true => None,
        false => Some(shape(&reward_base(settings), "reward_model.path")?),
    };
    Ok(MemoryPlan::of_run(
        &policy,
        reward.as_ref(),
        settings,
        residence,
    ))
}

fn ensure_named(path: &Path, key: &str) -> Result<()> {
    ensure!(
        !path.as_os_str().is_empty(),
        "setting `{key}` is empty: name a Hugging Face directory, a .gguf file or a hub name"
    );
    Ok(())
}

fn base(model: &ModelSettings, key: &str, placement: &Placement) -> Result<LanguageModel> {
    ensure_named(&model.path, key)?;
    Ok(open::stored(&model.path, model.storage, placement)?)
}

/// Default of the fields that a training problem must have. Only `grpo` reads answers.
fn required_to_train(trainer: Trainer) -> Required {
    match trainer {
        Trainer::Sft | Trainer::Airl => Required::Demonstration,
        Trainer::Grpo => Required::DemonstrationAndAnswer,
    }
}

/// Sets the required fields of a data set to `required` if its settings do not name them.
fn requiring(settings: DatasetSettings, required: Required) -> DatasetSettings {
    DatasetSettings {
        required: settings.required.or(Some(required)),
        ..settings
    }
}

/// The problems of a data set; none for an empty path. Prints which records are left out.
fn problems(ranks: &dyn Collective, settings: &DatasetSettings, key: &str) -> Result<Vec<Problem>> {
    if settings.path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let (problems, report) = load_problems(settings).with_context(|| format!("reading {key}"))?;
    for line in report.lines() {
        say(ranks, &format!("{key}: {line}"))?;
    }
    Ok(problems)
}
