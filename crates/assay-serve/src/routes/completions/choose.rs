//! The critic's choice among the samples of a request.

use std::sync::Arc;

use assay_evals::selection::Candidate;
use assay_tasks::answers::AnswerClasses;
use assay_tasks::trace::ScoredTrace;

use super::generate::{Plan, Sample, Samples};
use crate::app::App;
use crate::refusal::Refusal;

/// Scored samples and the place of the chosen one.
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

/// The likeliest candidate; among equally likely ones that of the highest score, then the first.
fn likeliest(distribution: &[f64], candidates: &[Candidate]) -> Option<usize> {
    let score = |place: usize| candidates[place].score.unwrap_or(f64::NEG_INFINITY);
    let places = (0..distribution.len()).filter(|&place| distribution[place] > 0.0);
    places.reduce(|best, next| {
        let (p, q) = (distribution[best], distribution[next]);
        let better = q > p + 1e-12 || ((q - p).abs() <= 1e-12 && score(next) > score(best));
        if better { next } else { best }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elected_class_answers_with_its_best_trace() {
        let candidate = |score| Candidate {
            score,
            ..Candidate::default()
        };
        let candidates = [Some(0.5), Some(9.0), Some(2.0), None].map(candidate);
        assert_eq!(likeliest(&[0.5, 0.0, 0.5, 0.0], &candidates), Some(2));
        assert_eq!(likeliest(&[0.4, 0.6, 0.0, 0.0], &candidates), Some(1));
        assert_eq!(likeliest(&[0.25; 4], &candidates), Some(1));
        assert_eq!(likeliest(&[0.0; 4], &candidates), None);
    }
}
