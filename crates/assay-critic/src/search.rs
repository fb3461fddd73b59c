//! Search with the critic while sampling: step-level beam search and diverse verifier tree search
//! (DVTS).
//!
//! A round extends every open prefix by one reasoning step (sampling stops after a token that holds
//! a line break), the critic scores the extended prefixes, and each tree keeps its best. Beam
//! search is one tree that keeps N/M prefixes. DVTS is N/M trees that keep one prefix each. M is
//! the number of children per prefix. Every completion that ended is a candidate, even if its tree
//! does not keep it. `assay_evals` chooses among the candidates.
//!
//! Sources: Beeching et al., "Scaling test-time compute with open models" (2024); Snell et al.,
//! arXiv 2408.03314.

use std::collections::HashSet;

use assay_evals::scores::{ScoreSettings, TraceScore};
use assay_lm::LanguageModel;
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::{Completion, SampleRequest, SamplingLimits, sample};
use assay_tasks::problem::Problem;
use assay_tasks::random::StreamKey;
use assay_tasks::trace::{FinishReason, ScoredTrace};

use crate::Critic;
use crate::CriticError;
use crate::encode::Encoder;
use crate::policy_model::PolicyModel;

/// Which prefixes are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchStrategy {
    /// All prefixes of a problem.
    Beam,
    /// The prefixes of one tree.
    Dvts,
}

/// Settings of a search.
pub struct SearchPlan<'p> {
    /// Which prefixes are compared with each other.
    pub strategy: SearchStrategy,
    /// N: children sampled per round; a multiple of `width`.
    pub samples: usize,
    /// M: children per prefix.
    pub width: usize,
    /// The score of a prefix, from its token rewards.
    pub score: TraceScore,
    /// Temperature, top-p, top-k.
    pub draw: &'p DrawSettings,
    /// Maximum tokens of a completion, stop tokens, and sequences decoded at a time.
    pub limits: &'p SamplingLimits,
    /// Seed of the samples.
    pub seed: u64,
    /// Index of the first problem in its data set. It selects the random streams of each problem.
    pub first_problem: usize,
    /// Name written into the traces.
    pub generator: &'p str,
}

/// The result of a search.
#[derive(Debug, Default)]
pub struct SearchOutcome {
    /// Scored candidates, problem after problem.
    pub traces: Vec<ScoredTrace>,
    /// Tokens sampled from the policy, including those of dropped prefixes.
    pub generated_tokens: usize,
    /// Tokens of prefixes that the critic scored.
    pub scored_tokens: usize,
}

/// The models of a search.
pub struct Searcher<'s> {
    policy: &'s PolicyModel,
    critic: &'s Critic<'s>,
    encoder: &'s Encoder<'s>,
    line_breaks: Vec<u32>,
}

/// A completion so far, and whether it has ended.
#[derive(Clone, Default)]
struct Prefix {
    drawn: Completion,
    ended: bool,
}

struct Tree {
    problem: usize,
    index: usize,
    prompt: Vec<u32>,
    /// Prefixes that stay open after a round.
    keep: usize,
    open: Vec<Prefix>,
}

impl<'s> Searcher<'s> {
    /// A search with a policy and a critic on the same base model.
    pub fn new(
        policy: &'s PolicyModel,
        critic: &'s Critic<'s>,
        encoder: &'s Encoder<'s>,
        model: &LanguageModel,
    ) -> Self {
        Self {
            policy,
            critic,
            encoder,
            line_breaks: model.tokenizer.line_breaks(),
        }
    }

