//! Operations at the shapes of SmolLM2-135M over 2000 packed rows. Criterion's "elements" are
//! floating-point operations, so its Gelem/s are GFLOP/s. `matmul` is candle's own product, the
//! reference for the rest.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use assay_ops::*;
use candle_core::{DType, Device, Tensor, Var};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

const ROWS: usize = 2000;
const WIDTH: usize = 576;
const INNER: usize = 1536;
const VOCABULARY: usize = 49_152;
const SHAPE: HeadShape = HeadShape {
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
};

fn tensor(dims: &[usize]) -> Tensor {
    let count = dims.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|i: usize| (i * 2_654_435_761 % 1009) as f32 / 504.5 - 1.0)
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn var(dims: &[usize]) -> Var {
    Var::from_tensor(&tensor(dims)).unwrap()
}

/// Times the forward pass, and the forward and backward pass together.
fn both(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    flops: [usize; 2],
    f: &dyn Fn() -> Tensor,
) {
    group.throughput(Throughput::Elements(flops[0] as u64));
    group.bench_function(format!("{name}/forward"), |b| b.iter(|| black_box(f())));
    let gradient = tensor(f().dims());
    group.throughput(Throughput::Elements((flops[0] + flops[1]) as u64));
    group.bench_function(format!("{name}/forward+backward"), |b| {
        b.iter(|| black_box(seed_gradient(&f(), &gradient).unwrap().backward().unwrap()))
    });
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    for (input, out) in [(WIDTH, INNER), (INNER, WIDTH), (WIDTH, 192)] {
        let (x, w) = (var(&[ROWS, input]), tensor(&[out, input]));
        let flops = 2 * ROWS * input * out;
        let turned = w.t().unwrap();
        let plain = x.as_tensor().detach();
        group.throughput(Throughput::Elements(flops as u64));
        group.bench_function(format!("matmul/{input}-{out}"), |b| {
            b.iter(|| black_box(plain.matmul(&turned).unwrap()))
        });
        let matrix = Matrix::Dense(w);
        both(
            &mut group,
            &format!("{input}-{out}"),
            [flops, flops],
            &|| linear(&x, &matrix, None, None).unwrap(),
        );
        let (a, b) = (var(&[16, input]), var(&[out, 16]));
        let small = 2 * ROWS * 16 * (input + out);
        both(
            &mut group,
            &format!("lora16/{input}-{out}"),
            [flops + small, flops + 3 * small],
            &|| {
                linear(
                    &x,
                    &matrix,
                    None,
                    Some(Lora {
                        a: &a,
                        b: &b,
                        scale: 2.0,
                        laid_out: None,
                    }),
                )
                .unwrap()
            },
        );
        for rows in [1, 8, 32] {
            let x = tensor(&[rows, input]);
            group.throughput(Throughput::Elements((2 * rows * input * out) as u64));
            group.bench_function(format!("{rows} rows/{input}-{out}"), |b| {
                b.iter(|| black_box(linear(&x, &matrix, None, None).unwrap()))
            });
        }
    }
    panels(&mut group);
    let output = Matrix::Dense(tensor(&[VOCABULARY, WIDTH]));
    for rows in [1, 8, 32] {
        let x = tensor(&[rows, WIDTH]);
        group.throughput(Throughput::Elements((2 * rows * WIDTH * VOCABULARY) as u64));
        group.bench_function(format!("{rows} rows/output"), |b| {
            b.iter(|| black_box(linear(&x, &output, None, None).unwrap()))
        });
    }
    group.finish();
}

/// Frozen matrices of SmolLM2-135M and Qwen2.5-0.5B in f32 and bf16 panels, forward, and forward
/// and backward.
fn panels(group: &mut BenchmarkGroup<WallTime>) {
    for (input, out) in [(WIDTH, INNER), (INNER, WIDTH), (896, 4864), (4864, 896)] {
        let weight = Matrix::Dense(tensor(&[out, input]));
        for dtype in [DType::F32, DType::BF16] {
            let matrix = weight.in_panels(dtype).unwrap();
            for rows in [8, 300, 2400] {
                let x = var(&[rows, input]);
                let flops = 2 * rows * input * out;
                let name = format!("{} panels/{rows} rows/{input}-{out}", dtype.as_str());
                both(group, &name, [flops, flops], &|| {
                    linear(&x, &matrix, None, None).unwrap()
                });
            }
        }
    }
}

/// Groups of one prompt and some completions each.
fn packed(groups: usize, prompt: usize, completions: &[usize]) -> Arc<AttentionLayout> {
    let mut row = 0;
    let mut span = |len: usize| {
        row += len;
        row - len..row
    };
    let spans = (0..groups).map(|_| GroupSpans {
        prompt: span(prompt),
        completions: completions.iter().map(|&len| span(len).into()).collect(),
    });
    Arc::new(AttentionLayout::new(spans.collect()).unwrap())
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    let (prompt, completion, groups, completions) = (120, 190, 2, 4);
    let layout = packed(groups, prompt, &[completion; 4]);
    let pairs = groups
        * (prompt * prompt / 2 + completions * (completion * prompt + completion * completion / 2));
    let flops = 4 * pairs * SHAPE.heads * SHAPE.head_dim;
    let (q, k, v) = (
        var(&[layout.rows(), 576]),
        var(&[layout.rows(), 192]),
        var(&[layout.rows(), 192]),
    );
    both(&mut group, "grouped", [flops, flops * 5 / 2], &|| {
        grouped_attention(&q, &k, &v, &layout, SHAPE).unwrap()
    });
    let (slots, len) = (8, 200);
    let mut cache = KvCache::new(slots, 256, 192, &Device::Cpu, DType::F32).unwrap();
    let row = tensor(&[slots, 192]);
    let rows_of = |len: usize| {
        CacheRows::new(
            (0..slots)
                .map(|slot| CacheRow {
                    prompt: 0..prompt,
                    slot,
                    len,
                })
                .collect(),
        )
    };
    for token in 0..len {
        cache.append(&row, &row, &rows_of(token + 1)).unwrap();
    }
    let (q, k) = (tensor(&[slots, 576]), tensor(&[prompt, 192]));
    let rows = rows_of(len);
    group.throughput(Throughput::Elements(
        (4 * slots * (prompt + len) * 576) as u64,
    ));
    group.bench_function("cached/8 sequences", |b| {
        b.iter(|| {
            black_box(
                cached_attention(
                    &q,
                    PromptKeyValues {
                        keys: &k,
                        values: &k,
                    },
                    &cache,
                    &rows,
                    SHAPE,
                )
                .unwrap(),
            )
        })
    });
    group.finish();
}

