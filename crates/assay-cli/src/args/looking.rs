//! Options of the commands that evaluate, print or report traces and rewards.

use std::path::PathBuf;

use assay_evals::GroupBy;
use clap::{Args, ValueEnum};

use super::{ComputeArgs, LayoutArgs};

/// The traces among which a selector chooses.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Among {
    /// The traces that one generator wrote for a problem.
    Generator,
    /// All traces of a problem, of all generators.
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

/// Options of `assay select`.
#[derive(Args)]
pub(crate) struct SelectArgs {
    /// Scored traces.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// Selector. Default: all.
    #[arg(long)]
    pub(crate) selector: Option<String>,
    /// Trace score of the reward selectors.
    #[arg(long, default_value = "mean")]
    pub(crate) score: String,
    /// Choose among the traces of one generator, or among all traces of a problem.
    #[arg(long, value_enum, default_value_t = Among::Generator)]
    pub(crate) among: Among,
    /// Reward directory with a calibration.json, which sets the trace score and the selectors'
    /// constants.
    #[arg(long, conflicts_with = "score")]
    pub(crate) calibration: Option<PathBuf>,
    /// Write the selector's choice of each problem to this file instead of measuring accuracy. The
    /// traces need no known correctness. Those cut at the token limit are left out, so that the
    /// file can be used as demonstrations.
    #[arg(long, requires = "selector")]
    pub(crate) out: Option<PathBuf>,
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
    /// Reward directory with a calibration.json, fitted on validation traces, to use instead of
    /// cross-fitting.
    #[arg(long, conflicts_with = "score")]
    pub(crate) calibration: Option<PathBuf>,
    /// Also write the summary to this file.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct LocaliseArgs {
    /// Device and number type.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Reward: a checkpoint's reward directory or an exported adapter.
    #[arg(long)]
    pub(crate) reward: PathBuf,
    /// Base model of the reward. Default: the one that the reward names.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Demonstrations, or step traces in ProcessBench's format: JSON lines or a JSON array (also
    /// gzip or zstd), or parquet.
    #[arg(long, required_unless_present = "labels")]
    pub(crate) demonstrations: Option<PathBuf>,
    /// File of labels that people made with `serve --labels`. The first wrong tokens that they mark
    /// are used instead of injected errors.
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["demonstrations", "kinds", "format", "question", "demonstration", "answer"])]
    pub(crate) labels: Option<PathBuf>,
    /// Layout of the demonstrations.
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// Use the first N demonstrations or labelled traces only.
    #[arg(long)]
    pub(crate) limit: Option<usize>,
    /// Perturbation kind. Default: number errors. May be repeated.
    #[arg(long = "kind")]
    pub(crate) kinds: Vec<String>,
    /// Seed of the injected errors.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Maximum number of token rows in a packed batch.
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
    /// Reward directory, into which calibration.json is written.
    #[arg(long)]
    pub(crate) reward: PathBuf,
    /// Name of the validation data. Default: the file name of the traces.
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
    /// Never; digits below the text show the rewards.
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
    /// Skip this many traces.
    #[arg(long, default_value_t = 0)]
    pub(crate) skip: usize,
    /// Show at most this many traces.
    #[arg(long, default_value_t = 3)]
    pub(crate) limit: usize,
    /// When to use colours.
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

#[derive(Args)]
pub(crate) struct ReportArgs {
    /// A run directory. May be repeated to compare runs.
    #[arg(long, required_unless_present = "traces")]
    pub(crate) run: Vec<PathBuf>,
    /// Scored traces. One file with one --run holds the traces of that run; otherwise each file is
    /// a run.
    #[arg(long)]
    pub(crate) traces: Vec<PathBuf>,
    /// Output file (HTML).
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Also write every figure as SVG and every table as CSV and LaTeX into this directory.
    #[arg(long)]
    pub(crate) figures: Option<PathBuf>,
    /// Print what was written as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
