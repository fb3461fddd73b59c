use std::sync::Arc;

use assay_ops::*;
use candle_core::quantized::GgmlDType;
use candle_core::{D, DType, Device, Tensor};

use crate::compare::*;

#[test]
fn rms_norm_agrees_with_its_composed_form() {
    for (rows, width) in [(1, 8), (3, 19), (70, 64)] {
        let inputs = [tensor(&[rows, width], 1), tensor(&[width], 2)];
        assert_agree(&inputs, &|t| rms_norm(&t[0], &t[1], 1e-5).unwrap(), &|t| {
            let mean = (t[0].sqr().unwrap().mean_keepdim(1).unwrap() + 1e-5).unwrap();
            t[0].broadcast_div(&mean.sqrt().unwrap())
                .unwrap()
                .broadcast_mul(&t[1])
                .unwrap()
        });
    }
}

#[test]
fn rms_norm_by_hand() {
    let x = Tensor::new(&[[3f32, 4.0]], &Device::Cpu).unwrap();
    let weight = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
    let y = rms_norm(&x, &weight, 0.0)
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    let root = 12.5f32.sqrt();
    assert!((y[0][0] - 3.0 / root).abs() < 1e-6 && (y[0][1] - 8.0 / root).abs() < 1e-6);
}

/// Rotation by the convention of transformers: q * cos + rotate_half(q) * sin.
fn composed_rope(x: &Tensor, positions: &[u32], frequencies: &[f32]) -> Tensor {
    let half = frequencies.len();
    let (rows, width) = x.dims2().unwrap();
    let heads = width / (2 * half);
    let angles: Vec<f64> = positions
        .iter()
        .flat_map(|&p| frequencies.iter().map(move |&f| f64::from(p as f32 * f)))
        .collect();
    let angles = Tensor::from_vec(angles, (rows, 1, half), &Device::Cpu).unwrap();
    let angles = Tensor::cat(&[&angles, &angles], 2).unwrap();
    let x = x.reshape((rows, heads, 2 * half)).unwrap();
    let (first, second) = (
        x.narrow(2, 0, half).unwrap(),
        x.narrow(2, half, half).unwrap(),
    );
    let rotated = Tensor::cat(&[&second.neg().unwrap(), &first], 2).unwrap();
    let y = (x.broadcast_mul(&angles.cos().unwrap()).unwrap()
        + rotated.broadcast_mul(&angles.sin().unwrap()).unwrap())
    .unwrap();
    y.reshape((rows, width)).unwrap()
}

#[test]
fn rope_agrees_with_its_composed_form() {
    let frequencies = [1f32, 0.3, 0.07];
    let table = RopeTable::new(&frequencies, 400, &Device::Cpu).unwrap();
    let positions: Arc<[u32]> = (0..35).map(|i| (i * 11) % 400).collect::<Vec<_>>().into();
    assert_agree(
        &[tensor(&[35, 24], 3)],
        &|t| rope(&t[0], &positions, &table).unwrap(),
        &|t| composed_rope(&t[0], &positions, &frequencies),
    );
}

#[test]
fn swiglu_agrees_with_its_composed_form() {
    let inputs = [(tensor(&[7, 33], 4) * 12.0).unwrap(), tensor(&[7, 33], 5)];
    assert_agree(&inputs, &|t| swiglu(&t[0], &t[1]).unwrap(), &|t| {
        let sigmoid = ((t[0].neg().unwrap().exp().unwrap() + 1.0).unwrap())
            .recip()
            .unwrap();
        (t[0].mul(&sigmoid).unwrap() * &t[1]).unwrap()
    });
}

#[test]
fn add_agrees_with_its_composed_form() {
    let inputs = [tensor(&[130, 300], 4), tensor(&[130, 300], 5)];
    let composed = |t: &[Tensor]| (&t[0] + &t[1]).unwrap();
    assert_agree(&inputs, &|t| add(&t[0], &t[1]).unwrap(), &composed);
    // One tensor on both sides, as in a residual branch of itself.
    let twice = |t: &[Tensor]| add(&t[0], &t[0]).unwrap();
    assert_agree(&inputs[..1], &twice, &|t| (&t[0] + &t[0]).unwrap());
}

