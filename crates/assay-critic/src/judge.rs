//! The judge: token rewards without training, from a model that reads the demonstration.
//!
//! The model reads the question with a hint, which is the demonstration or a misleading version of
//! it ([`Hints`]), and then the trace. A token's reward is positive if the demonstration makes it
//! likelier than the misleading hints do:
//!
//! r_t = p(y_t | x, h, y_<t) - 1/K sum_k p(y_t | x, h_k, y_<t),
//!
//! where h is the demonstration and h_1..h_K are the misleading versions. If the hints agree about
//! the next token, r_t is near 0. The trace's score weights each token by the disagreement of the
//! hints:
//!
//! J = sum_t |r_t| r_t / sum_t |r_t|.
//!
//! The judge needs demonstrations and no labels. It ranks traces. It does not find the first error,
//! because a wrong number appears in no hint.

use assay_lm::LanguageModel;
use assay_lm::adapter::Adapter;
use assay_lm::packed::{Group, PackedBatch, micro_batches};
use assay_lm::transformer::Transformer;
use assay_tasks::perturbations::Hints;
use assay_tasks::prompts::PromptSettings;

use crate::CriticError;
use crate::encode::start_of;
use crate::policy_model::logprobs_and_entropies;

/// A model that judges traces after reading the demonstration.
#[derive(Clone, Copy)]
pub struct Judge<'m> {
    /// Tokenizer and chat template.
    pub model: &'m LanguageModel,
    /// The weights that read the hints: the model's own, or the policy's base.
    pub transformer: &'m Transformer,
    /// An adapter on these weights.
    pub adapter: Option<&'m Adapter>,
    /// The prompt style of the traces.
    pub prompt: &'m PromptSettings,
}

/// Traces of one question and the hints for judging them.
#[derive(Clone, Debug)]
pub struct JudgedTraces<'t> {
    /// The question.
    pub question: &'t str,
    /// The demonstration and at least one misleading version.
    pub hints: Hints,
    /// Token ids of each trace.
    pub completions: Vec<Vec<u32>>,
}

impl Judge<'_> {
    /// The token ids of the prompt with a question and a hint.
    ///
    /// # Errors
    /// The chat template fails or is missing.
    pub fn prompt(&self, question: &str, hint: &str) -> Result<Vec<u32>, CriticError> {
        let asked = format!(
            "{question}\n\nHere is a reference solution:\n{hint}\n\n\
             Solve the problem in your own words, with the same result."
        );
        let messages = self.prompt.messages(&asked);
        Ok(self.model.prompt_ids_by(self.prompt.template, &messages)?)
    }

    /// The packed groups of one question: its traces after the demonstration, then after each
    /// misleading hint.
    ///
    /// # Errors
    /// As [`Judge::prompt`]; [`CriticError::PromptTooLong`] for a question and hint that leave no
    /// room for the longest trace.
    pub fn groups(&self, judged: &JudgedTraces<'_>) -> Result<Vec<Group>, CriticError> {
        let longest = judged.completions.iter().map(Vec::len).max().unwrap_or(0);
        let limit = self
            .transformer
            .config()
            .max_positions
            .saturating_sub(longest);
        let hints = std::iter::once(&judged.hints.right).chain(&judged.hints.wrong);
        hints
            .map(|hint| {
                let prompt = self.prompt(judged.question, hint)?;
                if prompt.len() > limit {
                    return Err(CriticError::PromptTooLong {
                        question: start_of(judged.question),
                        tokens: prompt.len(),
                        limit,
                    });
                }
                Ok(Group {
                    prompt,
                    completions: judged.completions.clone(),
                })
            })
            .collect()
    }

    /// Token rewards of every trace of one question, `[trace][token]`.
    ///
    /// # Errors
    /// The chat template fails, or a prompt and its trace exceed the model's positions.
    pub fn rewards(
        &self,
        judged: &JudgedTraces<'_>,
        token_budget: usize,
    ) -> Result<Vec<Vec<f32>>, CriticError> {
        let groups = self.groups(judged)?;
        let mut logprobs = Vec::new();
        for part in micro_batches(&groups, token_budget) {
            logprobs.extend(self.logprobs(&PackedBatch::new(&part.groups)?)?);
        }
        Ok(judged_rewards(&logprobs, judged.completions.len()))
    }

    /// log p of every completion's tokens.
    ///
    /// # Errors
    /// The batch does not fit the model.
    pub fn logprobs(&self, batch: &PackedBatch) -> Result<Vec<Vec<f32>>, CriticError> {
        Ok(logprobs_and_entropies(self.transformer, self.adapter, batch)?.0)
    }
}

/// Token rewards of `traces` traces from their log-probabilities after the demonstration and then
/// after each misleading hint: `logprobs[hint * traces + trace][token]`.
///
/// Without a misleading hint the reward is p(y_t | x, h, y_<t) alone.
pub fn judged_rewards(logprobs: &[Vec<f32>], traces: usize) -> Vec<Vec<f32>> {
    let (right, wrong) = logprobs.split_at(traces.min(logprobs.len()));
    let hints = wrong.len() / traces.max(1);
    let rewards = right.iter().enumerate().map(|(trace, right)| {
        let rewards = right.iter().enumerate().map(|(token, logprob)| {
            let misled = (0..hints).map(|hint| wrong[hint * traces + trace][token].exp());
            logprob.exp() - misled.sum::<f32>() / hints.max(1) as f32
        });
        rewards.collect()
    });
    rewards.collect()
}

/// J = sum |r| r / sum |r|; 0 if all rewards are 0.
pub fn judged_score(rewards: &[f32]) -> f32 {
    let weight: f32 = rewards.iter().map(|reward| reward.abs()).sum();
    if weight == 0.0 {
        return 0.0;
    }
    let sum: f32 = rewards.iter().map(|reward| reward.abs() * reward).sum();
    sum / weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reward_is_what_hints_disagree_about() {
        let log = |p: [f32; 2]| p.map(f32::ln).to_vec();
        // Two traces of two tokens; the demonstration, then two misleading hints.
        let logprobs = [
            log([0.5, 0.9]),
            log([0.5, 0.1]),
            log([0.5, 0.2]),
            log([0.5, 0.7]),
            log([0.5, 0.4]),
            log([0.5, 0.5]),
        ];
        let rewards = judged_rewards(&logprobs, 2);
        let near = |found: f32, right: f32| assert!((found - right).abs() < 1e-6, "{found}");
        near(rewards[0][0], 0.0);
        near(rewards[0][1], 0.6);
        near(rewards[1][1], -0.5);
        near(judged_score(&rewards[0]), 0.6);
        near(judged_score(&[0.3, -0.1]), (0.09 - 0.01) / 0.4);
        near(judged_score(&[0.0, 0.0]), 0.0);
    }

    #[test]
    fn without_wrong_hints_probability_is_left() {
        let rewards = judged_rewards(&[vec![0.25_f32.ln()]], 1);
        assert!((rewards[0][0] - 0.25).abs() < 1e-6);
        assert!(judged_rewards(&[], 0).is_empty());
    }
}
