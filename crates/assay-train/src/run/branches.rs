//! Branches of demonstrations: traces with an expert's prefix y_<t and another token than y_t.
//!
//! A branch is a perturbed trace whose first corrupted token is t. It is a continuation that the
//! policy samples in each iteration, or a wrong trace of the user. Whether a branch is really wrong
//! is not checked: it is a negative because the expert wrote something else.
//! [`crate::reward::loss`] labels its tokens.

use std::collections::HashMap;

use assay_critic::PolicyModel;
use assay_critic::encode::{EncodedCompletion, Encoder};
use assay_critic::player::TokenScalars;
use assay_lm::draw::DrawSettings;
use assay_lm::packed::Group;
use assay_lm::sampling::{Completion, SampleRequest, SamplingLimits, sample};
use assay_tasks::labels::FirstError;
use assay_tasks::prompts::PromptSettings;
use assay_tasks::random::{Stream, StreamKey};
use assay_tasks::wrong_traces::{WrongTrace, WrongTraces, read_wrong_traces};

use super::inputs::TrainInputs;
use super::observer::Observer;
use crate::TrainError;
use crate::execution::{Execution, infer_all};
use crate::settings::{BranchEnd, BranchPlace, BranchSettings, BranchSource};
use crate::trace::{PromptGroup, Trace, TraceRole};

/// Key of the file of wrong traces in messages.
const PATH_KEY: &str = "reward.branches.source.path";

/// Makes the branches of a run.
pub(super) struct Branches<'s> {
    settings: &'s BranchSettings,
    /// Tokens that end a line.
    line_breaks: Vec<u32>,
    /// The wrong traces of each demonstration, if they come from a file.
    from_file: Vec<Vec<Trace>>,
}

/// The inputs of branching other than the demonstrations.
#[derive(Clone, Copy)]
pub(super) struct BranchPlan<'p> {
    /// The policy that continues.
    pub(super) policy: &'p PolicyModel,
    /// Decodes the policy's tokens.
    pub(super) encoder: &'p Encoder<'p>,
    /// Token limits and sequences at a time.
    pub(super) limits: &'p SamplingLimits,
    /// Maximum number of packed tokens of a pass.
    pub(super) token_budget: usize,
    /// Iteration of the game, for the random streams.
    pub(super) iteration: usize,
    /// Seed of the run.
    pub(super) seed: u64,
}

/// The demonstration of a branch and the token where they differ.
struct Fork<'g> {
    /// Index of the group among those of the call.
    group: usize,
    prompt: &'g [u32],
    demonstration: &'g Trace,
    token: usize,
    stream: Stream,
}

/// A wrong trace in tokens, and where it differs from the demonstration.
#[derive(Clone, Copy)]
struct Places<'c> {
    completion: &'c EncodedCompletion,
    diverges_at: Option<usize>,
}

/// Numbers of wrong traces that cannot be branches, by reason.
#[derive(Debug, Default, PartialEq, Eq)]
struct LeftOut {
    unknown: usize,
    equal: usize,
    too_long: usize,
    /// Rendering changes their text before the mark.
    moved: usize,
    /// The mark is in the prefix that they share with the demonstration.
    shared: usize,
}

impl<'s> Branches<'s> {
    /// Reads and aligns the wrong traces if the settings name a file of them. Reports which are
    /// left out.
    ///
    /// # Errors
    /// The file cannot be read, or none of its traces belongs to a demonstration.
    pub(super) fn new(
        inputs: &TrainInputs<'s>,
        demonstrations: &[PromptGroup],
        encoder: &Encoder<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let settings = &inputs.settings.reward.branches;
        let mut branches = Self {
            settings,
            line_breaks: inputs.model.tokenizer.line_breaks(),
            from_file: Vec::new(),
        };
        if let BranchSource::File { path } = &settings.source
            && settings.per_demonstration > 0
        {
            let WrongTraces { traces, notes } = read_wrong_traces(path)
                .map_err(|error| TrainError::setting(PATH_KEY, error.to_string()))?;
            notes.iter().for_each(|note| observer.note(note));
            let prompt = &inputs.settings.prompt;
            let (aligned, left_out) = align(&traces, demonstrations, encoder, prompt)?;
            let used: usize = aligned.iter().map(Vec::len).sum();
            let (file, limit) = (
                path.display(),
                inputs.settings.sampling.max_completion_tokens,
            );
            let summary = left_out.summary(traces.len(), limit);
            if used == 0 {
                let reason = format!("{file} has no trace that can be used: {summary}");
                return Err(TrainError::setting(PATH_KEY, reason));
            }
            observer.note(&format!("{used} branches of {file}; {summary}"));
            branches.from_file = aligned;
        }
        Ok(branches)
    }