fn composed_linear(t: &[Tensor], scale: f64) -> Tensor {
    let base = t[0].matmul(&t[1].t().unwrap()).unwrap();
    match t.len() {
        2 => base,
        _ => {
            let up = t[0]
                .matmul(&t[2].t().unwrap())
                .unwrap()
                .matmul(&t[3].t().unwrap())
                .unwrap();
            (base + (up * scale).unwrap()).unwrap()
        }
    }
}

#[test]
fn trained_linear_agrees_with_its_composed_form() {
    for (rows, input, out) in [(1, 5, 3), (2, 64, 48), (37, 70, 131), (130, 300, 33)] {
        let inputs = [tensor(&[rows, input], 6), tensor(&[out, input], 7)];
        let fused = |t: &[Tensor]| linear(&t[0], &Matrix::Dense(t[1].clone()), None, None).unwrap();
        assert_agree(&inputs, &fused, &|t| composed_linear(t, 0.0));
    }
}

#[test]
fn trained_linear_with_adapter_agrees_with_composed_form() {
    let inputs = [
        tensor(&[21, 40], 6),
        tensor(&[50, 40], 7),
        tensor(&[4, 40], 8),
        tensor(&[50, 4], 9),
        tensor(&[50], 10),
    ];
    let fused = |t: &[Tensor]| {
        let lora = Lora {
            a: &t[2],
            b: &t[3],
            scale: 1.75,
            laid_out: None,
        };
        linear(&t[0], &Matrix::Dense(t[1].clone()), Some(&t[4]), Some(lora)).unwrap()
    };
    assert_agree(&inputs, &fused, &|t| {
        composed_linear(&t[..4], 1.75).broadcast_add(&t[4]).unwrap()
    });
}

#[test]
fn frozen_linear_with_adapter_agrees_with_composed_form() {
    for (rows, input, out, rank) in [(1, 40, 50, 4), (45, 33, 70, 1), (150, 290, 65, 16)] {
        let weight = tensor(&[out, input], 7);
        let matrix = Matrix::Dense(weight.clone());
        let inputs = [
            tensor(&[rows, input], 6),
            tensor(&[rank, input], 8),
            tensor(&[out, rank], 9),
        ];
        let fused = |t: &[Tensor]| {
            linear(
                &t[0],
                &matrix,
                None,
                Some(Lora {
                    a: &t[1],
                    b: &t[2],
                    scale: 0.5,
                    laid_out: None,
                }),
            )
            .unwrap()
        };
        let wide = weight.to_dtype(DType::F64).unwrap();
        assert_agree(&inputs, &fused, &|t| {
            composed_linear(
                &[t[0].clone(), wide.clone(), t[1].clone(), t[2].clone()],
                0.5,
            )
        });
    }
}

#[test]
fn fault_20_adapter_scale_leaves_the_base_alone() {
    let (x, weight) = (tensor(&[3, 32], 1), Matrix::Dense(tensor(&[8, 32], 2)));
    let (a, zero, b) = (
        tensor(&[2, 32], 3),
        tensor(&[8, 2], 4).zeros_like().unwrap(),
        tensor(&[8, 2], 4),
    );
    let base = linear(&x, &weight, None, None).unwrap();
    let idle = linear(
        &x,
        &weight,
        None,
        Some(Lora {
            a: &a,
            b: &zero,
            scale: 7.0,
            laid_out: None,
        }),
    )
    .unwrap();
    assert_eq!(bits(&base), bits(&idle));
    let once = (linear(
        &x,
        &weight,
        None,
        Some(Lora {
            a: &a,
            b: &b,
            scale: 1.0,
            laid_out: None,
        }),
    )
    .unwrap()
        - &base)
        .unwrap();
    let thrice = (linear(
        &x,
        &weight,
        None,
        Some(Lora {
            a: &a,
            b: &b,
            scale: 3.0,
            laid_out: None,
        }),
    )
    .unwrap()
        - &base)
        .unwrap();
    let (thrice, expected) = (
        thrice.to_dtype(DType::F64).unwrap(),
        (once * 3.0).unwrap().to_dtype(DType::F64).unwrap(),
    );
    assert!(relative(&thrice, &expected) < 1e-5);
}

