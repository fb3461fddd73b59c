//! Rollouts from a server: prompts go out, the policy's adapter is handed over, completions come back as if drawn here.
//!
//! Each completion is a request of its own with a seed of its stream (seed, ROLLOUT, t, p, i), so which other completions are
//! under way does not matter to the server's generator. An answer that cannot be used (other tokens than log-probabilities, text that
//! encodes differently) is asked for again with the stream's next number. The trainer's own log-probabilities are computed here; their
//! gap to the server's is logged, and importance weights correct for it (`policy.objective.importance_cap`).

mod answer;
mod client;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use assay_lm::draw::SamplingSettings as DrawSettings;
use assay_lm::sampling::Completion;
use assay_lm::{ControlTokens, LanguageModel};
use assay_tasks::random::Stream;
use serde_json::{Value, json};

use self::answer::Sampled;
use self::client::Client;
use super::rollout::{RolloutPlan, stream};
use super::start::save_policy;
use crate::IrlError;
use crate::metrics::IterationMetrics;
use crate::player::{Passes, infer_all};
use crate::policy_model::PolicyModel;
use crate::settings::{EngineSettings, Handover, PromptForm};

/// How often a completion is asked for whose answer cannot be used.
const USELESS: usize = 4;
/// Bits of a seed: servers read it as a signed integer of 32 bits.
const SEED_BITS: u32 = 31;

/// A server that samples for the trainer.
pub struct RolloutServer {
    client: Client,
    model: String,
    prompts: PromptForm,
    handover: Handover,
    concurrency: usize,
    /// Where adapters are written for the server.
    adapters: PathBuf,
    /// Answers that could not be used since [`RolloutServer::describe`] last told.
    discarded: AtomicUsize,
}

/// One prompt and the streams of the completions wanted from it.
struct Job<'j> {
    prompt: &'j Value,
    stream: Stream,
}

impl RolloutServer {
    /// The server that the settings name; `None` where this process samples. `run` is the run's directory.
    ///
    /// # Errors
    /// Names the key file that cannot be read.
    pub fn new(settings: &EngineSettings, run: &Path) -> Result<Option<Self>, IrlError> {
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
        let patience = (Duration::from_secs(*timeout_seconds), *attempts);
        Ok(Some(Self {
            client: Client::new(url, key_file, patience)?,
            model: model.clone(),
            prompts: *prompts,
            handover: *handover,
            concurrency: *concurrency,
            adapters: run.join("handover"),
            discarded: AtomicUsize::new(0),
        }))
    }

    /// Writes what the server's answers of an iteration were like into its metrics.
    ///
    /// # Errors
    /// As [`IterationMetrics::set`].
    pub(super) fn describe(&self, metrics: &mut IterationMetrics) -> Result<(), IrlError> {
        let discarded = self.discarded.swap(0, Ordering::Relaxed);
        metrics.set("rollout/discarded_answers", discarded as f64)
    }

    /// Completions of every prompt, in order, sampled by the server from `policy`.
    ///
    /// # Errors
    /// [`IrlError::RolloutServer`] when it cannot be reached, refuses, or keeps answering what cannot be used.
    pub(super) fn sample(
        &self,
        (policy, model): (&PolicyModel, &LanguageModel),
        problems: &[(usize, Vec<u32>)],
        (plan, passes): (&RolloutPlan<'_>, Passes<'_>),
        mut on_token: impl FnMut(usize),
    ) -> Result<Vec<Vec<Completion>>, IrlError> {
        let name = self.hand_over(policy, model, plan.stream_path.last().copied().unwrap_or(0))?;
        let prompts: Vec<Value> = problems
            .iter()
            .map(|(_, p)| self.prompt(model, p))
            .collect();
        let jobs: Vec<Job<'_>> = problems
            .iter()
            .zip(&prompts)
            .flat_map(|((index, _), prompt)| {
                (0..plan.samples).map(move |sample| Job {
                    prompt,
                    stream: stream(plan, *index, sample),
                })
            })
            .collect();
        let ask = |job: &Job<'_>| self.ask(&name, job, (model, plan));
        let sampled = at_once(&jobs, self.concurrency, ask, |one| on_token(one.ids.len()))?;
        let groups: Vec<_> = problems
            .iter()
            .zip(sampled.chunks(plan.samples))
            .map(|((_, prompt), own)| assay_lm::packed::Group {
                prompt: prompt.clone(),
                completions: own.iter().map(|one| one.ids.clone()).collect(),
            })
            .collect();
        let own = infer_all(policy, &groups, passes)?;
        let mut completions = sampled.into_iter().zip(own);
        let group = |_| {
            let group = completions.by_ref().take(plan.samples);
            group.map(|(one, own)| one.into_completion(own)).collect()
        };
        Ok(problems.iter().map(group).collect())
    }