    /// Searches `problems` and returns every ended completion as a scored trace.
    ///
    /// # Errors
    /// [`CriticError::InvalidSetting`] if `samples` is not a positive multiple of `width`. Sampling
    /// or scoring fails.
    pub fn search(
        &self,
        problems: &[Problem],
        plan: &SearchPlan<'_>,
    ) -> Result<SearchOutcome, CriticError> {
        if plan.width == 0 || plan.samples == 0 || !plan.samples.is_multiple_of(plan.width) {
            let reason = format!(
                "{} samples are not a positive multiple of width {}",
                plan.samples, plan.width
            );
            return Err(CriticError::setting("samples", reason));
        }
        let mut outcome = SearchOutcome::default();
        let mut trees = self.plant(problems, plan)?;
        let mut found: Vec<Vec<ScoredTrace>> = problems.iter().map(|_| Vec::new()).collect();
        let mut round = 0;
        while trees.iter().any(|tree| !tree.open.is_empty()) {
            let grown = self.grow(&trees, plan, round, &mut outcome)?;
            let mut traces = self.traces(&trees, &grown, problems, plan);
            outcome.scored_tokens += traces.iter().map(|t| t.token_ids.len()).sum::<usize>();
            self.critic.score(&mut traces, None)?;
            let mut traces = traces.into_iter();
            for (tree, children) in trees.iter_mut().zip(grown) {
                let own: Vec<ScoredTrace> = traces.by_ref().take(children.len()).collect();
                tree.select(&children, &own, plan.score);
                let ended = own.into_iter().zip(&children).filter(|(_, c)| c.ended);
                found[tree.problem].extend(ended.map(|(trace, _)| trace));
            }
            round += 1;
        }
        outcome.traces = found.into_iter().flatten().collect();
        Ok(outcome)
    }

    fn plant(&self, problems: &[Problem], plan: &SearchPlan<'_>) -> Result<Vec<Tree>, CriticError> {
        let (trees, keep) = match plan.strategy {
            SearchStrategy::Beam => (1, plan.samples / plan.width),
            SearchStrategy::Dvts => (plan.samples / plan.width, 1),
        };
        let mut planted = Vec::with_capacity(problems.len() * trees);
        for (problem, record) in problems.iter().enumerate() {
            let prompt = self.encoder.prompt(&record.question)?;
            planted.extend((0..trees).map(|index| Tree {
                problem,
                index,
                prompt: prompt.clone(),
                keep,
                open: vec![Prefix::default()],
            }));
        }
        Ok(planted)
    }

    /// Extends every open prefix by one step; returns the children of each tree.
    fn grow(
        &self,
        trees: &[Tree],
        plan: &SearchPlan<'_>,
        round: u64,
        outcome: &mut SearchOutcome,
    ) -> Result<Vec<Vec<Prefix>>, CriticError> {
        let limit = plan.limits.max_new_tokens;
        let mut requests = Vec::new();
        let mut parents = Vec::new();
        for (slot, tree) in trees.iter().enumerate() {
            for (place, prefix) in tree.open.iter().enumerate() {
                let children = if round == 0 { tree.keep } else { 1 } * plan.width;
                let problem = (plan.first_problem + tree.problem) as u64;
                let path = [problem, tree.index as u64, round, place as u64];
                let stream = |child: usize| {
                    let path: Vec<u64> = path.iter().copied().chain([child as u64]).collect();
                    StreamKey::Search.stream(plan.seed, &path)
                };
                requests.push(SampleRequest {
                    prompt: [tree.prompt.as_slice(), &prefix.drawn.token_ids].concat(),
                    streams: (0..children).map(stream).collect(),
                    max_new_tokens: Some(limit - prefix.drawn.token_ids.len()),
                    not_first: None,
                });
                parents.push((slot, prefix));
            }
        }
        let limits = SamplingLimits {
            max_new_tokens: limit,
            stop_tokens: [plan.limits.stop_tokens.as_slice(), &self.line_breaks].concat(),
            max_sequences: plan.limits.max_sequences,
        };
        let model = &self.policy.transformer;
        let adapter = self.policy.adapter();
        let drawn = sample(model, adapter, &requests, plan.draw, &limits, |count| {
            outcome.generated_tokens += count
        })?;
        let mut grown: Vec<Vec<Prefix>> = trees.iter().map(|_| Vec::new()).collect();
        for ((slot, parent), steps) in parents.into_iter().zip(drawn) {
            grown[slot].extend(steps.into_iter().map(|step| parent.extended(step, plan)));
        }
        Ok(grown)
    }

