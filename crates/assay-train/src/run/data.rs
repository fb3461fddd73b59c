//! The demonstrations of a run as groups for training.

use assay_critic::encode::{Demonstration, EncodeReport, Encoder};
use assay_tasks::perturbations::DemonstrationGroup;
use assay_tasks::problem::Problem;
use assay_tasks::random::StreamKey;

use super::observer::Observer;
use crate::TrainError;
use crate::settings::{SamplingSettings, Settings};
use crate::trace::PromptGroup;

/// Encodes the demonstrations of `problems`, one group each. Replaces a share of them by wrong ones
/// if the settings say so. Reports which are left out.
///
/// # Errors
/// The chat template or the tokenizer fails; no demonstration is left.
pub(super) fn demonstrations(
    problems: &[Problem],
    encoder: &Encoder<'_>,
    settings: &Settings,
    observer: &mut dyn Observer,
) -> Result<Vec<PromptGroup>, TrainError> {
    let (mut encoded, report) = encoder.demonstrations(problems)?;
    observer.note(&summary(encoded.len(), &report, &settings.sampling));
    let wrong = corrupt_share(&mut encoded, encoder, settings)?;
    if wrong > 0 {
        observer.note(&format!(
            "{wrong} demonstrations replaced by wrong ones, as the settings ask"
        ));
    }
    let groups = encoded.into_iter().enumerate();
    Ok(groups
        .map(|(index, demonstration)| PromptGroup::of_demonstration(index, demonstration))
        .collect())
}

fn summary(count: usize, report: &EncodeReport, sampling: &SamplingSettings) -> String {
    let (completion, prompt) = (sampling.max_completion_tokens, sampling.max_prompt_tokens);
    format!(
        "{count} demonstrations; left out: {} without one, {} beyond {completion} tokens, {} with a prompt beyond {prompt}",
        report.without_demonstration, report.too_long, report.prompts_too_long
    )
}

/// Replaces a share of the demonstrations by perturbed ones, for robustness studies; returns how
/// many.
fn corrupt_share(
    demonstrations: &mut [Demonstration],
    encoder: &Encoder<'_>,
    settings: &Settings,
) -> Result<usize, TrainError> {
    let share = settings.data.wrong_demonstrations;
    let mut replaced = 0;
    if share <= 0.0 {
        return Ok(0);
    }
    let registry = settings.reward.perturbations.registry();
    for (index, demonstration) in demonstrations.iter_mut().enumerate() {
        let mut stream = StreamKey::WrongDemonstrations.stream(settings.seed, &[index as u64]);
        if stream.uniform_f64() >= share {
            continue;
        }
        let text = demonstration.completion.text.clone();
        let problem = &demonstration.problem;
        let group = DemonstrationGroup::corrupt(problem, &text, &registry, 1, &mut stream);
        let Some(wrong) = group.perturbed().first() else {
            continue;
        };
        if let Some(completion) = encoder.completion(&wrong.text)? {
            demonstration.completion = completion;
            replaced += 1;
        }
    }
    Ok(replaced)
}
