//! Log-probabilities of traces under a policy, with or without a reward.
//!
//! The policy reads prompts of its own chat template. [`PolicyScorer::score`] uses no reward and
//! encodes text without ids in the policy's tokens. [`PolicyScorer::add`] runs after a reward and
//! keeps the reward's tokens, so that each token has a reward and a log-probability.

use assay_lm::LanguageModel;
use assay_lm::packed::{PackedBatch, PromptGroups, PromptedCompletion};
use assay_tasks::prompts::PromptSettings;
use assay_tasks::trace::ScoredTrace;

use crate::CriticError;
use crate::critic::{ScoreReport, ScoringPolicy, grade, is_too_long, policy_outputs};
use crate::encode::{Encoder, TokenLimits};

/// A policy with its tokenizer and chat template.
pub struct PolicyScorer<'m> {
    policy: ScoringPolicy<'m>,
    encoder: Encoder<'m>,
    positions: usize,
    token_budget: usize,
}

impl<'m> PolicyScorer<'m> {
    /// A scorer of a policy on `model`, whose tokenizer and template it uses.
    pub fn new(
        policy: ScoringPolicy<'m>,
        model: &'m LanguageModel,
        prompt: &'m PromptSettings,
        token_budget: usize,
    ) -> Self {
        let positions = policy.transformer.config().max_positions;
        let limits = TokenLimits {
            prompt: positions,
            completion: positions,
        };
        Self {
            policy,
            encoder: Encoder::new(model, prompt, limits),
            positions,
            token_budget,
        }
    }

    /// Fills in tokens, log-probabilities, entropies, answers and correctness. Removes earlier
    /// rewards and scores.
    ///
    /// `on_scored` receives the number of traces done.
    ///
    /// # Errors
    /// The model or the tokenizer fails.
    pub fn score(
        &self,
        traces: &mut [ScoredTrace],
        on_scored: impl FnMut(usize),
    ) -> Result<ScoreReport, CriticError> {
        let mut report = ScoreReport::default();
        for trace in traces.iter_mut() {
            report.encoded_again += usize::from(self.encoder.complete(trace)?);
            grade(trace);
            trace.token_rewards = vec![None; trace.token_ids.len()];
            trace.scores.clear();
            report.too_long += usize::from(is_too_long(trace, self.positions));
        }
        let prompts: Vec<Vec<u32>> = traces
            .iter()
            .map(|trace| trace.prompt_token_ids.clone())
            .collect();
        report.scored = self.fill(traces, &prompts, on_scored)?;
        report.unscored = traces.len() - report.scored;
        Ok(report)
    }

    /// Adds log-probabilities and entropies to traces that have a reward model's tokens, on prompts
    /// of the policy's own template; returns how many have them. A trace without a question keeps
    /// its prompt's ids.
    ///
    /// # Errors
    /// [`CriticError::OtherTokens`] if the policy's tokenizer splits a trace into other tokens. The
    /// model or the template fails.
    pub fn add(&self, traces: &mut [ScoredTrace]) -> Result<usize, CriticError> {
        let mut prompts = Vec::with_capacity(traces.len());
        for trace in traces.iter() {
            if !trace.token_ids.is_empty() && !self.encoder.spells(trace)? {
                let trace = trace.id.clone();
                return Err(CriticError::OtherTokens { trace });
            }
            prompts.push(match trace.question.is_empty() {
                true => trace.prompt_token_ids.clone(),
                false => self.encoder.whole_prompt(&trace.question)?,
            });
        }
        self.fill(traces, &prompts, |_| ())
    }

    /// Log-probabilities and entropies after these prompts; returns how many traces have them.
    fn fill(
        &self,
        traces: &mut [ScoredTrace],
        prompts: &[Vec<u32>],
        mut on_scored: impl FnMut(usize),
    ) -> Result<usize, CriticError> {
        let pairs = traces.iter().zip(prompts);
        let completions = pairs.map(|(trace, prompt)| PromptedCompletion {
            prompt,
            completion: &trace.token_ids,
        });
        let groups = PromptGroups::new(completions, self.positions);
        // A trace that this policy cannot read must not keep another policy's values.
        for trace in traces.iter_mut() {
            trace.policy_logprobs = None;
            trace.entropies = None;
        }
        let mut scored = 0;
        for (groups, places) in groups.micro_batches(self.token_budget) {
            let outputs = policy_outputs(&self.policy, &PackedBatch::new(&groups)?)?;
            scored += places.len();
            for (place, outputs) in places.into_iter().zip(outputs) {
                traces[place].policy_logprobs = Some(outputs.logprobs);
                traces[place].entropies = Some(outputs.entropies);
            }
            on_scored(scored);
        }
        Ok(scored)
    }
}