    /// Branches of each group's demonstration.
    ///
    /// # Errors
    /// The policy fails.
    pub(super) fn of(
        &self,
        groups: &[PromptGroup],
        plan: &BranchPlan<'_>,
    ) -> Result<Vec<Vec<Trace>>, TrainError> {
        match &self.settings.source {
            _ if self.settings.per_demonstration == 0 => Ok(vec![Vec::new(); groups.len()]),
            BranchSource::File { .. } => {
                Ok(groups.iter().map(|own| self.read(own, plan)).collect())
            }
            BranchSource::Policy { place, end } => {
                let weights = place.weights(groups, plan)?;
                self.continued(
                    &self.forks(groups, &weights, plan),
                    groups.len(),
                    *end,
                    plan,
                )
            }
        }
    }

    /// Some of a demonstration's wrong traces in the file; the selection changes with the
    /// iteration.
    fn read(&self, group: &PromptGroup, plan: &BranchPlan<'_>) -> Vec<Trace> {
        let mut own = self.from_file.get(group.index).cloned().unwrap_or_default();
        stream(group, plan).shuffle(&mut own);
        own.truncate(self.settings.per_demonstration);
        own
    }

    /// The tokens where the branches of each demonstration begin: distinct, drawn by weight.
    fn forks<'g>(
        &self,
        groups: &'g [PromptGroup],
        weights: &[Vec<f64>],
        plan: &BranchPlan<'_>,
    ) -> Vec<Fork<'g>> {
        let mut forks = Vec::new();
        for (index, (group, weights)) in groups.iter().zip(weights).enumerate() {
            let Some(demonstration) = group.demonstration() else {
                continue;
            };
            let mut stream = stream(group, plan);
            let tokens = different(weights, self.settings.per_demonstration, &mut stream);
            forks.extend(tokens.into_iter().map(|token| Fork {
                group: index,
                prompt: &group.prompt,
                demonstration,
                token,
                stream: StreamKey::Branch.stream(stream.next_u64(), &[]),
            }));
        }
        forks
    }

    /// The policy's continuations of the forks, one list for each of `groups` groups.
    fn continued(
        &self,
        forks: &[Fork<'_>],
        groups: usize,
        end: BranchEnd,
        plan: &BranchPlan<'_>,
    ) -> Result<Vec<Vec<Trace>>, TrainError> {
        let limit = plan.limits.max_new_tokens;
        let requests: Vec<SampleRequest> =
            forks.iter().map(|fork| fork.request(end, limit)).collect();
        let mut limits = plan.limits.clone();
        if end == BranchEnd::Step {
            limits.stop_tokens.extend(&self.line_breaks);
        }
        let (model, adapter) = (&plan.policy.transformer, plan.policy.adapter());
        let draw = DrawSettings::default();
        let drawn = sample(model, adapter, &requests, &draw, &limits, |_| ())?;
        let mut made = vec![Vec::new(); groups];
        for (fork, completions) in forks.iter().zip(drawn) {
            let branches = completions
                .iter()
                .filter_map(|drawn| fork.branch(drawn, end, plan));
            made[fork.group].extend(branches);
        }
        Ok(made)
    }
}

