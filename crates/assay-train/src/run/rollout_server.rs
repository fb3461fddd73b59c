//! Rollouts from a server, which receives the prompts and the policy's adapter and returns
//! completions.
//!
//! Each completion is a separate request. Its seed comes from its stream (seed, rollout, t, p, i),
//! so it does not depend on concurrent requests. If a response cannot be used (tokens and
//! log-probabilities differ in number, or text encodes differently), the request is repeated with
//! the stream's next number. This process computes its own log-probabilities. Their gap to the
//! server's is logged, and importance weights correct for it (`policy.objective.importance_cap`).

mod answer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use assay_critic::PolicyModel;
use assay_critic::encode::Encoder;
use assay_lm::draw::DrawSettings;
use assay_lm::packed::Group;
use assay_lm::sampling::Completion;
use assay_lm::{ControlTokens, LanguageModel};
use assay_tasks::random::Stream;
use serde_json::{Value, json};

use self::answer::Sampled;
use super::rollout::{RolloutPlan, add_samples};
use super::start::save_policy;
use crate::TrainError;
use crate::execution::{Execution, infer_all};
use crate::remote::{Client, RetryLimits, run_jobs};
use crate::settings::{EngineSettings, Handover, PromptForm};
use crate::trace::PromptGroup;

/// Maximum number of unusable responses for one completion.
const MAX_UNUSABLE_ANSWERS: usize = 4;
/// Bits of a seed, which servers read as a signed 32-bit integer.
const SEED_BITS: u32 = 31;

/// A server that samples for the trainer.
pub(super) struct RolloutServer {
    client: Client,
    model: String,
    prompts: PromptForm,
    handover: Handover,
    concurrency: usize,
    /// Directory of the adapters for the server.
    adapters: PathBuf,
    /// Number of unusable responses since [`RolloutServer::take_discarded`].
    discarded: AtomicUsize,
}

/// The policy that a server samples from, and the decoder of the server's responses.
pub(super) struct Sampler<'s> {
    pub(super) policy: &'s PolicyModel,
    pub(super) model: &'s LanguageModel,
    pub(super) encoder: &'s Encoder<'s>,
    pub(super) execution: Execution<'s>,
}

/// One requested completion: its prompt and its random stream.
struct Job<'j> {
    prompt: &'j Value,
    stream: Stream,
}

/// The fields that all requests of a rollout share.
struct RequestForm<'r> {
    /// Name of the model or adapter on the server.
    name: &'r str,
    model: &'r LanguageModel,
    plan: &'r RolloutPlan<'r>,
}

impl RolloutServer {
    /// The server that the settings name; `None` if this process samples. `run` is the run's
    /// directory.
    ///
    /// # Errors
    /// Names the key file that cannot be read.
    pub(super) fn new(settings: &EngineSettings, run: &Path) -> Result<Option<Self>, TrainError> {
        let EngineSettings::Openai {
            url,
            model,
            key_file,
            prompts,
            handover,
            concurrency,
            timeout_seconds,
            attempts,
        } = settings
        else {
            return Ok(None);
        };
        let retries = RetryLimits {
            timeout: Duration::from_secs(*timeout_seconds),
            attempts: *attempts,
        };
        Ok(Some(Self {
            client: Client::new(url, key_file, retries)
                .map_err(|source| TrainError::io("reading the key", key_file, source))?,
            model: model.clone(),
            prompts: *prompts,
            handover: *handover,
            concurrency: *concurrency,
            adapters: run.join("handover"),
            discarded: AtomicUsize::new(0),
        }))
    }

    /// Number of unusable responses since the last call.
    pub(super) fn take_discarded(&self) -> usize {
        self.discarded.swap(0, Ordering::Relaxed)
    }

    /// Adds completions that the server samples from the policy to every group.
    ///
    /// # Errors
    /// [`TrainError::RolloutServer`] if the server cannot be reached, returns an error, or keeps
    /// sending unusable responses.
    pub(super) fn sample(
        &self,
        sampler: &Sampler<'_>,
        groups: &mut [PromptGroup],
        plan: &RolloutPlan<'_>,
        mut on_token: impl FnMut(usize),
    ) -> Result<(), TrainError> {
        let iteration = plan.stream_path.last().copied().unwrap_or(0);
        let name = self.hand_over(sampler.policy, sampler.model, iteration)?;
        let prompts = groups.iter().map(|g| self.prompt(sampler.model, &g.prompt));
        let prompts: Vec<Value> = prompts.collect();
        let jobs: Vec<Job<'_>> = groups
            .iter()
            .zip(&prompts)
            .flat_map(|(group, prompt)| {
                (0..plan.samples).map(move |sample| Job {
                    prompt,
                    stream: plan.stream(group.index, sample),
                })
            })
            .collect();
        let form = RequestForm {
            name: &name,
            model: sampler.model,
            plan,
        };
        let ask = |job: &Job<'_>| self.ask(job, &form);
        let sampled = run_jobs(&jobs, self.concurrency, ask, |one| {
            on_token(one.ids.len());
            Ok(())
        })?;
        let drawn = groups.iter().zip(sampled.chunks(plan.samples));
        let packed: Vec<Group> = drawn
            .map(|(group, own)| Group {
                prompt: group.prompt.to_vec(),
                completions: own.iter().map(|one| one.ids.clone()).collect(),
            })
            .collect();
        let logprobs = infer_all(sampler.policy, &packed, sampler.execution)?;
        let mut completions = sampled.into_iter().zip(logprobs);
        let of_group = |_: &PromptGroup| -> Vec<Completion> {
            let own = completions.by_ref().take(plan.samples);
            own.map(|(one, logprobs)| one.into_completion(logprobs))
                .collect()
        };
        let drawn = groups.iter().map(of_group).collect();
        add_samples(sampler.encoder, groups, drawn);
        Ok(())
    }

