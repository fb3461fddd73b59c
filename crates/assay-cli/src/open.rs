//! Opens the files that commands name: models, adapters, rewards, problems, traces.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use assay_critic::policy_model::{PolicyModel, Trainable};
use assay_critic::reward_model::{HEAD_FILE, RewardModel};
use assay_lm::hub::{self, HubSettings};
use assay_lm::{DeviceName, LanguageModel, LmError, Placement, PlacementSettings, Storage, peft};
use assay_tasks::datasets::{DatasetSettings, LoadReport, load_problems};
use assay_tasks::problem::Problem;
use assay_tasks::prompts::PromptSettings;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::{StepTrace, holds_step_traces, read_foreign_traces, read_step_traces};
use assay_train::settings::Settings;
use assay_train::stored_reward;

use crate::allocator::while_loading;
use crate::args::{Style, TemplateName};
use crate::progress::{Downloads, message};

/// The file that every run directory has.
const SETTINGS_FILE: &str = "settings.toml";

/// The local path of a file, directory or hub name. Downloads the files that are not in the cache.
pub(crate) fn locate(name: &Path) -> Result<PathBuf, LmError> {
    let mut downloads = Downloads::default();
    let path = hub::locate(name, &HubSettings::from_env(), &mut |download| {
        downloads.show(download)
    });
    downloads.finish();
    path
}

/// Opens a model by its directory, file or hub name. Adapters trained on it store this name.
pub(crate) fn model(name: &Path, placement: &Placement) -> Result<LanguageModel, LmError> {
    stored(name, Storage::Expanded, placement)
}

/// The device that settings or options name. Prints the device that `auto` selects.
pub(crate) fn placement(settings: PlacementSettings) -> Result<Placement> {
    placement_on(settings, 0)
}

/// [`placement`] for a process with this number among those of a run on this machine.
pub(crate) fn placement_on(settings: PlacementSettings, local_rank: usize) -> Result<Placement> {
    let placement = settings.resolve_on(local_rank)?;
    if settings.device == DeviceName::Auto && cfg!(feature = "cuda") {
        message(&format!("computing on {placement}"))?;
    }
    Ok(placement)
}

/// [`model`], with quantised matrices stored as `storage` says.
pub(crate) fn stored(
    name: &Path,
    storage: Storage,
    placement: &Placement,
) -> Result<LanguageModel, LmError> {
    let path = locate(name)?;
    let mut model = while_loading(|| LanguageModel::open(&path, storage, placement))?;
    model.name = name.display().to_string();
    Ok(model)
}

/// The settings of the run that contains a player's directory (`RUN/checkpoints/iter-N/reward`).
pub(crate) fn settings_of_run(player: &Path) -> Result<Option<Settings>> {
    let absolute = std::path::absolute(player)?;
    let run = absolute.ancestors().nth(3);
    let settings = run.map(|run| run.join(SETTINGS_FILE));
    let Some(path) = settings.filter(|path| path.is_file()) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let settings = Settings::from_toml(&text, &path.display().to_string())?;
    Ok(Some(settings))
}

/// The prompt settings of a policy: the given style and template, else those of the adapter's run.
pub(crate) fn prompt_settings(
    adapter: Option<&Path>,
    style: Option<Style>,
    template: Option<TemplateName>,
) -> Result<PromptSettings> {
    let adapter = adapter.filter(|_| style.is_none());
    let run = adapter.map(settings_of_run).transpose()?.flatten();
    let mut prompt = run.map_or_else(PromptSettings::default, |run| run.prompt);
    if let Some(style) = style {
        prompt.style = style.into();
    }
    if let Some(template) = template {
        prompt.template = template.into();
    }
    Ok(prompt)
}

/// A policy for inference: a model with or without an adapter.
pub(crate) fn policy(model: &LanguageModel, adapter: Option<&Path>) -> Result<PolicyModel> {
    let Some(dir) = adapter else {
        return Ok(PolicyModel {
            transformer: Arc::clone(&model.transformer),
            trainable: Trainable::Whole(Vec::new()),
        });
    };
    let path = locate(dir)?;
    ensure!(
        !path.join(HEAD_FILE).exists(),
        "{} is a reward, not a policy",
        dir.display()
    );
    let (loaded, transformer) = peft::load_with_base(&path, &model.transformer)?;
    if loaded.is_on_other_weights(&model.transformer) {
        message(&format!(
            "warning: {} was trained on other weights than those that {} holds now",
            dir.display(),
            model.name
        ))?;
    }
    let device = transformer.placement().device;
    let adapter = loaded.adapter.to_device(&device)?;
    Ok(PolicyModel {
        transformer,
        trainable: Trainable::Adapter(adapter),
    })
}

/// Opens a reward and its base model: `base`, or the one that the reward names.
pub(crate) fn reward(
    dir: &Path,
    base: Option<&Path>,
    placement: &Placement,
) -> Result<(LanguageModel, RewardModel)> {
    let dir = reward_dir(locate(dir)?)?;
    let open = |path: &Path| model(path, placement);
    let stored = stored_reward::open(&dir, base, open, &mut note)?;
    Ok((stored.model, stored.reward))
}

