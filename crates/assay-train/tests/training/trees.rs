//! Common prefixes of completions are packed once; the results equal those of separate completions.

use assay_critic::player::TokenScalars;
use assay_lm::gradients::Gradients;

use super::*;

/// A policy whose adapter changes something: no B is zero.
fn policy() -> PolicyModel {
    let model = model();
    let config = model.transformer.config();
    let adapter = Adapter::new(config, &LoraSettings::with_rank(4), 5).unwrap();
    for (name, var) in adapter.parameters() {
        if name.contains(".lora_B.") {
            let size = var.shape().elem_count();
            let values = (0..size).map(|i| (i as f32 * 0.7).sin() * 0.1).collect();
            let values = candle_core::Tensor::from_vec(values, var.shape(), var.device());
            var.set(&values.unwrap()).unwrap();
        }
    }
    PolicyModel {
        transformer: model.transformer,
        trainable: Trainable::Adapter(adapter.to_device(&place().device).unwrap()),
    }
}

/// One prompt whose completions differ from each other from various tokens on.
fn shared() -> Vec<Group> {
    let ids = |count: u32, step: u32| (0..count).map(|i| 1 + i * step % 11).collect();
    let whole: Vec<u32> = ids(70, 3);
    let leaving = |at: usize, then: Vec<u32>| [whole[..at].to_vec(), then].concat();
    let completions = vec![
        whole.clone(),
        leaving(40, ids(25, 5)),
        ids(9, 7),
        leaving(65, vec![2, 2]),
        [leaving(40, ids(10, 5)), ids(20, 2)].concat(),
        whole.clone(),
        leaving(12, Vec::new()),
    ];
    let prompt = ids(20, 4);
    vec![Group {
        prompt,
        completions,
    }]
}

/// The same completions, each in a group of its own.
fn separate(groups: &[Group]) -> Vec<Group> {
    let alone = |prompt: &[u32], completion: &[u32]| Group {
        prompt: prompt.to_vec(),
        completions: vec![completion.to_vec()],
    };
    let groups = groups.iter().flat_map(|group| {
        let completions = group.completions.iter();
        completions.map(|completion| alone(&group.prompt, completion))
    });
    groups.collect()
}

/// Log-probabilities and gradients of their weighted sum.
fn pass(player: &dyn Player, groups: &[Group]) -> (TokenScalars, Gradients) {
    let scalars = player.infer(&PackedBatch::new(groups).unwrap()).unwrap();
    let passes = UpdatePasses {
        execution: Execution::single_process(4096),
        reach: Reach::Completion,
    };
    let (_, gradients) = update(player, groups, passes, |scalars, _| {
        let slope = |(trace, row): (usize, &Vec<f32>)| {
            let slopes = (0..row.len()).map(|t| ((trace * 31 + t) as f32).sin());
            slopes.collect()
        };
        Ok(LossGradients {
            report: 0.0,
            gradients: scalars.iter().enumerate().map(slope).collect(),
        })
    })
    .unwrap();
    (scalars, gradients)
}

#[test]
fn shared_beginnings_have_the_numbers_of_separate_traces() {
    let (policy, groups) = (policy(), shared());
    let rows = PackedBatch::new(&groups).unwrap().len();
    // The third completion begins with the first token of the others.
    assert_eq!(rows, 20 + 70 + 25 + 8 + 2 + 20);
    let (packed, packed_gradients) = pass(&policy, &groups);
    let (alone, alone_gradients) = pass(&policy, &separate(&groups));
    assert_eq!(packed, alone);
    for (name, var) in policy.parameters() {
        let flat = |gradients: &Gradients| {
            let gradient = gradients.get(&var).unwrap().flatten_all().unwrap();
            gradient.to_vec1::<f32>().unwrap()
        };
        let (packed, alone) = (flat(&packed_gradients), flat(&alone_gradients));
        let scale = alone.iter().fold(0.0_f32, |most, g| most.max(g.abs()));
        assert!(scale > 0.0, "{name}");
        for (packed, alone) in packed.iter().zip(&alone) {
            assert!(
                (packed - alone).abs() < 2e-5 * scale,
                "{name}: {packed} {alone}"
            );
        }
    }
}
