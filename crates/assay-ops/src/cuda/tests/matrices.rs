use std::sync::Arc;

use candle_core::quantized::GgmlDType;

use super::Kind::{Activation, Vector};
use super::*;
use crate::cuda::{linear as kernels, quantised, token_logprobs as logprobs};
use crate::{Lora, Matrix, QuantisedMatrix};

/// A frozen matrix on the device of the inputs, in their type.
fn frozen(values: &Tensor, like: &Tensor) -> Matrix {
    let placed = values.to_device(like.device()).unwrap();
    Matrix::Dense(placed.to_dtype(like.dtype()).unwrap())
}

#[test]
fn frozen_linear_with_and_without_adapter() {
    for (rows, input, out, rank) in [(1, 5, 3, 2), (37, 70, 50, 4)] {
        // Numbers that bf16 holds exactly.
        let weight = tensor(&[out, input], 7).to_dtype(DType::BF16).unwrap();
        let weight = weight.to_dtype(DType::F32).unwrap();
        let x = (tensor(&[rows, input], 6), Activation);
        assert_agree(
            "linear",
            std::slice::from_ref(&x),
            &|t| kernels::linear(&t[0], &frozen(&weight, &t[0]), None, None).unwrap(),
            &|t| crate::linear(&t[0], &frozen(&weight, &t[0]), None, None).unwrap(),
        );
        let inputs = [
            x,
            (tensor(&[rank, input], 8), Vector),
            (tensor(&[out, rank], 9), Vector),
            (tensor(&[out], 10), Vector),
        ];
        let lora = |t: &[Tensor]| (t[1].clone(), t[2].clone());
        assert_agree(
            "linear with adapter and bias",
            &inputs,
            &|t| {
                let (a, b) = lora(t);
                let lora = Lora {
                    a: &a,
                    b: &b,
                    scale: 1.75,
                    laid_out: None,
                };
                kernels::linear(&t[0], &frozen(&weight, &t[0]), Some(&t[3]), Some(lora)).unwrap()
            },
            &|t| {
                let (a, b) = lora(t);
                let lora = Lora {
                    a: &a,
                    b: &b,
                    scale: 1.75,
                    laid_out: None,
                };
                crate::linear(&t[0], &frozen(&weight, &t[0]), Some(&t[3]), Some(lora)).unwrap()
            },
        );
    }
}

