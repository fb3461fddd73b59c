//! The grid file: trainer, seeds and arms.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Deserialize;

use crate::args::Trainer;

/// Maximum number of runs of a sweep. More are taken for a mistake in the grid.
const MOST_RUNS: usize = 10_000;
/// Largest grid file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A sweep with all its arms; axes are expanded.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) trainer: Trainer,
    pub(super) seeds: Vec<u64>,
    pub(super) arms: Vec<Arm>,
}

/// One row of the table: settings that override the shared ones.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arm {
    /// Name of the arm and of its directory.
    pub(super) name: String,
    /// Settings as `--set` takes them.
    #[serde(default)]
    pub(super) set: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GridFile {
    #[serde(default = "airl")]
    trainer: String,
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    #[serde(default)]
    arm: Vec<Arm>,
    /// Settings with lists of values. The arms are all combinations of the values.
    #[serde(default)]
    axes: toml::Table,
}

fn airl() -> String {
    "airl".to_owned()
}

fn one_seed() -> Vec<u64> {
    vec![42]
}

impl Grid {
    /// Reads a grid file.
    ///
    /// # Errors
    /// The file cannot be read or is invalid.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading {}", path.display());
        let size = std::fs::metadata(path).with_context(reading)?.len();
        ensure!(
            size <= MAX_FILE,
            "{} has {size} bytes; a grid file has at most {MAX_FILE}",
            path.display()
        );
        let text = std::fs::read_to_string(path).with_context(reading)?;
        Self::parse(&text).with_context(reading)
    }

    fn parse(text: &str) -> Result<Self> {
        let file: GridFile = toml::from_str(text)?;
        let trainer = Trainer::from_str(&file.trainer, false).map_err(|_| {
            anyhow::anyhow!("trainer `{}` is none of sft, grpo, airl", file.trainer)
        })?;
        ensure!(!file.seeds.is_empty(), "`seeds` is empty");
        let mut arms = match file.arm.is_empty() {
            true => vec![Arm {
                name: String::new(),
                set: Vec::new(),
            }],
            false => file.arm,
        };
        for (key, values) in &file.axes {
            let values = values
                .as_array()
                .filter(|values| !values.is_empty())
                .with_context(|| {
                    format!("`axes.{key}` must be a list of values, the key in quotes")
                })?;
            ensure!(
                arms.len() * values.len() <= MOST_RUNS,
                "the axes give more than {MOST_RUNS} arms"
            );
            arms = arms
                .iter()
                .flat_map(|arm| values.iter().map(move |value| arm.with(key, value)))
                .collect();
        }
        let grid = Self {
            trainer,
            seeds: file.seeds,
            arms,
        };
        grid.check()?;
        Ok(grid)
    }

    fn check(&self) -> Result<()> {
        let runs = self.arms.len() * self.seeds.len();
        ensure!(runs <= MOST_RUNS, "{runs} runs are more than {MOST_RUNS}");
        for (place, arm) in self.arms.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.=,".contains(c);
            ensure!(
                !arm.name.is_empty() && arm.name.chars().all(plain) && !arm.name.starts_with('.'),
                "the arm `{}` needs a name of letters, digits and -_.=, that does not begin with a dot: it names a directory",
                arm.name
            );
            ensure!(
                self.arms[..place]
                    .iter()
                    .all(|other| other.name != arm.name),
                "two arms are called `{}`",
                arm.name
            );
        }
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        ensure!(
            seeds.len() == self.seeds.len(),
            "`seeds` lists a seed twice"
        );
        Ok(())
    }
}

impl Arm {
    fn with(&self, key: &str, value: &toml::Value) -> Self {
        let short = key.rsplit('.').next().unwrap_or(key);
        let shown = match value {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let name = format!("{short}={shown}");
        let set = self.set.iter().cloned();
        Self {
            name: match self.name.is_empty() {
                true => name,
                false => format!("{},{name}", self.name),
            },
            set: set.chain([format!("{key}={value}")]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_multiply_the_arms() {
        let grid = Grid::parse(
            "trainer = 'grpo'\nseeds = [1, 2]\n[[arm]]\nname = 'a'\n[[arm]]\nname = 'b'\nset = ['x.y=1']\n\
             [axes]\n\"p.gamma\" = [0.5, 0.9]\n\"p.kind\" = ['k']\n",
        )
        .unwrap();
        let names: Vec<&str> = grid.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "a,gamma=0.5,kind=k",
                "a,gamma=0.9,kind=k",
                "b,gamma=0.5,kind=k",
                "b,gamma=0.9,kind=k"
            ]
        );
        assert_eq!(grid.arms[2].set, ["x.y=1", "p.gamma=0.5", "p.kind=\"k\""]);
        assert_eq!(grid.seeds, [1, 2]);
    }

    #[test]
    fn grids_without_meaning_are_refused() {
        let refused = |text: &str| format!("{:#}", Grid::parse(text).unwrap_err());
        assert!(refused("[[arm]]\nname = '../x'").contains("names a directory"));
        assert!(refused("[[arm]]\nname = 'a'\n[[arm]]\nname = 'a'").contains("two arms"));
        assert!(refused("seeds = [1, 1]\n[[arm]]\nname = 'a'").contains("twice"));
        assert!(refused("trainer = 'sgd'\n[[arm]]\nname = 'a'").contains("sgd"));
        assert!(refused("sedes = [1]").contains("sedes"));
        assert!(refused("[axes]\na.b = [1]").contains("axes.a"));
        assert!(refused("").contains("needs a name"));
        let many = format!(
            "seeds = {:?}\n[axes]\nx = {:?}",
            (0..200).collect::<Vec<_>>(),
            (0..200).collect::<Vec<_>>()
        );
        assert!(refused(&many).contains("40000 runs"));
    }
}
