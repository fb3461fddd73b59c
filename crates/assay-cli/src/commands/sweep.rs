//! `assay sweep`: trains over arms and seeds, measures all runs alike and writes one table.
//!
//! Every run is an ordinary run directory, `OUT/ARM/seed-N`. It also holds `traces.jsonl` and
//! `summary.json` of new samples. A run that has its summary is skipped; a stopped run continues.

mod grid;
mod measure;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use assay_evals::statistics::{BootstrapSettings, Estimate, crossed_mean};
use assay_evals::{Summary, segment};
use assay_report::{Cell, Table};
use assay_train::checkpoint::write_file;
use assay_train::settings::Settings;

use crate::args::{SweepArgs, TrainArgs};
use crate::commands::train;
use crate::output::print_summary;
use crate::progress::message;
use grid::{Arm, Grid};
use measure::Measured;

/// The columns: heading and entry of a run's summary. `at_N` stands for the largest N.
const COLUMNS: [(&str, &str); 8] = [
    ("pass@1", measure::PASS_AT_1),
    ("majority", "select.majority.at_N"),
    ("best of N", "select.best_of_n.at_N"),
    ("weighted vote", "select.weighted_vote.at_N"),
    ("AUROC", "critic.auroc"),
    ("AUROC within", "critic.auroc_within"),
    ("rho length", "critic.length_spearman"),
    ("Hit@1", "localisation.hit_1"),
];

/// Runs the command.
pub(crate) fn run(args: &SweepArgs) -> Result<()> {
    let grid = Grid::read(&args.grid)?;
    let runs = runs(args, &grid)?;
    if args.dry_run {
        let mut out = std::io::stdout();
        for run in &runs {
            writeln!(out, "{} {}", run.dir.display(), run.overrides.join(" "))?;
        }
        return Ok(());
    }
    let mut by_arm: BTreeMap<usize, Vec<Measured>> = BTreeMap::new();
    for (place, run) in runs.iter().enumerate() {
        message(&format!(
            "sweep {}/{}: {}",
            place + 1,
            runs.len(),
            run.dir.display()
        ))?;
        by_arm
            .entry(run.arm)
            .or_default()
            .push(finished(run, args, &grid)?);
    }
    let arms: Vec<(&str, &[Measured])> = by_arm
        .iter()
        .map(|(arm, measured)| (grid.arms[*arm].name.as_str(), measured.as_slice()))
        .collect();
    let summary = summary(&arms);
    let table = table(&arms);
    summary.write(&args.out.join("sweep.json"))?;
    write_file(&args.out.join("sweep.csv"), table.csv().as_bytes())?;
    write_file(&args.out.join("sweep.tex"), table.latex().as_bytes())?;
    match args.json {
        true => print_summary(&summary, true),
        false => Ok(write!(std::io::stdout(), "{}", text(&table))?),
    }
}

/// One run of the sweep.
struct SweepRun {
    arm: usize,
    dir: PathBuf,
    overrides: Vec<String>,
    settings: Settings,
}

/// All runs with their settings, which are checked before the first run begins.
fn runs(args: &SweepArgs, grid: &Grid) -> Result<Vec<SweepRun>> {
    let mut runs = Vec::new();
    for (place, Arm { name, set }) in grid.arms.iter().enumerate() {
        for seed in &grid.seeds {
            let own = set.iter().cloned().chain([format!("seed={seed}")]);
            let overrides: Vec<String> = args.set.iter().cloned().chain(own).collect();
            let settings = Settings::load(std::slice::from_ref(&args.config), &overrides)
                .with_context(|| format!("arm `{name}` of {}", args.grid.display()))?;
            runs.push(SweepRun {
                arm: place,
                dir: args.out.join(name).join(format!("seed-{seed}")),
                overrides,
                settings,
            });
        }
    }
    Ok(runs)
}

/// Trains and measures a run, or reads its summary if it already has one.
fn finished(run: &SweepRun, args: &SweepArgs, grid: &Grid) -> Result<Measured> {
    let begun = run.dir.join("settings.toml");
    if begun.exists() && run.dir.join("summary.json").exists() {
        let before = std::fs::read_to_string(&begun)
            .with_context(|| format!("cannot read {}", begun.display()))?;
        ensure!(
            Settings::from_toml(&before, &begun.display().to_string())? == run.settings,
            "{} was made with other settings: choose another --out, or remove that directory",
            run.dir.display()
        );
        return measure::read(&run.dir);
    }
    let ended = train::run(&TrainArgs {
        trainer: grid.trainer,
        config: args.config.clone(),
        set: run.overrides.clone(),
        out: Some(run.dir.clone()),
        resume: begun.exists(),
        on_alarm: None,
        dry_run: false,
        json: false,
    })?;
    ensure!(
        ended == train::Ending::Done,
        "the sweep was stopped: run the same command again to continue it"
    );
    measure::measure(&run.dir, &run.settings)
}