    /// The children of all trees as traces, tree after tree.
    fn traces(
        &self,
        trees: &[Tree],
        grown: &[Vec<Prefix>],
        problems: &[Problem],
        plan: &SearchPlan<'_>,
    ) -> Vec<ScoredTrace> {
        let of_tree = |(tree, children): (&Tree, &Vec<Prefix>)| -> Vec<ScoredTrace> {
            let problem = &problems[tree.problem];
            let trace = |child: &Prefix| self.trace(tree, problem, child, plan);
            children.iter().map(trace).collect()
        };
        trees.iter().zip(grown).flat_map(of_tree).collect()
    }

    fn trace(
        &self,
        tree: &Tree,
        problem: &Problem,
        prefix: &Prefix,
        plan: &SearchPlan<'_>,
    ) -> ScoredTrace {
        let completion = self.encoder.decode(&prefix.drawn.token_ids);
        let reason = if prefix.drawn.truncated {
            FinishReason::Length
        } else {
            FinishReason::Stop
        };
        ScoredTrace {
            id: problem.id.clone(),
            question: problem.question.clone(),
            generator: plan.generator.to_owned(),
            seed: Some(plan.seed),
            prompt_token_ids: tree.prompt.clone(),
            text: completion.text,
            token_ids: completion.ids,
            token_offsets: completion.offsets,
            policy_logprobs: Some(prefix.drawn.policy_logprobs.clone()),
            sampling_logprobs: Some(prefix.drawn.sampling_logprobs.clone()),
            answer: problem.answer.clone(),
            finish_reason: prefix.ended.then_some(reason),
            ..ScoredTrace::default()
        }
    }
}

impl Tree {
    /// Keeps the best children open. A kept child that ended leaves the tree, which then keeps one
    /// fewer.
    fn select(&mut self, children: &[Prefix], traces: &[ScoredTrace], score: TraceScore) {
        let of = |trace| score.of(trace, &ScoreSettings::default());
        let scores: Vec<f64> = traces
            .iter()
            .map(|trace| of(trace).unwrap_or(f64::NEG_INFINITY))
            .collect();
        let kept = best_distinct(children, &scores, self.keep);
        let (ended, open): (Vec<usize>, Vec<usize>) =
            kept.into_iter().partition(|&index| children[index].ended);
        self.keep -= ended.len();
        self.open = open.into_iter().map(|i| children[i].clone()).collect();
    }
}

impl Prefix {
    /// This prefix, extended by a sampled step.
    fn extended(&self, step: Completion, plan: &SearchPlan<'_>) -> Self {
        let mut drawn = self.drawn.clone();
        let stopped = step
            .token_ids
            .last()
            .is_some_and(|token| plan.limits.stop_tokens.contains(token));
        drawn.token_ids.extend(step.token_ids);
        drawn.sampling_logprobs.extend(step.sampling_logprobs);
        drawn.policy_logprobs.extend(step.policy_logprobs);
        drawn.truncated = !stopped && drawn.token_ids.len() >= plan.limits.max_new_tokens;
        let ended = stopped || drawn.truncated;
        Self { drawn, ended }
    }
}

/// Indices of the `keep` best children, best first. Of children with the same tokens only the first
/// counts.
fn best_distinct(children: &[Prefix], scores: &[f64], keep: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..children.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let mut seen = HashSet::new();
    order.retain(|&index| seen.insert(&children[index].drawn.token_ids));
    order.truncate(keep);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(ids: &[u32]) -> Prefix {
        let drawn = Completion {
            token_ids: ids.to_vec(),
            ..Completion::default()
        };
        Prefix {
            drawn,
            ended: false,
        }
    }

    #[test]
    fn the_best_children_are_distinct() {
        let children = [&[1, 2][..], &[3], &[1, 2], &[4], &[5]].map(prefix);
        let scores = [2.0, 5.0, 9.0, 2.0, f64::NEG_INFINITY];
        assert_eq!(best_distinct(&children, &scores, 3), [2, 1, 3]);
        assert_eq!(best_distinct(&children, &scores, 9), [2, 1, 3, 4]);
    }
}
