//! The options of `assay judge`.

use std::path::PathBuf;

use clap::Args;

use super::{ComputeArgs, LayoutArgs, Style};

#[derive(Args)]
pub(crate) struct JudgeArgs {
    /// Device and number type.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Judge: a Hugging Face directory, a .gguf file or a hub name.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Adapter of the judge (PEFT directory).
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// Problems with demonstrations; a trace belongs to the problem with its question.
    #[arg(long)]
    pub(crate) problems: PathBuf,
    /// Layout of the problems.
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// Traces in assay's format or in one of the two formats of other programs.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// Prompt style of the traces.
    #[arg(long, value_enum, default_value = "gsm8k")]
    pub(crate) style: Style,
    /// Number of misleading versions of each demonstration that the judge also reads.
    #[arg(long, default_value_t = 2)]
    pub(crate) hints: usize,
    /// Seed of the misleading versions.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Maximum number of token rows in a packed batch.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Output file for the scored traces.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Print counts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
