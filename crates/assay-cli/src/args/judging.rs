//! The options of `assay judge`.

use std::path::PathBuf;

use clap::Args;

use super::{ComputeArgs, LayoutArgs, Style};

#[derive(Args)]
pub(crate) struct JudgeArgs {
    /// Where to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// The model that judges: a directory, a .gguf file or a hub name.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// An adapter on it.
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// Problems with demonstrations; a trace belongs to the problem with its question.
    #[arg(long)]
    pub(crate) problems: PathBuf,
    /// How the problems are laid out.
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// Traces: assay's or the two foreign shapes.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// Prompt style that the traces were written in.
    #[arg(long, value_enum, default_value = "gsm8k")]
    pub(crate) style: Style,
    /// Misleading versions of each demonstration that the judge reads beside it.
    #[arg(long, default_value_t = 2)]
    pub(crate) hints: usize,
    /// Seed of the misleading versions.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Rows of a packed batch.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Where the judged traces go.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Print counts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