#[test]
fn frozen_weights_receive_no_gradient() {
    let x = candle_core::Var::from_tensor(&tensor(&[4, 6], 1)).unwrap();
    let weight = tensor(&[5, 6], 2);
    let y = linear(x.as_tensor(), &Matrix::Dense(weight.clone()), None, None).unwrap();
    let store = y.sum_all().unwrap().backward().unwrap();
    assert!(store.get(&weight).is_none());
    assert!(store.get(x.as_tensor()).is_some());
}

fn quantised(out: usize, input: usize, dtype: GgmlDType) -> QuantisedMatrix {
    let storage =
        candle_core::quantized::QTensor::quantize(&tensor(&[out, input], 12), dtype).unwrap();
    QuantisedMatrix::new(dtype, out, input, storage.data().unwrap().to_vec()).unwrap()
}

const BLOCK_TYPES: [GgmlDType; 14] = [
    GgmlDType::F32,
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
    GgmlDType::Q8K,
];

#[test]
fn quantised_matrices_expand_as_candle_expands_them() {
    for dtype in BLOCK_TYPES {
        let storage =
            candle_core::quantized::QTensor::quantize(&tensor(&[3, 512], 12), dtype).unwrap();
        let expected = storage.dequantize(&Device::Cpu).unwrap();
        assert_eq!(
            bits(&quantised(3, 512, dtype).dequantise().unwrap()),
            bits(&expected),
            "{dtype:?}"
        );
    }
}

/// Every operation on the two matrices gives the same bits, forward and backward.
fn assert_same_bits(one: &Matrix, other: &Matrix, rows: usize, context: &str) {
    let (out, input) = one.dims().unwrap();
    let inputs = [
        tensor(&[rows, input], 1),
        tensor(&[3, input], 2),
        tensor(&[out, 3], 3),
    ];
    let targets: Arc<[u32]> = (0..rows).map(|i| (i % out) as u32).collect();
    let run = |matrix: &Matrix| {
        let (adapted, adapted_gradients) = pull(&inputs, DType::F32, &|t| {
            let lora = Lora {
                a: &t[1],
                b: &t[2],
                scale: 2.0,
                laid_out: None,
            };
            linear(&t[0], matrix, None, Some(lora)).unwrap()
        });
        let (plain, plain_gradients) = pull(&inputs[..1], DType::F32, &|t| {
            linear(&t[0], matrix, None, None).unwrap()
        });
        let (scored, scored_gradients) = pull(&inputs[..1], DType::F32, &|t| {
            token_logprobs(&t[0], matrix, &targets).unwrap().logprobs
        });
        let mut all = vec![adapted, plain, scored];
        all.extend(adapted_gradients);
        all.extend(plain_gradients);
        all.extend(scored_gradients);
        let mut all: Vec<Vec<f64>> = all
            .iter()
            .map(|t| t.flatten_all().unwrap().to_vec1().unwrap())
            .collect();
        let rows = embedding(matrix, &targets).unwrap().flatten_all().unwrap();
        all.push(rows.to_dtype(DType::F64).unwrap().to_vec1().unwrap());
        all
    };
    assert!(run(one) == run(other), "{context}, {rows} rows");
}

#[test]
fn quantised_weights_have_the_bits_of_dequantised_ones() {
    for dtype in BLOCK_TYPES {
        let blocks = quantised(300, 512, dtype);
        let dense = Matrix::Dense(blocks.dequantise().unwrap());
        let rounded = Matrix::Quantised(Arc::new(blocks.with_factors(DType::BF16)));
        let panels = dense.in_panels(DType::BF16).unwrap();
        let blocks = Matrix::Quantised(Arc::new(blocks));
        for rows in [1, 40] {
            assert_same_bits(&blocks, &dense, rows, &format!("{dtype:?}"));
            assert_same_bits(&rounded, &panels, rows, &format!("{dtype:?}, bf16"));
        }
    }
}