    fn prompt(&self, model: &LanguageModel, ids: &[u32]) -> Value {
        match self.prompts {
            PromptForm::TokenIds => json!(ids),
            PromptForm::Text => json!(model.tokenizer.decode(ids, ControlTokens::Keep)),
        }
    }

    /// One completion; asks again while the answer cannot be used.
    fn ask(
        &self,
        name: &str,
        job: &Job<'_>,
        (model, plan): (&LanguageModel, &RolloutPlan<'_>),
    ) -> Result<Sampled, IrlError> {
        let mut seeds = job.stream.clone();
        let mut reason = String::new();
        for _ in 0..USELESS {
            let seed = seeds.next_u64() >> (u64::BITS - SEED_BITS);
            let body = self.request(name, job.prompt, seed, (model, plan));
            let answer = self.client.post("completions", &body)?;
            match Sampled::read(&answer, model, plan.limits.max_new_tokens) {
                Ok(sampled) => return Ok(sampled),
                Err(why) => reason = why,
            }
            self.discarded.fetch_add(1, Ordering::Relaxed);
        }
        let reason = format!("{USELESS} answers that cannot be used, the last: {reason}");
        Err(self.client.error("completions", reason))
    }

    fn request(
        &self,
        name: &str,
        prompt: &Value,
        seed: u64,
        (model, plan): (&LanguageModel, &RolloutPlan<'_>),
    ) -> Value {
        let mut body = json!({
            "model": name,
            "prompt": prompt,
            "max_tokens": plan.limits.max_new_tokens,
            "seed": seed,
            "logprobs": 1,
            "return_token_ids": true,
            "return_tokens_as_token_ids": true,
            "stop_token_ids": [model.end_of_turn()],
        });
        let distribution = distribution(plan.sampling, model.transformer.config().vocab_size);
        for (field, value) in distribution {
            body[field] = value;
        }
        body
    }

    /// Gives the server the policy's adapter and returns the name to sample from.
    fn hand_over(
        &self,
        policy: &PolicyModel,
        model: &LanguageModel,
        iteration: u64,
    ) -> Result<String, IrlError> {
        if self.handover == Handover::None {
            return Ok(self.model.clone());
        }
        let (name, dir) = self.adapter(iteration);
        let made = std::fs::create_dir_all(&dir);
        made.map_err(|source| IrlError::io("creating", &dir, source))?;
        save_policy(policy, model, &dir)?;
        let path = std::path::absolute(&dir);
        let path = path.map_err(|source| IrlError::io("finding", &dir, source))?;
        // A run that resumes loads under a name that the server may still have.
        let _ = self.unload(&name);
        let body = json!({ "lora_name": name, "lora_path": path });
        self.client.post("load_lora_adapter", &body)?;
        if let Some(before) = iteration.checked_sub(1) {
            let (before, dir) = self.adapter(before);
            let _ = self.unload(&before);
            let _ = std::fs::remove_dir_all(dir);
        }
        Ok(name)
    }

    fn unload(&self, name: &str) -> Result<Vec<u8>, IrlError> {
        let body = json!({ "lora_name": name });
        self.client.post("unload_lora_adapter", &body)
    }

    fn adapter(&self, iteration: u64) -> (String, PathBuf) {
        let name = format!("assay-{iteration}");
        let dir = self.adapters.join(&name);
        (name, dir)
    }
}

/// The distribution that completions are drawn from, field by field.
///
/// A server fills a field that is not there with a default of its own or of the model's (top-k 40, min-p 0.05 and a repetition
/// penalty of 1.1 in llama-cpp-python, `generation_config.json` in vLLM), and then draws from another distribution than the one it gives
/// log-probabilities of. So everything that is off is said to be off, under the names of all servers. Servers disagree on what no
/// top-k is called, 0 or -1; the whole vocabulary is understood by all.
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

/// Runs `work` on every job, `concurrency` at a time; `done` hears of each in the order they end, the result has the jobs' order.
///
/// The first error stops what has not begun and is returned.
fn at_once<J: Sync, R: Send>(
    jobs: &[J],
    concurrency: usize,
    work: impl Fn(&J) -> Result<R, IrlError> + Sync,
    mut done: impl FnMut(&R),
) -> Result<Vec<R>, IrlError> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, results) = mpsc::channel();
    let mut collected: Vec<Option<R>> = jobs.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        for _ in 0..concurrency.min(jobs.len()) {
            let (sender, next, failed, work) = (sender.clone(), &next, &failed, &work);
            scope.spawn(move || {
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    let result = work(job);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    if sender.send((index, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (index, result) in results {
            let result = result?;
            done(&result);
            collected[index] = Some(result);
        }
        Ok::<(), IrlError>(())
    })?;
    Ok(collected.into_iter().flatten().collect())
}
