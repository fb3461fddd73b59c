//! The critic's choice among the samples of a request.

use std::sync::Arc;

use assay_evals::selection::{Candidate, likeliest};
use assay_tasks::answers::AnswerClasses;
use assay_tasks::trace::ScoredTrace;

use super::generate::{Plan, Sample, Samples};
use crate::app::App;
use crate::refusal::Refusal;

/// Scored samples and the index of the chosen one.
pub(crate) struct Chosen {
    pub(crate) samples: Samples,
    pub(crate) place: usize,
}

/// Scores the samples and chooses one by the request's selector.
pub(crate) async fn choose(
    app: &Arc<App>,
    plan: &Plan,
    mut samples: Samples,
) -> Result<Chosen, Refusal> {
    let traces: Vec<ScoredTrace> = samples
        .samples
        .iter_mut()
        .map(|sample| std::mem::take(&mut sample.trace))
        .collect();
    let scored = app.score_traces(plan.options.reward, traces).await?;
    for (sample, trace) in samples.samples.iter_mut().zip(scored.traces) {
        sample.trace = trace;
    }
    let candidates = candidates(plan, &samples.samples);
    let selector = plan.options.selector;
    let constants = app.models.constants(plan.options.reward);
    let distribution = selector.distribution(&candidates, &constants);
    let place = distribution
        .and_then(|distribution| likeliest(&distribution, &candidates))
        .ok_or_else(|| {
            let message = "none of the sampled answers can be chosen: each is empty or longer than the critic reads";
            Refusal::internal("no_choice", message)
        })?;
    Ok(Chosen { samples, place })
}

fn candidates(plan: &Plan, samples: &[Sample]) -> Vec<Candidate> {
    let mut classes = AnswerClasses::default();
    let mut all = Vec::with_capacity(samples.len());
    for sample in samples {
        let answer = sample.trace.predicted_answer.as_deref();
        let answer = answer.map(|answer| classes.class(answer));
        all.push(Candidate {
            correct: false,
            answer,
            score: plan.options.view.score(&sample.trace),
            logprob: sample.logprob,
            length: sample.text.len() as f64,
        });
    }
    all
}
