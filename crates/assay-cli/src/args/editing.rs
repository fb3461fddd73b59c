//! The options of `assay edit`.

use std::path::PathBuf;

use clap::Args;

use super::{LayoutArgs, Style};

#[derive(Args)]
pub(crate) struct EditArgs {
    /// Problems with demonstrations.
    #[arg(long)]
    pub(crate) problems: PathBuf,
    /// Layout of the problems.
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// Use the first N problems only.
    #[arg(long)]
    pub(crate) limit: Option<usize>,
    /// Prompt style of the run that will train with the edits.
    #[arg(long, value_enum, default_value = "gsm8k")]
    pub(crate) style: Style,
    /// Address of an OpenAI-compatible server, before `/chat/completions`.
    #[arg(long, default_value = "http://127.0.0.1:8000/v1")]
    pub(crate) server: String,
    /// Name of the model on the server.
    #[arg(long)]
    pub(crate) model: String,
    /// File with the server's bearer token.
    #[arg(long)]
    pub(crate) key_file: Option<PathBuf>,
    /// Edits per demonstration, each of another step. A demonstration with fewer steps gets one per
    /// step.
    #[arg(long, default_value_t = 2)]
    pub(crate) edits: usize,
    /// Seed of the choice of steps and of the server's samples.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Maximum number of tokens in an answer of the server.
    #[arg(long, default_value_t = 256)]
    pub(crate) max_tokens: usize,
    /// Number of requests at a time.
    #[arg(long, default_value_t = 8)]
    pub(crate) concurrency: usize,
    /// Seconds until a request counts as failed.
    #[arg(long, default_value_t = 120)]
    pub(crate) timeout: u64,
    /// Maximum number of attempts of a request that fails.
    #[arg(long, default_value_t = 5)]
    pub(crate) attempts: usize,
    /// Print the number of requests and the first one; send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Output file for the edits. Edits that it holds already are not made again.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Print counts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
