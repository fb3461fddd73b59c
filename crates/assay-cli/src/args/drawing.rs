//! What `sample` and `search` have in common: the problems, how completions are drawn, where they go.

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
    /// Problems: JSON lines or a JSON array (also in gzip or zstd), or parquet; `*` in the name stands for any text.
    #[arg(long)]
    pub(crate) problems: PathBuf,
    /// How the problems are laid out.
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// Use the first N problems only.
    #[arg(long)]
    pub(crate) limit: Option<usize>,
    /// Where the traces go.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Sampling temperature.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) temperature: f64,
    /// Mass of the likeliest tokens that is kept.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// Number of likeliest tokens kept; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Most tokens a completion may have.
    #[arg(long, default_value_t = 300)]
    pub(crate) max_tokens: usize,
    /// Sequences decoded at a time.
    #[arg(long, default_value_t = 64)]
    pub(crate) batch: usize,
    /// Seed of the samples.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
}

impl DrawArgs {
    /// The problems, and the file of traces begun; numbers without meaning are refused before.
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

    /// The distribution that tokens are drawn from.
    pub(crate) fn distribution(&self) -> Result<DrawSettings> {
        let draw = DrawSettings {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
        };
        draw.validate()?;
        Ok(draw)
    }

    /// How long prompts and completions of a model may be, and how many there are at a time.
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