#[test]
fn panels_give_the_bits_of_the_dense_matrix() {
    for [out, input] in [
        [1, 1],
        [33, 40],
        [300, 512],
        [49, 577],
        [2100, 70],
        [576, 1536],
    ] {
        let dense = Matrix::Dense(tensor(&[out, input], 6));
        let panels = dense.in_panels(DType::F32).unwrap();
        assert!(matches!(panels, Matrix::Panels(_)));
        let back = panels.to_dense().unwrap();
        assert_eq!(bits(&back), bits(&dense.to_dense().unwrap()));
        for rows in [1, 14, 131] {
            assert_same_bits(&panels, &dense, rows, &format!("[{out}, {input}]"));
        }
    }
}

#[test]
fn selected_quantised_rows_are_those_rows() {
    let blocks = quantised(6, 256, GgmlDType::Q4K);
    let all = blocks.dequantise().unwrap().to_vec2::<f32>().unwrap();
    let chosen = blocks
        .select_rows(&[4, 0, 4])
        .unwrap()
        .dequantise()
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    assert_eq!(chosen, vec![all[4].clone(), all[0].clone(), all[4].clone()]);
}

fn composed_logprobs(hidden: &Tensor, output: &Tensor, targets: &[u32]) -> Tensor {
    let logits = hidden.matmul(&output.t().unwrap()).unwrap();
    let shifted = logits
        .broadcast_sub(&logits.max_keepdim(D::Minus1).unwrap().detach())
        .unwrap();
    let normaliser = shifted
        .exp()
        .unwrap()
        .sum_keepdim(D::Minus1)
        .unwrap()
        .log()
        .unwrap();
    let index = Tensor::from_vec(targets.to_vec(), (targets.len(), 1), &Device::Cpu).unwrap();
    shifted
        .broadcast_sub(&normaliser)
        .unwrap()
        .gather(&index, 1)
        .unwrap()
        .squeeze(1)
        .unwrap()
}

#[test]
fn token_logprobs_agree_with_their_composed_form() {
    for (rows, width, vocab) in [(1, 8, 5), (3, 16, 2100), (150, 24, 1500)] {
        let targets: Arc<[u32]> = (0..rows)
            .map(|i| (i * 7919 % vocab) as u32)
            .collect::<Vec<_>>()
            .into();
        let inputs = [
            (tensor(&[rows, width], 1) * 3.0).unwrap(),
            tensor(&[vocab, width], 2),
        ];
        let fused = |t: &[Tensor]| {
            token_logprobs(&t[0], &Matrix::Dense(t[1].clone()), &targets)
                .unwrap()
                .logprobs
        };
        assert_agree(&inputs, &fused, &|t| {
            composed_logprobs(&t[0], &t[1], &targets)
        });
    }
}

#[test]
fn frozen_output_gradients_agree_with_composed_form() {
    for (rows, width, vocab) in [(1, 8, 5), (3, 16, 2100), (150, 24, 3500)] {
        // The first, middle and last words are targets, and later blocks of words have larger
        // logits.
        let targets: Arc<[u32]> = (0..rows)
            .map(|i| [0, vocab / 2, vocab - 1, i * 7919 % vocab][i % 4] as u32)
            .collect();
        let growth: Vec<f32> = (0..vocab).map(|word| 1.0 + word as f32 / 500.0).collect();
        let growth = Tensor::from_vec(growth, (vocab, 1), &Device::Cpu).unwrap();
        let table = tensor(&[vocab, width], 2).broadcast_mul(&growth).unwrap();
        let hidden = [(tensor(&[rows, width], 1) * 3.0).unwrap()];
        let dense = Matrix::Dense(table.clone());
        let composed = |t: &[Tensor]| {
            let table = table.to_dtype(t[0].dtype()).unwrap();
            composed_logprobs(&t[0], &table, &targets)
        };
        for matrix in [dense.in_panels(DType::F32).unwrap(), dense] {
            let fused = |t: &[Tensor]| token_logprobs(&t[0], &matrix, &targets).unwrap().logprobs;
            assert_agree(&hidden, &fused, &composed);
        }
    }
}

