//! Supervised fine-tuning on demonstrations: token-mean negative log-likelihood.

use crate::masked_mean::masked_mean;

/// The loss of an update and its gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NllOutput {
    /// -1/N sum of log-probabilities over all N completion tokens of the update; 0 for an empty
    /// update.
    pub loss: f64,
    /// N.
    pub tokens: usize,
    /// dL/d logp of every token: -1/N.
    pub grads: Vec<Vec<f32>>,
}

/// Token-mean negative log-likelihood over all completions of an update.
///
/// # Shapes
/// `logprobs`: one list per completion, one f32 per token. All tokens have the same weight,
/// whatever the completion's length.
pub fn token_mean_nll(logprobs: &[Vec<f32>]) -> NllOutput {
    let tokens = logprobs.iter().map(Vec::len).sum();
    let mean = masked_mean(
        logprobs
            .iter()
            .flatten()
            .map(|&logprob| (-f64::from(logprob), 1.0)),
    );
    let grads = logprobs
        .iter()
        .map(|row| vec![-mean.scale as f32; row.len()])
        .collect();
    NllOutput {
        loss: mean.mean,
        tokens,
        grads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_counts_alike() {
        let output = token_mean_nll(&[vec![-1.0, -2.0, -3.0], vec![], vec![-6.0]]);
        assert_eq!((output.loss, output.tokens), (3.0, 4));
        assert_eq!(output.grads, [vec![-0.25; 3], vec![], vec![-0.25]]);
        assert_eq!(token_mean_nll(&[vec![]]).loss, 0.0);
    }
}
