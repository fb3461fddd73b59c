use super::*;
use crate::cuda::{cached_attention as kernels, draw};
use crate::{CacheRow, CacheRows, DeviceDrawSettings, HeadShape, KvCache, PromptKeyValues};

#[test]
fn cached_attention_after_appending() {
    for (heads, kv_heads, head_dim) in [(6, 2, 20), (2, 1, 64), (1, 1, 128)] {
        let shape = HeadShape {
            heads,
            kv_heads,
            head_dim,
        };
        let (width, slots, capacity) = (shape.kv_width(), 3, 40);
        let (prompt_k, prompt_v) = (tensor(&[30, width], 1), tensor(&[30, width], 2));
        let rows = |len: usize| -> Vec<CacheRow> {
            let row = |prompt, slot| CacheRow { prompt, slot, len };
            vec![row(0..7, 2), row(7..30, 0), row(3..3, 1)]
        };
        for (dtype, tolerance) in [(DType::F32, F32), (DType::BF16, BF16)] {
            for place in places() {
                emulated::DESCENDING.set(place.descending);
                let rounded = |t: &Tensor| t.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
                let placed =
                    |t: &Tensor| t.to_device(&place.device).unwrap().to_dtype(dtype).unwrap();
                let mut host =
                    KvCache::new(slots, capacity, width, &Device::Cpu, DType::F32).unwrap();
                let zeros =
                    || Tensor::zeros((slots, capacity, width), dtype, &place.device).unwrap();
                let (keys, values_cache) = (zeros(), zeros());
                for len in 1..=37 {
                    let (k, v) = (tensor(&[3, width], 10 + len), tensor(&[3, width], 60 + len));
                    let len = len as usize;
                    host.append(&rounded(&k), &rounded(&v), &CacheRows::new(rows(len)))
                        .unwrap();
                    let table = kernels::sequences(&rows(len), &place.device).unwrap();
                    let (k, v) = (placed(&k), placed(&v));
                    kernels::append([&k, &v], [&keys, &values_cache], &table).unwrap();
                    if ![1, 2, 17, 37].contains(&len) {
                        continue;
                    }
                    let q = (tensor(&[3, shape.query_width()], 5) * 3.0).unwrap();
                    let prompt = PromptKeyValues {
                        keys: &rounded(&prompt_k),
                        values: &rounded(&prompt_v),
                    };
                    let expected = crate::cached_attention(
                        &rounded(&q),
                        prompt,
                        &host,
                        &CacheRows::new(rows(len)),
                        shape,
                    );
                    let prompt = PromptKeyValues {
                        keys: &placed(&prompt_k),
                        values: &placed(&prompt_v),
                    };
                    let cache = [&keys, &values_cache];
                    let found =
                        kernels::cached_attention(&placed(&q), prompt, cache, &table, shape)
                            .unwrap();
                    let off = relative(&values(&found), &values(&expected.unwrap()));
                    assert!(
                        off < tolerance,
                        "{shape:?} {dtype:?} {place:?} {len}: {off:e}"
                    );
                }
            }
        }
    }
}

/// The definition, in double precision and token by token, as on the CPU.
fn reference(logits: &[f32], uniform: f64, drawing: DeviceDrawSettings) -> (u32, f32, f32) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let policy: f64 = logits.iter().map(|&l| f64::from((l - most).exp())).sum();
    if drawing.temperature == 0.0 {
        let token = logits.iter().position(|&l| l == most).unwrap();
        return (token as u32, 0.0, -policy.ln() as f32);
    }
    let inverse = 1.0 / drawing.temperature as f32;
    let weight = |l: f32| ((l - most) * inverse).exp();
    let weights: Vec<f32> = logits.iter().map(|&l| weight(l)).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
    if drawing.top_k > 0 {
        order.truncate(drawing.top_k);
    }
    let mass: f64 = order.iter().map(|&i| f64::from(weights[i])).sum();
    let mut sum = 0.0;
    let kept = order.iter().take_while(|&&i| {
        let needed = sum < drawing.top_p * mass;
        sum += f64::from(weights[i]);
        needed || drawing.top_p >= 1.0
    });
    let count = kept.count();
    order.truncate(count);
    order.sort_unstable();
    let total: f64 = order.iter().map(|&i| f64::from(weights[i])).sum();
    let mut sum = 0.0;
    let token = order.iter().copied().find(|&i| {
        sum += f64::from(weights[i]);
        sum > uniform * total
    });
    let token = token.unwrap();
    let scaled = f64::from((logits[token] - most) * inverse);
    let policy = f64::from(logits[token] - most) - policy.ln();
    (token as u32, (scaled - total.ln()) as f32, policy as f32)
}

#[test]
fn tokens_are_drawn_as_on_the_cpu() {
    let words = 700;
    let uniforms: Vec<f64> = vec![0.35, 0.9];
    let mut logits = numbers(uniforms.len() * words, 5);
    logits.iter_mut().for_each(|l| *l *= 9.0);
    // Ties at the top and in the middle of one row.
    logits[..40].fill(9.5);
    logits[300..500].fill(8.0);
    let settings = [
        (0.7, 1.0, 0),
        (1.0, 0.9, 0),
        (1.0, 0.05, 0),
        (1.3, 1.0, 50),
        (0.9, 0.8, 60),
        (0.0, 1.0, 0),
    ];
    for (temperature, top_p, top_k) in settings {
        let drawing = DeviceDrawSettings {
            temperature,
            top_p,
            top_k,
        };
        for place in places() {
            emulated::DESCENDING.set(place.descending);
            let rows = Tensor::from_slice(&logits, (uniforms.len(), words), &place.device).unwrap();
            let [tokens, sampling, policy] = draw::draw_tokens(&rows, &uniforms, drawing).unwrap();
            let tokens = tokens.to_vec1::<u32>().unwrap();
            let (sampling, policy) = (values(&sampling), values(&policy));
            for (row, &uniform) in uniforms.iter().enumerate() {
                let expected = reference(&logits[row * words..(row + 1) * words], uniform, drawing);
                let found = (tokens[row], sampling[row], policy[row]);
                assert_eq!(found.0, expected.0, "{drawing:?} {place:?} row {row}");
                let near = |a: f32, b: f32| (a - b).abs() < 1e-5 * b.abs().max(1.0);
                assert!(
                    near(found.1, expected.1),
                    "{drawing:?}: {found:?} {expected:?}"
                );
                assert!(
                    near(found.2, expected.2),
                    "{drawing:?}: {found:?} {expected:?}"
                );
            }
        }
    }
}

#[test]
fn rows_without_a_finite_maximum_are_marked() {
    let mut logits = vec![0.5f32; 3 * 600];
    logits[599] = f32::NAN;
    logits[700] = f32::INFINITY;
    let drawing = DeviceDrawSettings {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
    };
    for place in places() {
        let rows = Tensor::from_slice(&logits, (3, 600), &place.device).unwrap();
        let [tokens, ..] = draw::draw_tokens(&rows, &[0.0, 0.5, 0.5], drawing).unwrap();
        assert_eq!(
            tokens.to_vec1::<u32>().unwrap(),
            [u32::MAX, u32::MAX, 300],
            "{place:?}"
        );
    }
}