#[test]
fn entropies_are_those_of_the_distributions() {
    let (hidden, output) = ((tensor(&[9, 16], 1) * 4.0).unwrap(), tensor(&[3000, 16], 2));
    let targets: Arc<[u32]> = vec![0; 9].into();
    let result = token_logprobs(&hidden, &Matrix::Dense(output.clone()), &targets).unwrap();
    let logits = hidden
        .to_dtype(DType::F64)
        .unwrap()
        .matmul(&output.to_dtype(DType::F64).unwrap().t().unwrap())
        .unwrap();
    let expected: Vec<f64> = logits
        .to_vec2::<f64>()
        .unwrap()
        .iter()
        .map(|row| {
            let sum: f64 = row.iter().map(|l| l.exp()).sum();
            row.iter().map(|l| -(l.exp() / sum) * (l - sum.ln())).sum()
        })
        .collect();
    for (found, expected) in result
        .entropies
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .zip(expected)
    {
        assert!(
            (f64::from(*found) - expected).abs() < 1e-5 * expected,
            "{found} {expected}"
        );
    }
    let uniform = token_logprobs(
        &hidden.zeros_like().unwrap(),
        &Matrix::Dense(output),
        &targets,
    )
    .unwrap();
    assert!((uniform.entropies.to_vec1::<f32>().unwrap()[0] - 3000f32.ln()).abs() < 1e-5);
    assert!((uniform.logprobs.to_vec1::<f32>().unwrap()[0] + 3000f32.ln()).abs() < 1e-5);
}

#[test]
fn logprobs_of_extreme_logits_stay_finite() {
    let hidden = Tensor::new(&[[300f32], [-300.0]], &Device::Cpu).unwrap();
    let output = Tensor::new(&[[1f32], [0.0], [-1.0]], &Device::Cpu).unwrap();
    let result = token_logprobs(&hidden, &Matrix::Dense(output), &vec![0u32, 0].into()).unwrap();
    assert_eq!(result.logprobs.to_vec1::<f32>().unwrap(), vec![0.0, -600.0]);
    assert_eq!(result.entropies.to_vec1::<f32>().unwrap(), vec![0.0, 0.0]);
}

#[test]
fn reward_head_agrees_with_its_composed_form() {
    for rows in [1, 5, 200] {
        let inputs = [tensor(&[rows, 37], 1), tensor(&[37], 2), tensor(&[1], 3)];
        assert_agree(
            &inputs,
            &|t| reward_head(&t[0], &t[1], &t[2]).unwrap(),
            &|t| {
                t[0].broadcast_mul(&t[1])
                    .unwrap()
                    .sum(1)
                    .unwrap()
                    .broadcast_add(&t[2])
                    .unwrap()
            },
        );
    }
}

#[test]
fn embedding_agrees_with_its_composed_form() {
    let ids: Arc<[u32]> = vec![3, 0, 3, 6, 3].into();
    let index = Tensor::from_vec(ids.to_vec(), 5, &Device::Cpu).unwrap();
    assert_agree(
        &[tensor(&[7, 10], 1)],
        &|t| embedding(&Matrix::Dense(t[0].clone()), &ids).unwrap(),
        &|t| t[0].index_select(&index, 0).unwrap(),
    );
}

