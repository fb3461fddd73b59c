//! Options of the commands that read traces and rewards and tell what they hold.

use std::path::PathBuf;

use assay_evals::GroupBy;
use clap::{Args, ValueEnum};

use super::{ComputeArgs, LayoutArgs};

/// What a choice is made among.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Among {
    /// The traces that one generator wrote for a problem.
    Generator,
    /// All traces of a problem, whoever wrote them.
    Problem,
}

impl From<Among> for GroupBy {
    fn from(among: Among) -> Self {
        match among {
            Among::Generator => Self::Generator,
            Among::Problem => Self::Problem,
        }
    }
}

/// How well one chooses.
#[derive(Args)]
pub(crate) struct SelectArgs {
    /// Scored traces.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// One selector; all of them otherwise.
    #[arg(long)]
    pub(crate) selector: Option<String>,
    /// Trace score of the reward selectors.
    #[arg(long, default_value = "mean")]
    pub(crate) score: String,
    /// Among which traces is chosen: those of one generator, or all of a problem.
    #[arg(long, value_enum, default_value_t = Among::Generator)]
    pub(crate) among: Among,
    /// Reward directory whose calibration.json gives the trace score and the selectors' constants instead.
    #[arg(long, conflicts_with = "score")]
    pub(crate) calibration: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct EvalArgs {
    /// Scored traces.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// Trace score of the reward.
    #[arg(long, default_value = "mean")]
    pub(crate) score: String,
    /// Reward directory whose calibration.json, fitted on validation traces, is used instead of cross-fitting.
    #[arg(long, conflicts_with = "score")]
    pub(crate) calibration: Option<PathBuf>,
    /// Also write the summary here.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct LocaliseArgs {
    /// Where to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Reward: a checkpoint's reward directory or an exported adapter.
    #[arg(long)]
    pub(crate) reward: PathBuf,
    /// Base model of the reward; the one named in it otherwise.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Demonstrations, or step traces as ProcessBench has them: JSON lines or a JSON array (also in gzip or zstd), or
    /// parquet.
    #[arg(long)]
    pub(crate) demonstrations: PathBuf,
    /// How the demonstrations are laid out.
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// Use the first N demonstrations only.
    #[arg(long)]
    pub(crate) limit: Option<usize>,
    /// Perturbation kinds; number errors otherwise. May be repeated.
    #[arg(long = "kind")]
    pub(crate) kinds: Vec<String>,
    /// Seed of the injected errors.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Rows of a packed batch.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct CalibrateArgs {
    /// Scored traces of validation problems.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// Reward directory: calibration.json is written into it.
    #[arg(long)]
    pub(crate) reward: PathBuf,
    /// Name of the validation data; the traces' file name otherwise.
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// Print calibration.json instead of a summary.
    #[arg(long)]
    pub(crate) json: bool,
}

/// When to use colours.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never: digits below the text instead.
    Never,
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// Scored traces.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// Traces of this problem only.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Pass over that many of them.
    #[arg(long, default_value_t = 0)]
    pub(crate) skip: usize,
    /// Show at most that many.
    #[arg(long, default_value_t = 3)]
    pub(crate) limit: usize,
    /// When to use colours.
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

#[derive(Args)]
pub(crate) struct ReportArgs {
    /// A run directory. May be repeated: the runs stand side by side.
    #[arg(long, required_unless_present = "traces")]
    pub(crate) run: Vec<PathBuf>,
    /// Scored traces: of the run where there is one run and one file, else each file a run of its own.
    #[arg(long)]
    pub(crate) traces: Vec<PathBuf>,
    /// The HTML file.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Also write every figure as SVG and every table as CSV and LaTeX into this directory.
    #[arg(long)]
    pub(crate) figures: Option<PathBuf>,
    /// Print what was written as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
