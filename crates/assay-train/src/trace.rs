//! The record of a trace, which rollout, labels, rewards, advantages, objective, replay buffer and
//! failure report share.
//!
//! A [`PromptGroup`] holds the traces of one prompt, a [`Trace`] all data of one of them. Both are
//! cheap to clone: problem, prompt, tokens and log-probabilities are shared. Losses borrow views of
//! the record ([`crate::reward::loss::LabelledTrace`], `policy::objective::PolicyTrace`).

use std::sync::Arc;

use assay_critic::encode::{Demonstration, EncodedCompletion};
use assay_lm::packed::Group;
use assay_tasks::problem::Problem;
use serde::{Deserialize, Serialize};

/// Who wrote a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceRole {
    /// An expert demonstration: positive.
    Expert,
    /// A sample of the policy: negative.
    Policy,
    /// A demonstration with an injected error, or a branch of it: negative from the error on.
    Perturbed,
}

/// One completion with all its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Who wrote it.
    pub role: TraceRole,
    /// Text, tokens and offsets.
    pub completion: Arc<EncodedCompletion>,
    /// How it was sampled; `None` for a trace that was not sampled.
    pub sampling: Option<Arc<SampleRecord>>,
    /// The result of the answer check.
    pub verdict: Verdict,
    /// Which tokens are wrong, or differ from the demonstration.
    pub spans: TokenSpans,
    /// Weight of the trace among traces of its role; usually 1.
    pub weight: f32,
    /// r_t, one f32 per completion token; empty before the trace is scored.
    #[serde(default)]
    pub rewards: Vec<f32>,
    /// The judge's token rewards, one f32 per completion token; empty for a trace that was not
    /// judged.
    #[serde(default)]
    pub judged: Vec<f32>,
}

/// How a trace was sampled.
///
/// # Shapes
/// Both lists have one f32 per completion token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// log-probabilities under the distribution that the tokens were sampled from.
    pub sampling_logprobs: Vec<f32>,
    /// log-probabilities under the policy itself.
    pub policy_logprobs: Vec<f32>,
    /// Whether the completion ended at the token limit.
    pub truncated: bool,
}

/// The result of the answer check. Training from demonstrations never uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The answer read from the text.
    pub predicted_answer: Option<String>,
    /// Whether it equals the gold answer; `None` without a gold answer.
    pub correct: Option<bool>,
}

/// Tokens of a trace that the labels depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSpans {
    /// Perturbed traces: the first corrupted token; with `None` the whole trace counts as
    /// corrupted.
    pub corrupted_from: Option<usize>,
    /// Perturbed traces: the first token after the corrupted span; `None` if the span reaches the
    /// end.
    pub corrupted_until: Option<usize>,
    /// Policy samples, and wrong traces whose error a person marked: the first token that differs
    /// from the demonstration; `None` when they are equal.
    pub diverges_at: Option<usize>,
}

/// The traces of one prompt.
#[derive(Clone, Debug)]
pub struct PromptGroup {
    /// Index of the problem in its data set, which is part of the keys of its random streams.
    pub index: usize,
    /// The problem.
    pub problem: Arc<Problem>,
    /// Token ids of the rendered prompt.
    pub prompt: Arc<[u32]>,
    /// Its traces.
    pub traces: Vec<Trace>,
}

impl Trace {
    /// A trace with a completion and no other data.
    pub fn new(role: TraceRole, completion: EncodedCompletion) -> Self {
        Self {
            role,
            completion: Arc::new(completion),
            sampling: None,
            verdict: Verdict::default(),
            spans: TokenSpans::default(),
            weight: 1.0,
            rewards: Vec::new(),
            judged: Vec::new(),
        }
    }

    /// Number of completion tokens.
    pub fn len(&self) -> usize {
        self.completion.ids.len()
    }

    /// Whether the completion has no token.
    pub fn is_empty(&self) -> bool {
        self.completion.ids.is_empty()
    }

    /// Whether the trace ended at the token limit.
    pub fn is_truncated(&self) -> bool {
        self.sampling.as_ref().is_some_and(|drawn| drawn.truncated)
    }
}

impl PromptGroup {
    /// A prompt without traces.
    pub fn new(index: usize, problem: Problem, prompt: Vec<u32>) -> Self {
        Self {
            index,
            problem: Arc::new(problem),
            prompt: prompt.into(),
            traces: Vec::new(),
        }
    }

    /// A prompt with its expert demonstration.
    pub fn of_demonstration(index: usize, demonstration: Demonstration) -> Self {
        let expert = Trace::new(TraceRole::Expert, demonstration.completion);
        Self::new(index, demonstration.problem, demonstration.prompt).with_traces(vec![expert])
    }

    /// The same prompt with other traces.
    pub fn with_traces(&self, traces: Vec<Trace>) -> Self {
        Self {
            index: self.index,
            problem: Arc::clone(&self.problem),
            prompt: Arc::clone(&self.prompt),
            traces,
        }
    }

    /// The expert demonstration, if it is among the traces.
    pub fn demonstration(&self) -> Option<&Trace> {
        let mut traces = self.traces.iter();
        traces.find(|trace| trace.role == TraceRole::Expert)
    }

    /// The policy's samples, in the order of sampling.
    pub fn samples(&self) -> impl Iterator<Item = &Trace> + Clone {
        let is_sample = |trace: &&Trace| trace.role == TraceRole::Policy;
        self.traces.iter().filter(is_sample)
    }

    /// The branches of the demonstration: traces that differ from it from a known token on.
    pub fn branches(&self) -> impl Iterator<Item = &Trace> + Clone {
        let is_branch = |trace: &&Trace| trace.role == TraceRole::Perturbed;
        self.traces.iter().filter(is_branch)
    }

    /// Prompt and completions as the unit of a packed batch.
    pub fn packed(&self) -> Group {
        let ids = self.traces.iter().map(|trace| trace.completion.ids.clone());
        Group {
            prompt: self.prompt.to_vec(),
            completions: ids.collect(),
        }
    }
}

/// A policy sample of an earlier iteration, in the replay buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastSample {
    problem: String,
    prompt: Arc<[u32]>,
    trace: Trace,
}

impl PastSample {
    /// A sample of a group. Its log-probabilities are not kept: the policy has changed since.
    pub fn new(group: &PromptGroup, sample: &Trace) -> Self {
        Self {
            problem: group.problem.id.clone(),
            prompt: Arc::clone(&group.prompt),
            trace: Trace {
                sampling: None,
                rewards: Vec::new(),
                ..sample.clone()
            },
        }
    }

    /// The sample in a group of its own.
    pub fn group(&self) -> PromptGroup {
        let problem = Problem {
            id: self.problem.clone(),
            ..Problem::default()
        };
        PromptGroup {
            index: 0,
            problem: Arc::new(problem),
            prompt: Arc::clone(&self.prompt),
            traces: vec![self.trace.clone()],
        }
    }
}

/// All traces of several groups, group after group.
pub fn traces(groups: &[PromptGroup]) -> impl Iterator<Item = &Trace> + Clone {
    groups.iter().flat_map(|group| &group.traces)
}

/// The units of a packed batch.
pub fn packed(groups: &[PromptGroup]) -> Vec<Group> {
    groups.iter().map(PromptGroup::packed).collect()
}
