//! The sampling engine of training.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// The sampling engine of training. Evaluation always samples in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EngineSettings {
    /// This process.
    #[default]
    Local,
    /// A file of traces sampled earlier. The samples of a prompt are the traces of its question, in
    /// the file's order. Only a discriminator learns from them; the policy does not change.
    File {
        /// The traces.
        path: PathBuf,
    },
    /// A server that speaks OpenAI's completions with log-probabilities: vLLM, SGLang, llama.cpp.
    Openai {
        /// The address before `/completions`.
        #[serde(default = "default_url")]
        url: String,
        /// The base model's name on the server.
        #[serde(default)]
        model: String,
        /// File with the bearer token; empty for none.
        #[serde(default)]
        key_file: PathBuf,
        /// How prompts are sent.
        #[serde(default)]
        prompts: PromptForm,
        /// How the server gets the policy's weights.
        #[serde(default)]
        handover: Handover,
        /// Maximum number of concurrent requests, one completion each.
        #[serde(default = "default_concurrency")]
        concurrency: usize,
        /// Seconds until a request counts as failed.
        #[serde(default = "default_timeout")]
        timeout_seconds: u64,
        /// Maximum number of attempts of a request after a failed connection, a timeout, 429 or
        /// 5xx.
        #[serde(default = "default_attempts")]
        attempts: usize,
    },
}

/// How prompts are sent to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptForm {
    /// As token ids, so that tokenizers cannot differ.
    #[default]
    TokenIds,
    /// As text, for servers that accept no ids. The server's tokenizer must be the same.
    Text,
}

/// How a server gets the policy's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// vLLM's `load_lora_adapter`: each iteration writes the adapter into the run directory, which
    /// the server must be able to read.
    #[default]
    Vllm,
    /// Not at all: the base model samples. Importance weights correct for it up to their cap.
    None,
}

fn default_url() -> String {
    "http://127.0.0.1:8000/v1".to_owned()
}

fn default_concurrency() -> usize {
    16
}

fn default_timeout() -> u64 {
    600
}

fn default_attempts() -> usize {
    5
}

impl EngineSettings {
    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str) -> Result<(), TrainError> {
        let Self::Openai {
            url,
            concurrency,
            timeout_seconds,
            attempts,
            ..
        } = self
        else {
            return Ok(());
        };
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            let reason = format!("must begin with http:// or https://, not be {url:?}");
            return Err(TrainError::setting(format!("{key}.url"), reason));
        }
        let counts = [
            ("concurrency", *concurrency),
            ("timeout_seconds", *timeout_seconds as usize),
            ("attempts", *attempts),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(TrainError::setting(
                format!("{key}.{name}"),
                "must be at least 1, not 0",
            )),
            None => Ok(()),
        }
    }
}