#[test]
fn trained_linear_with_adapter() {
    let inputs = [
        (tensor(&[21, 40], 6), Activation),
        (tensor(&[50, 40], 7), Activation),
        (tensor(&[4, 40], 8), Vector),
        (tensor(&[50, 4], 9), Vector),
    ];
    type Linear = fn(&Tensor, &Matrix, Lora<'_>) -> Tensor;
    let with = |t: &[Tensor], linear: Linear| {
        let lora = Lora {
            a: &t[2],
            b: &t[3],
            scale: 0.5,
            laid_out: None,
        };
        linear(&t[0], &Matrix::Dense(t[1].clone()), lora)
    };
    assert_agree(
        "trained linear",
        &inputs,
        &|t| {
            with(t, |x, w, lora| {
                kernels::linear(x, w, None, Some(lora)).unwrap()
            })
        },
        &|t| {
            with(t, |x, w, lora| {
                crate::linear(x, w, None, Some(lora)).unwrap()
            })
        },
    );
}

/// Blocks of any bytes whose scales are half-precision numbers of ordinary size.
fn blocks(format: GgmlDType, count: usize) -> Vec<u8> {
    let (size, scales): (usize, &[usize]) = match format {
        GgmlDType::F32 => (4, &[]),
        GgmlDType::F16 | GgmlDType::BF16 => (2, &[]),
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => (format.type_size(), &[0]),
        GgmlDType::Q4_1 | GgmlDType::Q5_1 | GgmlDType::Q4K | GgmlDType::Q5K => {
            (format.type_size(), &[0, 2])
        }
        GgmlDType::Q2K => (84, &[80, 82]),
        GgmlDType::Q3K => (110, &[108]),
        GgmlDType::Q6K => (210, &[208]),
        other => panic!("{other:?}"),
    };
    assert_eq!(size, format.type_size());
    let noise = numbers(count * size, 31);
    let mut bytes: Vec<u8> = noise.iter().map(|n| (n.abs() * 256.0) as u8).collect();
    for (index, block) in bytes.chunks_exact_mut(size).enumerate() {
        // One block has a subnormal scale, one a negative one.
        for &at in scales {
            let scale = [0.031, -0.5, 3e-6, 1.25][index % 4];
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
        }
        match format {
            GgmlDType::F32 => block.copy_from_slice(&noise[index].to_le_bytes()),
            GgmlDType::F16 => {
                block.copy_from_slice(&half::f16::from_f32(noise[index] * 1e-4).to_le_bytes());
            }
            GgmlDType::BF16 => {
                block.copy_from_slice(&half::bf16::from_f32(noise[index]).to_le_bytes());
            }
            _ => {}
        }
    }
    bytes
}

#[test]
fn every_block_format_expands_to_the_cpus_values() {
    use GgmlDType::*;
    for format in [
        F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K,
    ] {
        let (out, input) = (5, 512);
        let count = out * input / format.block_size();
        let host = QuantisedMatrix::new(format, out, input, blocks(format, count)).unwrap();
        let expected = values(&host.dequantise().unwrap());
        for place in places() {
            emulated::DESCENDING.set(place.descending);
            let placed = host.to_device(&place.device, DType::F32).unwrap();
            let found = values(&placed.dequantise().unwrap());
            assert!(relative(&found, &expected) < 1e-6, "{format:?} {place:?}");
            let ids: Arc<[u32]> = vec![4, 0, 4].into();
            let rows = values(&placed.device_rows(&ids).unwrap());
            let row = |i: usize| &found[i * input..(i + 1) * input];
            assert_eq!(rows, [row(4), row(0), row(4)].concat(), "{format:?}");
            let short =
                quantised::expanded(placed.on_device().unwrap(), None, DType::BF16).unwrap();
            let rounded: Vec<f32> = found
                .iter()
                .map(|&v| half::bf16::from_f32(v).to_f32())
                .collect();
            assert_eq!(values(&short), rounded, "{format:?}");
        }
    }
}

#[test]
fn quantised_base_with_adapter() {
    let host = QuantisedMatrix::new(GgmlDType::Q4_1, 50, 64, blocks(GgmlDType::Q4_1, 100)).unwrap();
    let expanded = Matrix::Dense(host.dequantise().unwrap());
    let inputs = [
        (tensor(&[21, 64], 6), Activation),
        (tensor(&[4, 64], 8), Vector),
        (tensor(&[50, 4], 9), Vector),
    ];
    assert_agree(
        "linear on blocks",
        &inputs,
        &|t| {
            let placed = host.to_device(t[0].device(), t[0].dtype()).unwrap();
            let lora = Lora {
                a: &t[1],
                b: &t[2],
                scale: 2.0,
                laid_out: None,
            };
            kernels::linear(
                &t[0],
                &Matrix::Quantised(Arc::new(placed)),
                None,
                Some(lora),
            )
            .unwrap()
        },
        &|t| {
            let lora = Lora {
                a: &t[1],
                b: &t[2],
                scale: 2.0,
                laid_out: None,
            };
            crate::linear(&t[0], &expanded, None, Some(lora)).unwrap()
        },
    );
}

#[test]
fn token_logprobs_and_entropies() {
    for (rows, width, words) in [(1, 4, 3), (9, 24, 700)] {
        let targets: Arc<[u32]> = (0..rows as u32).map(|i| i * 77 % words as u32).collect();
        let inputs = [
            ((tensor(&[rows, width], 1) * 4.0).unwrap(), Activation),
            (tensor(&[words, width], 2), Activation),
        ];
        assert_agree(
            "token_logprobs",
            &inputs,
            &|t| {
                let output = Matrix::Dense(t[1].clone());
                logprobs::token_logprobs(&t[0], &output, &targets)
                    .unwrap()
                    .logprobs
            },
            &|t| {
                let output = Matrix::Dense(t[1].clone());
                crate::token_logprobs(&t[0], &output, &targets)
                    .unwrap()
                    .logprobs
            },
        );
        // Numbers that bf16 holds exactly.
        let table = inputs[1].0.to_dtype(DType::BF16).unwrap();
        let table = table.to_dtype(DType::F32).unwrap();
        assert_agree(
            "token_logprobs of a frozen output",
            &inputs[..1],
            &|t| {
                logprobs::token_logprobs(&t[0], &frozen(&table, &t[0]), &targets)
                    .unwrap()
                    .logprobs
            },
            &|t| {
                crate::token_logprobs(&t[0], &frozen(&table, &t[0]), &targets)
                    .unwrap()
                    .logprobs
            },
        );
        let hidden = &inputs[0].0;
        let expected = crate::token_logprobs(hidden, &Matrix::Dense(inputs[1].0.clone()), &targets);
        let expected = values(&expected.unwrap().entropies);
        for place in places() {
            emulated::DESCENDING.set(place.descending);
            let hidden = hidden.to_device(&place.device).unwrap();
            let output = frozen(&inputs[1].0, &hidden);
            let found = logprobs::token_logprobs(&hidden, &output, &targets).unwrap();
            assert!(
                relative(&values(&found.entropies), &expected) < F32,
                "{place:?}"
            );
        }
    }
}

#[test]
fn chunks_of_rows_equal_the_whole() {
    let chunks: Vec<_> = logprobs::chunks(1000, 1 << 18).collect();
    assert_eq!(
        (chunks.len(), chunks[0].clone(), chunks[3].clone()),
        (4, 0..256, 768..1000)
    );
    assert_eq!(
        logprobs::chunks(2, 1 << 30).collect::<Vec<_>>(),
        [0..1, 1..2]
    );
}