fn logprobs(c: &mut Criterion) {
    let mut group = c.benchmark_group("token_logprobs");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3));
    let rows = 500;
    let (hidden, output) = (
        var(&[rows, WIDTH]),
        Matrix::Dense(tensor(&[VOCABULARY, WIDTH])),
    );
    let targets: Arc<[u32]> = (0..rows as u32).collect::<Vec<_>>().into();
    let flops = 2 * rows * WIDTH * VOCABULARY;
    both(&mut group, "500 rows", [flops, 2 * flops], &|| {
        token_logprobs(&hidden, &output, &targets).unwrap().logprobs
    });
    group.finish();
}

fn elementwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("elementwise");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let (x, weight) = (var(&[ROWS, WIDTH]), tensor(&[WIDTH]));
    both(
        &mut group,
        "rms_norm",
        [ROWS * WIDTH, ROWS * WIDTH],
        &|| rms_norm(&x, &weight, 1e-5).unwrap(),
    );
    let frequencies: Vec<f32> = (0..32).map(|i| 10_000f32.powf(-i as f32 / 32.0)).collect();
    let table = RopeTable::new(&frequencies, 2048, &Device::Cpu).unwrap();
    let positions: Arc<[u32]> = (0..ROWS as u32).collect::<Vec<_>>().into();
    both(&mut group, "rope", [ROWS * WIDTH, ROWS * WIDTH], &|| {
        rope(&x, &positions, &table).unwrap()
    });
    let (gate, up) = (var(&[ROWS, INNER]), var(&[ROWS, INNER]));
    both(&mut group, "swiglu", [ROWS * INNER, ROWS * INNER], &|| {
        swiglu(&gate, &up).unwrap()
    });
    let (mut p, grad) = (vec![0.5f32; 1 << 22], vec![0.1f32; 1 << 22]);
    let (mut m, mut v) = (vec![0f32; 1 << 22], vec![0f32; 1 << 22]);
    let settings = AdamWSettings {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    group.throughput(Throughput::Elements(1 << 22));
    group.bench_function("adamw", |b| {
        b.iter(|| {
            let moments = MomentSlices {
                first: &mut m,
                second: &mut v,
            };
            let update = AdamWUpdate {
                settings: &settings,
                number: 7,
                clip_scale: 1.0,
            };
            adamw(&mut p, &grad, moments, update)
        })
    });
    group.finish();
}

/// One transformer layer with an adapter on every projection, as training runs it: forward, then
/// backward to the input and the adapters.
fn layer(c: &mut Criterion) {
    use_one_thread_pool();
    let mut group = c.benchmark_group("layer");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(4));
    let layout = packed(2, 120, &[220; 4]);
    let rows = layout.rows();
    let (x, norm) = (var(&[rows, WIDTH]), tensor(&[WIDTH]));
    let frequencies: Vec<f32> = (0..32).map(|i| 10_000f32.powf(-i as f32 / 32.0)).collect();
    let table = RopeTable::new(&frequencies, 2048, &Device::Cpu).unwrap();
    let positions: Arc<[u32]> = (0..rows as u32).collect::<Vec<_>>().into();
    let shapes = [
        (576, 576),
        (576, 192),
        (576, 192),
        (576, 576),
        (576, 1536),
        (576, 1536),
        (1536, 576),
    ];
    let weights: Vec<(Matrix, Var, Var)> = shapes
        .iter()
        .map(|&(input, out)| {
            (
                Matrix::Dense(tensor(&[out, input])),
                var(&[16, input]),
                var(&[out, 16]),
            )
        })
        .collect();
    let project = |i: usize, x: &Tensor| {
        let (weight, a, b) = &weights[i];
        linear(
            x,
            weight,
            None,
            Some(Lora {
                a,
                b,
                scale: 2.0,
                laid_out: None,
            }),
        )
        .unwrap()
    };
    let forward = || {
        let h = rms_norm(&x, &norm, 1e-5).unwrap();
        let q = rope(&project(0, &h), &positions, &table).unwrap();
        let k = rope(&project(1, &h), &positions, &table).unwrap();
        let attended = grouped_attention(&q, &k, &project(2, &h), &layout, SHAPE).unwrap();
        let x = (x.as_tensor() + project(3, &attended)).unwrap();
        let h = rms_norm(&x, &norm, 1e-5).unwrap();
        let inner = swiglu(&project(4, &h), &project(5, &h)).unwrap();
        (&x + project(6, &inner)).unwrap()
    };
    let products: usize = shapes
        .iter()
        .map(|(input, out)| 2 * rows * (input * out + 16 * (input + out)))
        .sum();
    both(&mut group, "lora16", [products, products], &forward);
    group.finish();
}

criterion_group!(benches, layer, products, attention, logprobs, elementwise);
criterion_main!(benches);
