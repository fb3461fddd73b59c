//! Options of the commands that exchange files with other programs and with the hub.

use std::path::PathBuf;

use assay_lm::directory::WeightType;
use assay_lm::hub::RepoName;
use clap::{Args, ValueEnum};

use crate::commands::export::repository;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Adapters: OUT/policy and, for an airl run, OUT/reward.
    Peft,
    /// The policy as one Hugging Face model directory.
    Merged,
    /// A reward with a linear head as one Hugging Face token classifier.
    MergedReward,
    /// metrics.jsonl as a TensorBoard event file.
    Tensorboard,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Dtype {
    #[value(name = "float32")]
    F32,
    #[value(name = "bfloat16")]
    Bf16,
}

impl From<Dtype> for WeightType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// A run directory. Without it, --push pushes the directory that --out names as it is.
    #[arg(long, required_unless_present = "push", requires = "format")]
    pub(crate) run: Option<PathBuf>,
    /// Format to write.
    #[arg(long, value_enum, requires = "run")]
    pub(crate) format: Option<ExportFormat>,
    /// Output directory; with --run it must not exist yet.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Then upload the output directory to this model repository of the Hugging Face hub, which is
    /// created if need be. HF_TOKEN, or the file of `hf auth login`, holds the token.
    #[arg(long, value_name = "ORG/NAME", value_parser = repository)]
    pub(crate) push: Option<RepoName>,
    /// List the files that --push would upload, with their bytes; nothing is sent.
    #[arg(long, requires = "push")]
    pub(crate) dry_run: bool,
    /// Iteration of the checkpoint. Default: the newest.
    #[arg(long)]
    pub(crate) checkpoint: Option<usize>,
    /// Path of the base model. Default: the one that the checkpoint names.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Base model name to write, for example its hub name. Default: the one that the checkpoint
    /// names.
    #[arg(long)]
    pub(crate) base_name: Option<String>,
    /// Number type of the written weights: of a merged model or of adapters.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub(crate) dtype: Dtype,
    /// Print what was written as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct FetchArgs {
    /// org/name, org/name@revision, org/name/file.gguf, or datasets/org/name.
    pub(crate) name: PathBuf,
}
