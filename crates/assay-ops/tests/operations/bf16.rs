//! Operations whose products have bf16 factors, against f64 with rounded factors and against f32.

use std::sync::Arc;

use assay_ops::*;
use candle_core::{DType, Device, Tensor, Var};

use crate::compare::*;

/// Numbers with nine bits after the point. bf16 rounds the larger ones, and sums of a few products
/// are exact in f32.
fn grid(dims: &[usize], seed: u64) -> Tensor {
    let values = numbers(dims.iter().product(), seed);
    let values: Vec<f32> = values.iter().map(|v| (v * 512.0).round() / 512.0).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// The nearest bf16 numbers as f64.
fn rounded(tensor: &Tensor) -> Tensor {
    let bf16 = tensor.to_dtype(DType::F32).unwrap().to_dtype(DType::BF16);
    bf16.unwrap().to_dtype(DType::F64).unwrap()
}

fn product(a: &Tensor, b: &Tensor) -> Tensor {
    a.contiguous()
        .unwrap()
        .matmul(&b.contiguous().unwrap())
        .unwrap()
}

fn bf16_panels(weight: &Tensor) -> Matrix {
    let matrix = Matrix::Dense(weight.clone())
        .in_panels(DType::BF16)
        .unwrap();
    assert_eq!(matrix.factors(), DType::BF16);
    matrix
}

fn assert_close(found: &Tensor, expected: &Tensor, context: &str) {
    let off = relative(&found.to_dtype(DType::F64).unwrap(), expected);
    assert!(off < 2e-6, "{context}: {off}");
}

#[test]
fn linear_rounds_its_factors_and_sums_in_f32() {
    for (rows, input, out, rank) in [(1, 40, 50, 3), (33, 31, 70, 8), (150, 38, 35, 4)] {
        let [x, weight] = [grid(&[rows, input], 1), grid(&[out, input], 2)];
        let [a, b] = [grid(&[rank, input], 3), grid(&[out, rank], 4)];
        let g = grid(&[rows, out], 5);
        let matrix = bf16_panels(&weight);
        let vars = [&x, &a, &b].map(|t| Var::from_tensor(t).unwrap());
        let lora = Lora {
            a: &vars[1],
            b: &vars[2],
            scale: 0.5,
            laid_out: None,
        };
        let y = linear(&vars[0], &matrix, None, Some(lora)).unwrap();
        let store = seed_gradient(&y, &g).unwrap().backward().unwrap();
        let [x, w, a, b, g] = [&x, &weight, &a, &b, &g].map(rounded);
        let t = |t: &Tensor| t.t().unwrap();
        let half = |t: Tensor| (t * 0.5).unwrap();
        let down = rounded(&half(product(&x, &t(&a))));
        let ddown = rounded(&half(product(&g, &b)));
        let expected = [
            (product(&x, &t(&w)) + product(&down, &t(&b))).unwrap(),
            (product(&g, &w) + product(&ddown, &a)).unwrap(),
            product(&t(&ddown), &x),
            product(&t(&g), &down),
        ];
        let gradient = |i: usize| store.get(vars[i].as_tensor()).unwrap().clone();
        let found = [y, gradient(0), gradient(1), gradient(2)];
        let names = ["y", "dx", "dA", "dB"];
        for ((found, expected), name) in found.iter().zip(&expected).zip(names) {
            assert_close(
                found,
                expected,
                &format!("{name} of [{rows}, {input}, {out}]"),
            );
        }
    }
}

#[test]
fn frozen_linear_without_adapter_rounds_too() {
    let (x, weight, g) = (grid(&[17, 33], 1), grid(&[29, 33], 2), grid(&[17, 29], 3));
    let var = Var::from_tensor(&x).unwrap();
    let y = linear(&var, &bf16_panels(&weight), None, None).unwrap();
    let store = seed_gradient(&y, &g).unwrap().backward().unwrap();
    let [x, w, g] = [&x, &weight, &g].map(rounded);
    assert_close(&y, &product(&x, &w.t().unwrap()), "y");
    assert_close(store.get(var.as_tensor()).unwrap(), &product(&g, &w), "dx");
}

#[test]
fn panels_hold_the_nearest_bf16_values() {
    for [out, input] in [[1, 1], [33, 41], [300, 512], [49, 577]] {
        let weight = tensor(&[out, input], 6);
        let matrix = bf16_panels(&weight);
        let expected = rounded(&weight).to_dtype(DType::F32).unwrap();
        assert_eq!(bits(&matrix.to_dense().unwrap()), bits(&expected));
        let ids: Arc<[u32]> = vec![(out - 1) as u32, 0].into();
        let rows = embedding(&matrix, &ids).unwrap();
        let index = Tensor::new(&[(out - 1) as u32, 0], &Device::Cpu).unwrap();
        assert_eq!(
            bits(&rows),
            bits(&expected.index_select(&index, 0).unwrap())
        );
        let Matrix::Panels(panels) = &matrix else {
            panic!("{matrix:?}");
        };
        let padded = out.next_multiple_of(32) * input.next_multiple_of(2);
        assert_eq!(panels.size_in_bytes(), 2 * padded);
    }
}

/// Log-probabilities, entropies and gradients at hidden states of f64 logits with rounded factors,
/// and the bound of the gradient's rounding.
struct Exact {
    logprobs: Vec<f64>,
    entropies: Vec<f64>,
    gradients: Vec<f64>,
    bounds: Vec<f64>,
}

fn exact(hidden: &Tensor, output: &Tensor, targets: &[u32]) -> Exact {
    let (hidden, output) = (rounded(hidden), rounded(output));
    let logits = product(&hidden, &output.t().unwrap());
    let logits: Vec<Vec<f64>> = logits.to_vec2().unwrap();
    let words: Vec<Vec<f64>> = output.to_vec2().unwrap();
    let mut exact = Exact {
        logprobs: Vec::new(),
        entropies: Vec::new(),
        gradients: Vec::new(),
        bounds: Vec::new(),
    };
    for (logits, &target) in logits.iter().zip(targets) {
        let target = target as usize;
        let most = logits.iter().fold(f64::NEG_INFINITY, |m, &l| m.max(l));
        let sum: f64 = logits.iter().map(|l| (l - most).exp()).sum();
        let p: Vec<f64> = logits.iter().map(|l| (l - most).exp() / sum).collect();
        exact.logprobs.push(logits[target] - most - sum.ln());
        exact
            .entropies
            .push(p.iter().map(|p| -p * p.max(1e-300).ln()).sum());
        for column in 0..words[0].len() {
            let others = |f: &dyn Fn(f64) -> f64| -> f64 {
                let others = (0..words.len()).filter(|&word| word != target);
                others.map(|word| p[word] * f(words[word][column])).sum()
            };
            let rest: f64 = (0..words.len())
                .filter(|&w| w != target)
                .map(|w| p[w])
                .sum();
            exact
                .gradients
                .push(rest * words[target][column] - others(&|w| w));
            exact.bounds.push(others(&f64::abs) / 256.0 + 1e-6);
        }
    }
    exact
}

fn assert_logprobs(hidden: &Tensor, output: &Tensor, targets: &[u32]) -> Exact {
    let expected = exact(hidden, output, targets);
    let var = Var::from_tensor(hidden).unwrap();
    let targets: Arc<[u32]> = targets.into();
    let result = token_logprobs(&var, &bf16_panels(output), &targets).unwrap();
    let ones = result.logprobs.ones_like().unwrap();
    let loss = seed_gradient(&result.logprobs, &ones).unwrap();
    let store = loss.backward().unwrap();
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (i, (&found, &exact)) in values(&result.logprobs)
        .iter()
        .zip(&expected.logprobs)
        .enumerate()
    {
        assert!(
            (f64::from(found) - exact).abs() < 1e-5 * (1.0 + exact.abs()),
            "row {i}"
        );
    }
    for (i, (&found, &exact)) in values(&result.entropies)
        .iter()
        .zip(&expected.entropies)
        .enumerate()
    {
        assert!(
            (f64::from(found) - exact).abs() < 1e-5 * (1.0 + exact),
            "row {i}"
        );
    }
    let found = values(store.get(var.as_tensor()).unwrap());
    let pairs = found.iter().zip(&expected.gradients).zip(&expected.bounds);
    for (i, ((&found, exact), bound)) in pairs.enumerate() {
        let off = (f64::from(found) - exact).abs();
        assert!(off <= *bound, "gradient {i}: {found} {exact} {bound}");
    }
    expected
}

#[test]
fn logprobs_round_their_factors_only() {
    for (rows, width, words) in [(1, 8, 5), (3, 16, 2100), (120, 24, 1500)] {
        let hidden = (tensor(&[rows, width], 1) * 3.0).unwrap();
        let targets: Vec<u32> = (0..rows).map(|i| (i * 7919 % words) as u32).collect();
        assert_logprobs(&hidden, &tensor(&[words, width], 2), &targets);
    }
}

#[test]
fn gradients_of_confident_tokens_keep_their_digits() {
    // The target of each row has a probability near 1. Rounding its weight must not hide the rest
    // of the gradient.
    let (words, width) = (1100, 16);
    let output = tensor(&[words, width], 2);
    let targets = [3u32, 700, 1099];
    let index = Tensor::new(&targets, &Device::Cpu).unwrap();
    let hidden = (output.index_select(&index, 0).unwrap() * 4.0).unwrap();
    let exact = assert_logprobs(&hidden, &output, &targets);
    assert!(
        exact.logprobs.iter().any(|l| *l > -0.05),
        "{:?}",
        exact.logprobs
    );
}

#[test]
fn bf16_stays_within_its_rounding_of_f32() {
    let (x, weight) = (tensor(&[60, 576], 1), tensor(&[200, 576], 2));
    let g = tensor(&[60, 200], 3);
    let run = |matrix: &Matrix| {
        let var = Var::from_tensor(&x).unwrap();
        let y = linear(&var, matrix, None, None).unwrap();
        let store = seed_gradient(&y, &g).unwrap().backward().unwrap();
        let dx = store.get(var.as_tensor()).unwrap().clone();
        [y, dx].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    let [y, dx] = run(&bf16_panels(&weight));
    let [y32, dx32] = run(&Matrix::Dense(weight.clone()));
    // Each factor moves by at most 2^-9 of itself, so a sum by 2^-8 of the sum of the products'
    // magnitudes, and a little.
    let magnitudes = |a: &Tensor, b: &Tensor| {
        let sums = product(&a.abs().unwrap(), &b.abs().unwrap());
        sums.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let bounds = [
        magnitudes(&x, &weight.t().unwrap()),
        magnitudes(&g, &weight),
    ];
    let mut differences = 0;
    for ((found, expected), bounds) in [(y, y32), (dx, dx32)].iter().zip(&bounds) {
        for ((found, expected), bound) in found.iter().zip(expected).zip(bounds) {
            assert!((found - expected).abs() <= bound * 1.01 / 256.0);
            differences += usize::from(found != expected);
        }
    }
    assert!(differences > 10_000, "{differences}");
}
