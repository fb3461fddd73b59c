//! How long an evaluation takes a trace: reading off its scalars, and computing everything at the
//! end.

use std::hint::black_box;

use assay_evals::{EvalSettings, Evaluator, TraceMeasurements};
use assay_tasks::random::Stream;
use assay_tasks::trace::ScoredTrace;
use criterion::{Criterion, criterion_group, criterion_main};

const TOKENS: usize = 300;
const TRACES: usize = 8000;

fn trace(index: usize) -> ScoredTrace {
    let mut stream = Stream::new(1, &[index as u64]);
    let rewards: Vec<f32> = (0..TOKENS).map(|_| stream.normal_f32()).collect();
    let correct = stream.uniform_f32() < 0.4;
    ScoredTrace {
        id: format!("p{}", index / 16),
        generator: "policy".into(),
        text: "y".repeat(TOKENS),
        token_ids: (0..TOKENS).map(|_| stream.below(500) as u32).collect(),
        token_offsets: (0..TOKENS).map(|i| (i, i + 1)).collect(),
        token_rewards: rewards.iter().copied().map(Some).collect(),
        policy_logprobs: Some(rewards),
        predicted_answer: Some(if correct { 1 } else { 2 + stream.below(4) }.to_string()),
        correct: Some(correct),
        ..ScoredTrace::default()
    }
}

fn evaluation(criterion: &mut Criterion) {
    let settings = EvalSettings::default();
    let one = trace(0);
    criterion.bench_function("measure one trace of 300 tokens", |bencher| {
        bencher.iter(|| TraceMeasurements::new(black_box(&one), &settings));
    });
    let mut evaluator = Evaluator::new(settings.clone());
    for index in 0..TRACES {
        if let Ok(measured) = TraceMeasurements::new(&trace(index), &settings) {
            evaluator.add(measured);
        }
    }
    let mut group = criterion.benchmark_group("finish");
    group.sample_size(10);
    group.bench_function("8000 traces, 1000 resamples", |bencher| {
        bencher.iter(|| evaluator.clone().finish());
    });
    group.finish();
}

criterion_group!(benches, evaluation);
criterion_main!(benches);