#[test]
fn fault_19_every_tracked_input_receives_a_gradient() {
    // `pull` panics if an input receives none. Here each input in turn is the only tracked one.
    let positions: Arc<[u32]> = vec![0, 1, 2].into();
    let targets: Arc<[u32]> = vec![1, 2, 0].into();
    let table = RopeTable::new(&[1.0, 0.1], 8, &Device::Cpu).unwrap();
    let layout = Arc::new(
        AttentionLayout::new(vec![GroupSpans {
            prompt: 0..2,
            completions: vec![(2..3).into(), (3..3).into()],
        }])
        .unwrap(),
    );
    let shape = HeadShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
    };
    type Operation<'a> = Box<dyn Fn(&[Tensor]) -> Tensor + 'a>;
    let cases: Vec<(Vec<Vec<usize>>, Operation)> = vec![
        (
            vec![vec![3, 8], vec![8]],
            Box::new(|t| rms_norm(&t[0], &t[1], 1e-5).unwrap()),
        ),
        (
            vec![vec![3, 8]],
            Box::new(|t| rope(&t[0], &positions, &table).unwrap()),
        ),
        (
            vec![vec![3, 8], vec![3, 8]],
            Box::new(|t| swiglu(&t[0], &t[1]).unwrap()),
        ),
        (
            vec![vec![3, 8], vec![5, 8], vec![5], vec![2, 8], vec![5, 2]],
            Box::new(|t| {
                let lora = Lora {
                    a: &t[3],
                    b: &t[4],
                    scale: 2.0,
                    laid_out: None,
                };
                linear(&t[0], &Matrix::Dense(t[1].clone()), Some(&t[2]), Some(lora)).unwrap()
            }),
        ),
        (
            vec![vec![3, 8], vec![5, 8]],
            Box::new(|t| linear(&t[0], &Matrix::Dense(t[1].clone()), None, None).unwrap()),
        ),
        (
            vec![vec![3, 8], vec![3, 4], vec![3, 4]],
            Box::new(|t| grouped_attention(&t[0], &t[1], &t[2], &layout, shape).unwrap()),
        ),
        (
            vec![vec![3, 8], vec![5, 8]],
            Box::new(|t| {
                token_logprobs(&t[0], &Matrix::Dense(t[1].clone()), &targets)
                    .unwrap()
                    .logprobs
            }),
        ),
        (
            vec![vec![3, 8], vec![8], vec![1]],
            Box::new(|t| reward_head(&t[0], &t[1], &t[2]).unwrap()),
        ),
        (
            vec![vec![5, 8]],
            Box::new(|t| embedding(&Matrix::Dense(t[0].clone()), &targets).unwrap()),
        ),
    ];
    for (case, (dims, operation)) in cases.iter().enumerate() {
        let inputs: Vec<Tensor> = dims
            .iter()
            .enumerate()
            .map(|(i, d)| tensor(d, i as u64 + 1))
            .collect();
        let (_, all) = pull(&inputs, DType::F32, operation);
        for (i, expected) in all.iter().enumerate() {
            let most = expected
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f64>()
                .unwrap();
            assert!(most > 0.0, "case {case}: the gradient of input {i} is zero");
            let (_, alone) = pull(&inputs[i..=i], DType::F32, &|t| {
                let mut mixed = inputs.clone();
                mixed[i] = t[0].clone();
                operation(&mixed)
            });
            assert!(
                relative(&alone[0], expected) < 1e-6,
                "case {case}, input {i} tracked alone"
            );
        }
    }
}

#[test]
fn a_seeded_gradient_arrives_as_it_is() {
    let x = candle_core::Var::from_tensor(&tensor(&[3, 4], 1)).unwrap();
    let (y, gradient) = (x.affine(3.0, 0.0).unwrap(), tensor(&[3, 4], 2));
    let store = seed_gradient(&y, &gradient).unwrap().backward().unwrap();
    let tripled = gradient.affine(3.0, 0.0).unwrap();
    assert_eq!(bits(store.get(x.as_tensor()).unwrap()), bits(&tripled));
    let twice = seed_gradient(&y, &gradient)
        .unwrap()
        .affine(2.0, 0.0)
        .unwrap()
        .backward()
        .unwrap();
    assert_eq!(
        bits(twice.get(x.as_tensor()).unwrap()),
        bits(&tripled.affine(2.0, 0.0).unwrap())
    );
    assert!(seed_gradient(&y, &tensor(&[4, 3], 2)).is_err());
}
