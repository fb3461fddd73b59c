//! The number of samples and the choice among them, for the policy and for upstream servers.

use assay_evals::localisation::Predictor;
use assay_evals::selection::Selector;

use crate::answers::View;
use crate::app::App;
use crate::models::Generator;
use crate::refusal::Refusal;
use crate::requests::Sampling;

/// Default number of samples.
const DEFAULT_SAMPLES: usize = 4;

/// The number of samples and how one of them is chosen.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) samples: usize,
    pub(crate) selector: Selector,
    pub(crate) reward: usize,
    pub(crate) view: View,
    /// Whether every sample is returned with its token rewards.
    pub(crate) return_candidates: bool,
    pub(crate) stream: bool,
    /// Whether a stream ends with the number of tokens.
    pub(crate) include_usage: bool,
}

impl Options {
    /// Reads `stream`, `stream_options` and `assay`; `best_of` is another name for `assay.n`.
    pub(crate) fn new(
        app: &App,
        sampling: &Sampling,
        best_of: Option<usize>,
    ) -> Result<Self, Refusal> {
        let choosing = sampling.assay.clone().unwrap_or_default();
        let reward = app
            .models
            .reward("assay.reward", choosing.reward.as_deref())?;
        let stream_options = sampling.stream_options.as_ref();
        let options = Self {
            samples: choosing.n.or(best_of).unwrap_or(DEFAULT_SAMPLES),
            selector: choosing.selector.map_or(Selector::BestOfN, |name| name.0),
            reward,
            view: View {
                score: choosing
                    .score
                    .map_or_else(|| app.models.score(reward), |name| name.0),
                predictor: choosing
                    .predictor
                    .map_or(Predictor::LargestDrop, |name| name.0),
            },
            return_candidates: choosing.return_candidates.unwrap_or(false),
            stream: sampling.stream.unwrap_or(false),
            include_usage: stream_options
                .and_then(|o| o.include_usage)
                .unwrap_or(false),
        };
        options.validate(app)?;
        Ok(options)
    }

    fn validate(&self, app: &App) -> Result<(), Refusal> {
        let max = app.limits.samples;
        if self.samples == 0 || self.samples > max {
            let message = format!("must lie between 1 and {max}, not {}", self.samples);
            return Err(Refusal::field("assay.n", message));
        }
        let upstream = matches!(app.models.generator, Some(Generator::Upstream(_)));
        let needs_logprobs = matches!(self.selector, Selector::Logprob | Selector::Combined);
        if upstream && needs_logprobs {
            let message =
                "this selector needs log-probabilities, which the upstream server's answers lack";
            return Err(Refusal::field("assay.selector", message));
        }
        Ok(())
    }
}