    fn prompt(&self, model: &LanguageModel, ids: &[u32]) -> Value {
        match self.prompts {
            PromptForm::TokenIds => json!(ids),
            PromptForm::Text => json!(model.tokenizer.decode(ids, ControlTokens::Keep)),
        }
    }

    /// One completion. Repeats the request if the response cannot be used.
    fn ask(&self, job: &Job<'_>, form: &RequestForm<'_>) -> Result<Sampled, TrainError> {
        let mut seeds = job.stream.clone();
        let mut reason = String::new();
        for _ in 0..MAX_UNUSABLE_ANSWERS {
            let seed = seeds.next_u64() >> (u64::BITS - SEED_BITS);
            let answer = self
                .client
                .post("completions", &form.body(job.prompt, seed))?;
            let limit = form.plan.limits.max_new_tokens;
            match Sampled::read(&answer, form.model, limit) {
                Ok(sampled) => return Ok(sampled),
                Err(why) => reason = why,
            }
            self.discarded.fetch_add(1, Ordering::Relaxed);
        }
        let reason =
            format!("{MAX_UNUSABLE_ANSWERS} answers that cannot be used, the last: {reason}");
        Err(self.client.error("completions", reason).into())
    }

    /// Loads the policy's adapter on the server and returns its name there.
    fn hand_over(
        &self,
        policy: &PolicyModel,
        model: &LanguageModel,
        iteration: u64,
    ) -> Result<String, TrainError> {
        if self.handover == Handover::None {
            return Ok(self.model.clone());
        }
        let Adapter { name, dir } = self.adapter(iteration);
        let made = std::fs::create_dir_all(&dir);
        made.map_err(|source| TrainError::io("creating", &dir, source))?;
        save_policy(policy, model, &dir)?;
        let path = std::path::absolute(&dir);
        let path = path.map_err(|source| TrainError::io("finding", &dir, source))?;
        // After a resume the server may still have an adapter with this name.
        let _ = self.unload(&name);
        let body = json!({ "lora_name": name, "lora_path": path });
        self.client.post("load_lora_adapter", &body)?;
        if let Some(before) = iteration.checked_sub(1) {
            let before = self.adapter(before);
            let _ = self.unload(&before.name);
            let _ = std::fs::remove_dir_all(before.dir);
        }
        Ok(name)
    }

    fn unload(&self, name: &str) -> Result<Vec<u8>, TrainError> {
        let body = json!({ "lora_name": name });
        Ok(self.client.post("unload_lora_adapter", &body)?)
    }

    fn adapter(&self, iteration: u64) -> Adapter {
        let name = format!("assay-{iteration}");
        let dir = self.adapters.join(&name);
        Adapter { name, dir }
    }
}

/// An adapter for the server: its name there and its directory.
struct Adapter {
    name: String,
    dir: PathBuf,
}

impl RequestForm<'_> {
    fn body(&self, prompt: &Value, seed: u64) -> Value {
        let mut body = json!({
            "model": self.name,
            "prompt": prompt,
            "max_tokens": self.plan.limits.max_new_tokens,
            "seed": seed,
            "logprobs": 1,
            "return_token_ids": true,
            "return_tokens_as_token_ids": true,
            "stop_token_ids": [self.model.end_of_turn()],
        });
        let vocabulary = self.model.transformer.config().vocab_size;
        for (field, value) in distribution(self.plan.sampling, vocabulary) {
            body[field] = value;
        }
        body
    }
}

/// The request fields of the sampling distribution.
///
/// A server replaces a missing field by its own default or the model's (top-k 40, min-p 0.05 and a
/// repetition penalty of 1.1 in llama-cpp-python, `generation_config.json` in vLLM). It then
/// samples from another distribution than the one whose log-probabilities it returns. So every
/// field is sent, under the names of all servers. Servers disagree on the value for "no top-k", 0
/// or -1; all accept the size of the vocabulary.
fn distribution(
    draw: &DrawSettings,
    vocabulary: usize,
) -> impl Iterator<Item = (&'static str, Value)> + use<> {
    let top_k = match draw.top_k {
        0 => vocabulary,
        limit => limit,
    };
    [
        ("temperature", json!(draw.temperature)),
        ("top_p", json!(draw.top_p)),
        ("top_k", json!(top_k)),
        ("min_p", json!(0.0)),
        ("presence_penalty", json!(0.0)),
        ("frequency_penalty", json!(0.0)),
        // vLLM and SGLang.
        ("repetition_penalty", json!(1.0)),
        // llama.cpp.
        ("repeat_penalty", json!(1.0)),
    ]
    .into_iter()
}