/// The message that a directory is not a run, with the runs inside it: a quickstart's or a sweep's
/// directory holds several.
pub(crate) fn no_run(dir: &Path) -> String {
    let inside = runs_inside(dir);
    if inside.is_empty() {
        return format!("{} is not a run directory", dir.display());
    }
    let names: Vec<String> = inside.iter().map(|run| run.display().to_string()).collect();
    format!(
        "{} is not a run directory but holds runs; name one of them: {}",
        dir.display(),
        names.join(", ")
    )
}

/// Fails for a directory that is not a run itself but holds runs.
pub(crate) fn refuse_several_runs(dir: &Path) -> Result<()> {
    let several = !dir.join(SETTINGS_FILE).is_file() && !runs_inside(dir).is_empty();
    ensure!(!several, "{}", no_run(dir));
    Ok(())
}

/// The run directories among a directory's subdirectories and their subdirectories, sorted by name.
fn runs_inside(dir: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let is_run = |path: &PathBuf| path.join(SETTINGS_FILE).is_file();
    let children = below(dir);
    let grandchildren = children.iter().filter(|child| !is_run(child));
    let grandchildren: Vec<PathBuf> = grandchildren.flat_map(|child| below(child)).collect();
    children
        .into_iter()
        .chain(grandchildren)
        .filter(is_run)
        .collect()
}

/// The reward directory that `dir` is or contains. Prints which one is used.
pub(crate) fn reward_dir(dir: PathBuf) -> Result<PathBuf> {
    let dir = stored_reward::directory(dir, &mut note)?;
    if !dir.join(peft::CONFIG_FILE).exists() {
        refuse_several_runs(&dir)?;
        ensure!(
            !dir.join("config.json").exists(),
            "{} is a whole model, such as a token classifier: only adapters are read as rewards; train one on \
             it, or serve it with transformers",
            dir.display()
        );
    }
    Ok(dir)
}

/// Opens a reward on its base model. Fails if the weights differ from those that it was trained on,
/// unless `base` names the model.
pub(crate) fn reward_on(
    model: &LanguageModel,
    dir: &Path,
    base: Option<&Path>,
) -> Result<RewardModel> {
    Ok(stored_reward::on_model(model, dir, base, &mut note)?)
}

/// Writes a note to stderr; a closed stderr is not an error.
fn note(text: &str) {
    drop(message(text));
}

/// The problems of a data set. Prints which records are left out.
pub(crate) fn problems(settings: &DatasetSettings) -> Result<Vec<Problem>> {
    ensure!(settings.limit != Some(0), "--limit must be at least 1");
    let path = settings.path.display();
    let (problems, report) = load_problems(settings)?;
    print_report(&path.to_string(), &report)?;
    ensure!(!problems.is_empty(), "{path} holds no record");
    Ok(problems)
}

/// Prints the records left out of a file and the notes about it, one line each with the file's
/// name.
pub(crate) fn print_report(name: &str, report: &LoadReport) -> Result<()> {
    for line in report.lines() {
        message(&format!("{name}: {line}"))?;
    }
    Ok(())
}

/// The contents of a file of traces.
pub(crate) enum Traces {
    /// Whole texts.
    Texts(Vec<ScoredTrace>),
    /// Texts split into steps, with the index of the first wrong step (ProcessBench).
    Steps(Vec<StepTrace>),
}

/// Reads traces in assay's format, in one of the two formats of other programs, or in
/// ProcessBench's.
pub(crate) fn traces(path: &Path) -> Result<Traces> {
    Ok(if holds_steps(path)? {
        Traces::Steps(step_traces(path)?)
    } else {
        Traces::Texts(read_foreign_traces(path)?)
    })
}

/// Reads traces split into steps. Prints which are left out.
pub(crate) fn step_traces(path: &Path) -> Result<Vec<StepTrace>> {
    let (traces, report) = read_step_traces(path)?;
    print_report(&path.display().to_string(), &report)?;
    Ok(traces)
}

/// Whether a file holds traces split into steps, in ProcessBench's format.
pub(crate) fn holds_steps(path: &Path) -> Result<bool> {
    ensure_readable_twice(path)?;
    Ok(holds_step_traces(path)?)
}

/// Fails for a pipe, which cannot be read twice.
pub(crate) fn ensure_readable_twice(path: &Path) -> Result<()> {
    let pipe = std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    ensure!(
        !pipe,
        "{} is not a regular file: it is read twice, so write it to a file first",
        path.display()
    );
    Ok(())
}

/// Fails if the output file is a directory, a device or one of the inputs. Called before the work
/// begins.
pub(crate) fn ensure_output(out: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(found) = std::fs::metadata(out) else {
        return Ok(());
    };
    ensure!(
        found.is_file(),
        "--out {} is a directory or a device; name a file",
        out.display()
    );
    let same = |input: &&&Path| input.canonicalize().ok() == out.canonicalize().ok();
    if let Some(input) = inputs.iter().find(same) {
        bail!(
            "--out {} would overwrite the input {}; name another file",
            out.display(),
            input.display()
        );
    }
    Ok(())
}
