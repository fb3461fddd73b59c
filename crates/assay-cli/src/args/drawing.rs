//! What `sample` and `search` have in common: the problems, how completions are drawn, where they
//! go.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use assay_critic::encode::TokenLimits;
use assay_lm::LanguageModel;
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::datasets::{DatasetSettings, Required};
use assay_tasks::problem::Problem;
use assay_tasks::trace_io::TraceWriter;
use clap::Args;

use super::LayoutArgs;
use crate::open;

#[derive(Args)]
pub(crate) struct DrawArgs {
    /// Problems: JSON lines or a JSON array (also gzip or zstd), or parquet. `*` in the name
    /// matches any text.
    #[arg(long)]
    pub(crate) problems: PathBuf,
    /// Layout of the problems.
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// Use the first N problems only.
    #[arg(long)]
    pub(crate) limit: Option<usize>,
    /// Output file for the traces.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Sampling temperature.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) temperature: f64,
    /// Top-p: probability mass of the likeliest tokens that are kept; 1 keeps all.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// Top-k: number of likeliest tokens that are kept; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Maximum number of tokens in a completion.
    #[arg(long, default_value_t = 300)]
    pub(crate) max_tokens: usize,
    /// Maximum number of sequences that are decoded at a time.
    #[arg(long, default_value_t = 64)]
    pub(crate) batch: usize,
    /// Seed of the samples.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
}

impl DrawArgs {
    /// Checks the options, reads the problems and creates the output file.
    pub(crate) fn open(&self) -> Result<(Vec<Problem>, TraceWriter)> {
        ensure!(self.max_tokens > 0, "--max-tokens must be at least 1");
        ensure!(self.batch > 0, "--batch must be at least 1");
        open::ensure_output(&self.out, &[&self.problems])?;
        let problems = open::problems(&DatasetSettings {
            limit: self.limit,
            ..self.layout.settings(&self.problems, Required::Question)
        })?;
        Ok((problems, TraceWriter::create(&self.out)?))
    }

    /// The sampling distribution.
    pub(crate) fn distribution(&self) -> Result<DrawSettings> {
        let draw = DrawSettings {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
        };
        draw.validate()?;
        Ok(draw)
    }

    /// Token limits of prompts and completions, and limits of sampling.
    pub(crate) fn limits(&self, model: &LanguageModel) -> Result<(TokenLimits, SamplingLimits)> {
        let positions = model.transformer.config().max_positions;
        ensure!(
            self.max_tokens < positions,
            "--max-tokens {} leaves no room for a prompt: the model has {positions} positions",
            self.max_tokens
        );
        let texts = TokenLimits {
            prompt: positions - self.max_tokens,
            completion: self.max_tokens,
        };
        let sampling = SamplingLimits {
            max_new_tokens: self.max_tokens,
            stop_tokens: vec![model.end_of_turn()],
            max_sequences: self.batch,
        };
        Ok((texts, sampling))
    }
}
