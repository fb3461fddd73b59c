//! Samples do not depend on how many prompts are computed and decoded together.

use assay_critic::player::Player;
use assay_critic::policy_model::Trainable;
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::{Completion, SampleRequest, SamplingLimits, sample};
use assay_tasks::random::Stream;

use super::*;

/// More rows of prompts than the CPU computes at a time.
const PROMPTS: u64 = 12;

#[test]
fn many_prompts_give_the_samples_of_each_alone() {
    let model = model();
    let adapter = Adapter::new(model.transformer.config(), &LoraSettings::with_rank(4), 7).unwrap();
    let policy = PolicyModel {
        transformer: model.transformer.clone(),
        trainable: Trainable::Adapter(adapter.to_device(&place().device).unwrap()),
    };
    for (_, var) in policy.parameters() {
        let wave = var.as_tensor().flatten_all().unwrap().ones_like().unwrap();
        let wave = (wave.cumsum(0).unwrap().sin().unwrap() * 0.3).unwrap();
        var.set(&wave.reshape(var.as_tensor().shape()).unwrap())
            .unwrap();
    }
    let vocabulary = model.transformer.config().vocab_size as u64;
    let request = |prompt: u64| SampleRequest {
        prompt: (0..60 + prompt)
            .map(|i| ((i * 7 + prompt * 3) % (vocabulary - 1) + 1) as u32)
            .collect(),
        streams: (0..2).map(|i| Stream::new(11, &[prompt, i])).collect(),
        max_new_tokens: None,
        not_first: None,
    };
    let limits = SamplingLimits {
        max_new_tokens: 9,
        stop_tokens: Vec::new(),
        max_sequences: 24,
    };
    let draw = DrawSettings::default();
    let drawn = |requests: &[SampleRequest]| -> Vec<Vec<Completion>> {
        let adapter = policy.adapter();
        sample(
            &policy.transformer,
            adapter,
            requests,
            &draw,
            &limits,
            |_| (),
        )
        .unwrap()
    };
    let all: Vec<SampleRequest> = (0..PROMPTS).map(request).collect();
    assert!(all.iter().map(|r| r.prompt.len()).sum::<usize>() > 512);
    let together = drawn(&all);
    for (request, together) in all.into_iter().zip(together) {
        assert_eq!(drawn(&[request])[0], together);
    }
}

#[test]
fn a_token_left_out_never_comes_first() {
    let model = model();
    let first = |not_first: Option<u32>| -> Vec<Completion> {
        let request = SampleRequest {
            prompt: vec![1, 2, 3],
            streams: (0..300).map(|i| Stream::new(12, &[i])).collect(),
            max_new_tokens: Some(2),
            not_first,
        };
        let limits = SamplingLimits {
            max_new_tokens: 2,
            stop_tokens: Vec::new(),
            max_sequences: 300,
        };
        let settings = DrawSettings::default();
        let drawn = sample(
            &model.transformer,
            None,
            &[request],
            &settings,
            &limits,
            |_| (),
        );
        drawn.unwrap().remove(0)
    };
    let free = first(None);
    let token = free[0].token_ids[0];
    let share = free[0].sampling_logprobs[0].exp();
    let logprobs: BTreeMap<u32, f32> = free
        .iter()
        .map(|own| (own.token_ids[0], own.sampling_logprobs[0]))
        .collect();
    let mut compared = 0;
    for own in first(Some(token)) {
        assert_ne!(own.token_ids[0], token);
        if let Some(before) = logprobs.get(&own.token_ids[0]) {
            let expected = before - (1.0 - share).ln();
            assert!((own.sampling_logprobs[0] - expected).abs() < 1e-4);
            compared += 1;
        }
    }
    assert!(compared > 200, "{compared}");
}