impl Fork<'_> {
    fn request(&self, end: BranchEnd, limit: usize) -> SampleRequest {
        let expert = &self.demonstration.completion.ids;
        SampleRequest {
            prompt: [self.prompt, &expert[..self.token]].concat(),
            streams: vec![self.stream.clone()],
            max_new_tokens: Some(match end {
                BranchEnd::Token => 1,
                BranchEnd::Step | BranchEnd::Trace => limit.saturating_sub(self.token).max(1),
            }),
            not_first: Some(expert[self.token]),
        }
    }

    /// The complete trace; `None` if its text, or its step, equals the demonstration's in other
    /// tokens.
    fn branch(&self, drawn: &Completion, end: BranchEnd, plan: &BranchPlan<'_>) -> Option<Trace> {
        let expert = &self.demonstration.completion;
        let ids = [&expert.ids[..self.token], &drawn.token_ids].concat();
        let ended = ids
            .last()
            .is_some_and(|last| expert.ids.last() == Some(last));
        let completion = plan.encoder.decode(&ids);
        let is_expert_text = match ended {
            true => completion.text == expert.text && ids.len() > self.token + 1,
            false => expert.text.starts_with(&completion.text),
        };
        if is_expert_text || end != BranchEnd::Token && self.is_paraphrase(&completion.text) {
            return None;
        }
        let mut trace = Trace::new(TraceRole::Perturbed, completion);
        trace.spans.corrupted_from = Some(self.token);
        trace.spans.corrupted_until = Some(step_end(&trace, self.token));
        Some(trace)
    }
}

impl Fork<'_> {
    /// Whether a branch that begins a step equals the expert's step except for its first word,
    /// which is added, missing or different: `so a is b`, `then a is b`, `a is b`.
    fn is_paraphrase(&self, branch: &str) -> bool {
        let expert = &self.demonstration.completion;
        let from = expert.offsets[self.token].0;
        let before = &expert.text[..from];
        if !(before.is_empty() || before.ends_with('\n')) {
            return false;
        }
        let line = |text: &str| text[from..].lines().next().unwrap_or("").trim().to_owned();
        let (own, other) = (line(branch), line(&expert.text));
        let rest = |line: &str| line.split_once(' ').map(|(_, rest)| rest.to_owned());
        let (own_rest, other_rest) = (rest(&own), rest(&other));
        own_rest.as_ref() == Some(&other)
            || other_rest.as_ref() == Some(&own)
            || own_rest.is_some() && own_rest == other_rest
    }
}

impl BranchPlace {
    /// Unnormalised probability that each completion token of each demonstration is chosen.
    fn weights(
        self,
        groups: &[PromptGroup],
        plan: &BranchPlan<'_>,
    ) -> Result<Vec<Vec<f64>>, TrainError> {
        let experts = groups.iter().map(|group| match group.demonstration() {
            Some(demonstration) => demonstration.completion.ids.clone(),
            None => Vec::new(),
        });
        match self {
            Self::Uniform => Ok(experts.map(|ids| vec![1.0; ids.len()]).collect()),
            Self::Surprise => {
                let packed = groups.iter().zip(experts).map(|(group, ids)| Group {
                    prompt: group.prompt.to_vec(),
                    completions: vec![ids],
                });
                let packed: Vec<Group> = packed.collect();
                let execution = Execution::single_process(plan.token_budget);
                let logprobs: TokenScalars = infer_all(plan.policy, &packed, execution)?;
                let surprise = |&logprob: &f32| 1.0 - f64::from(logprob).exp();
                let weights = logprobs
                    .iter()
                    .map(|own| own.iter().map(surprise).collect());
                Ok(weights.collect())
            }
        }
    }
}

impl LeftOut {
    fn summary(&self, total: usize, limit: usize) -> String {
        let mut summary = format!(
            "of {total} traces left out: {} of no demonstration, {} equal to theirs, {} beyond {limit} tokens",
            self.unknown, self.equal, self.too_long
        );
        if self.moved + self.shared > 0 {
            summary.push_str(&format!(
                ", {} whose text changes before the mark when it is rendered, {} marked where they are still the demonstration",
                self.moved, self.shared
            ));
        }
        summary
    }