/// `sweep.<arm>.<entry>`: the mean over seeds, and over problems if the entry has a value per
/// problem. `sweep_difference.<arm>.<entry>`: the paired difference from the first arm.
fn summary(arms: &[(&str, &[Measured])]) -> Summary {
    let mut summary = Summary::default();
    for (name, runs) in arms {
        for (_, entry) in COLUMNS {
            let entry_name = entry.trim_end_matches(".at_N");
            let key = format!("{}.{}", segment(name), entry_name);
            summary.insert_some(&format!("sweep.{key}"), over(runs, entry));
            if let Some((_, base)) = arms.first().filter(|(first, _)| first != name) {
                let difference = difference(runs, base, entry);
                summary.insert_some(&format!("sweep_difference.{key}"), difference);
            }
        }
    }
    summary
}

/// Mean over seeds. The interval resamples seeds and, if there are values per problem, problems.
fn over(runs: &[Measured], entry: &str) -> Option<Estimate> {
    let rows: Vec<BTreeMap<String, f64>> =
        runs.iter().filter_map(|run| run.values(entry)).collect();
    crossed(&rows)
}

/// Mean difference of two arms, on the seeds and problems that both have.
fn difference(runs: &[Measured], base: &[Measured], entry: &str) -> Option<Estimate> {
    let rows: Vec<BTreeMap<String, f64>> = runs
        .iter()
        .zip(base)
        .filter_map(|(own, other)| {
            let (own, other) = (own.values(entry)?, other.values(entry)?);
            let paired = own.into_iter().filter_map(|(id, value)| {
                let difference = value - other.get(&id)?;
                Some((id, difference))
            });
            Some(paired.collect())
        })
        .collect();
    crossed(&rows)
}

/// The estimate of values by seed and problem. Problems that a seed lacks are left out.
fn crossed(rows: &[BTreeMap<String, f64>]) -> Option<Estimate> {
    let first = rows.first()?;
    let shared: Vec<&String> = first
        .keys()
        .filter(|id| rows.iter().all(|row| row.contains_key(*id)))
        .collect();
    let rectangle: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| shared.iter().map(|id| row[*id]).collect())
        .collect();
    crossed_mean(&rectangle, &BootstrapSettings::default())
}

fn table(arms: &[(&str, &[Measured])]) -> Table {
    let shown: Vec<(&str, &str)> = COLUMNS
        .into_iter()
        .filter(|(_, entry)| arms.iter().any(|(_, runs)| over(runs, entry).is_some()))
        .collect();
    let row = |(name, runs): &(&str, &[Measured])| {
        let cells = shown
            .iter()
            .map(|(_, entry)| Cell::Value(over(runs, entry)));
        let named = Cell::Text(format!("{name} ({} seeds)", runs.len()));
        std::iter::once(named).chain(cells).collect()
    };
    Table {
        name: "sweep".to_owned(),
        caption: "Mean over seeds, 95 % intervals over seeds and problems".to_owned(),
        header: std::iter::once("arm".to_owned())
            .chain(shown.iter().map(|(heading, _)| (*heading).to_owned()))
            .collect(),
        rows: arms.iter().map(row).collect(),
    }
}

/// The table for a terminal.
fn text(table: &Table) -> String {
    let cell = |cell: &Cell| match cell {
        Cell::Text(text) => text.clone(),
        Cell::Value(None) => "-".to_owned(),
        Cell::Value(Some(e)) => format!("{:.3} [{:.3}, {:.3}]", e.value, e.low, e.high),
    };
    let mut lines: Vec<Vec<String>> = vec![table.header.clone()];
    lines.extend(table.rows.iter().map(|row| row.iter().map(cell).collect()));
    let width = |place: usize| {
        lines
            .iter()
            .map(|line| line[place].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.header.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text + &format!("{}\n", table.caption)
}

/// The newest complete checkpoint of a run.
fn newest(dir: &Path) -> Result<PathBuf> {
    let newest = assay_train::checkpoint::newest_whole(dir)?.whole;
    let (_, path) = newest.with_context(|| {
        format!(
            "{} has no checkpoint: the sweep measures the last one, which every run writes at its end",
            dir.display()
        )
    })?;
    Ok(path)
}