    /// The first negative token of a wrong trace: the marked one, else the first that differs from
    /// the demonstration; in a marked passage the later of the two. Counts a trace that has none.
    fn place(&mut self, wrong: &WrongTrace, spans: Places<'_>) -> Option<usize> {
        let Places {
            completion,
            diverges_at,
        } = spans;
        let Some(diverges_at) = diverges_at else {
            self.equal += 1;
            return None;
        };
        let passage = wrong.wrong_span.as_ref().map(|passage| FirstError {
            start: passage.start,
            end: passage.end,
            token: None,
        });
        let Some(mark) = wrong.first_error.or(passage) else {
            return Some(diverges_at);
        };
        if !mark.stands_in(&wrong.text, &completion.text) {
            self.moved += 1;
            return None;
        }
        let marked = completion.token_at(&(mark.start..mark.end));
        let (from, end) = match passage {
            Some(_) => (
                marked.max(diverges_at),
                completion.first_after(mark.end, None),
            ),
            None => (marked, marked + 1),
        };
        if from < diverges_at || from >= end {
            self.shared += 1;
            return None;
        }
        Some(from)
    }
}

/// The random stream of a demonstration's branches in an iteration.
fn stream(group: &PromptGroup, plan: &BranchPlan<'_>) -> Stream {
    let path = [plan.iteration as u64, group.index as u64];
    StreamKey::Branch.stream(plan.seed, &path)
}

/// `count` distinct indices, drawn without replacement in proportion to their weights.
fn different(weights: &[f64], count: usize, stream: &mut Stream) -> Vec<usize> {
    let mut left = weights.to_vec();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let mut rest = stream.uniform_f64() * left.iter().sum::<f64>();
        let positive = left.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
        let Some(index) = positive.fold(None, |found, (index, weight)| match found {
            Some(_) if rest < 0.0 => found,
            _ => {
                rest -= weight;
                Some(index)
            }
        }) else {
            break;
        };
        left[index] = 0.0;
        chosen.push(index);
    }
    chosen
}

/// The token that ends the line of token `from`, or the token after `from` if `from` ends it
/// itself.
fn step_end(trace: &Trace, from: usize) -> usize {
    let completion = &trace.completion;
    let ends_line = |&(start, end): &(usize, usize)| completion.text[start..end].contains('\n');
    let own = completion.offsets[from..].iter().position(ends_line);
    own.map_or(trace.len(), |past| from + past.max(1))
}

/// The wrong traces of each demonstration, as branches of it.
fn align(
    traces: &[WrongTrace],
    demonstrations: &[PromptGroup],
    encoder: &Encoder<'_>,
    prompt: &PromptSettings,
) -> Result<(Vec<Vec<Trace>>, LeftOut), TrainError> {
    let (mut by_id, mut by_question) = (HashMap::new(), HashMap::new());
    for (index, group) in demonstrations.iter().enumerate() {
        by_id.insert(group.problem.id.as_str(), index);
        by_question.insert(group.problem.question.trim(), index);
    }
    let mut aligned = vec![Vec::new(); demonstrations.len()];
    let mut left_out = LeftOut::default();
    for wrong in traces {
        let named = wrong.id.as_deref().and_then(|id| by_id.get(id));
        let asked = wrong.question.as_deref().map(str::trim);
        let Some(&index) = named.or_else(|| by_question.get(asked?)) else {
            left_out.unknown += 1;
            continue;
        };
        let Some(expert) = demonstrations[index].demonstration() else {
            continue;
        };
        let text = prompt.render_foreign(&wrong.text).text;
        let Some(completion) = encoder.completion(&text)? else {
            left_out.too_long += 1;
            continue;
        };
        let diverges_at = completion.diverges_from(&expert.completion.ids);
        let places = Places {
            completion: &completion,
            diverges_at,
        };
        let Some(from) = left_out.place(wrong, places) else {
            continue;
        };
        let mut trace = Trace::new(TraceRole::Perturbed, completion);
        trace.spans.corrupted_from = Some(from);
        if let Some(passage) = &wrong.wrong_span {
            let until = trace.completion.first_after(passage.end, Some(from));
            trace.spans.corrupted_until = Some(until);
        }
        let is_marked = wrong.first_error.is_some() || wrong.wrong_span.is_some();
        trace.spans.diverges_at = diverges_at.filter(|_| is_marked);
        aligned[index].push(trace);
    }
    Ok((aligned, left_out))
}

#[cfg(test)]
mod tests;
