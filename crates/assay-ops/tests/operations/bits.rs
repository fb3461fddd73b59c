//! Results have the same bits for every number of threads and with any other rows in the batch.

use std::sync::Arc;

use assay_ops::*;
use candle_core::{DType, Device, Tensor};

use crate::attention::layout;
use crate::compare::*;

/// Runs `work` on pools of one to four threads and asserts equal bits.
fn assert_threads_agree(work: &(dyn Fn() -> Vec<Tensor> + Sync)) {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| work().iter().map(bits).collect::<Vec<_>>())
    };
    let one = run(1);
    for threads in [2, 3, 4] {
        assert_eq!(one, run(threads), "{threads} threads");
    }
}

/// A frozen matrix in f32 and in bf16.
fn both_types(weight: &Tensor) -> [Matrix; 2] {
    let dense = Matrix::Dense(weight.clone());
    [dense.in_panels(DType::BF16).unwrap(), dense]
}

fn all(result: (Tensor, Vec<Tensor>)) -> Vec<Tensor> {
    let (y, gradients) = result;
    std::iter::once(y)
        .chain(gradients)
        .map(|t| t.to_dtype(DType::F32).unwrap())
        .collect()
}

#[test]
fn threads_do_not_change_bits() {
    let layout = layout(&[(130, &[70, 20, 0, 65]), (40, &[33])]);
    let rows = layout.rows();
    let shape = HeadShape {
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
    };
    let positions: Arc<[u32]> = (0..rows as u32).collect::<Vec<_>>().into();
    let targets: Arc<[u32]> = (0..rows as u32).map(|i| i * 3).collect::<Vec<_>>().into();
    let table = RopeTable::new(
        &[1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005],
        1000,
        &Device::Cpu,
    )
    .unwrap();
    let x = || tensor(&[rows, 96], 1);
    assert_threads_agree(&|| {
        all(pull(&[x(), tensor(&[96], 2)], DType::F32, &|t| {
            rms_norm(&t[0], &t[1], 1e-5).unwrap()
        }))
    });
    assert_threads_agree(&|| {
        all(pull(&[x()], DType::F32, &|t| {
            rope(&t[0], &positions, &table).unwrap()
        }))
    });
    assert_threads_agree(&|| {
        all(pull(&[x(), x()], DType::F32, &|t| {
            swiglu(&t[0], &t[1]).unwrap()
        }))
    });
    assert_threads_agree(&|| {
        let inputs = [
            x(),
            tensor(&[700, 96], 2),
            tensor(&[5, 96], 3),
            tensor(&[700, 5], 4),
        ];
        all(pull(&inputs, DType::F32, &|t| {
            linear(
                &t[0],
                &Matrix::Dense(t[1].clone()),
                None,
                Some(Lora {
                    a: &t[2],
                    b: &t[3],
                    scale: 0.5,
                    laid_out: None,
                }),
            )
            .unwrap()
        }))
    });
    let frozen = Matrix::Dense(tensor(&[700, 96], 2));
    let frozen = frozen.in_panels(DType::BF16).unwrap();
    assert_threads_agree(&|| {
        let inputs = [x(), tensor(&[5, 96], 3), tensor(&[700, 5], 4)];
        all(pull(&inputs, DType::F32, &|t| {
            let lora = Lora {
                a: &t[1],
                b: &t[2],
                scale: 0.5,
                laid_out: None,
            };
            linear(&t[0], &frozen, None, Some(lora)).unwrap()
        }))
    });
    let output = Matrix::Dense(tensor(&[1100, 96], 2));
    let output = output.in_panels(DType::BF16).unwrap();
    assert_threads_agree(&|| {
        all(pull(&[x()], DType::F32, &|t| {
            token_logprobs(&t[0], &output, &targets).unwrap().logprobs
        }))
    });
    assert_threads_agree(&|| {
        let inputs = [x(), tensor(&[rows, 32], 2), tensor(&[rows, 32], 3)];
        all(pull(&inputs, DType::F32, &|t| {
            grouped_attention(&t[0], &t[1], &t[2], &layout, shape).unwrap()
        }))
    });
    assert_threads_agree(&|| {
        let inputs = [x(), tensor(&[1100, 96], 2)];
        all(pull(&inputs, DType::F32, &|t| {
            token_logprobs(&t[0], &Matrix::Dense(t[1].clone()), &targets)
                .unwrap()
                .logprobs
        }))
    });
    assert_threads_agree(&|| {
        let inputs = [x(), tensor(&[96], 2), tensor(&[1], 3)];
        all(pull(&inputs, DType::F32, &|t| {
            reward_head(&t[0], &t[1], &t[2]).unwrap()
        }))
    });
}

#[test]
fn linear_bits_do_not_depend_on_the_batch() {
    for (input, out) in [(576, 192), (40, 33), (576, 49), (1536, 576), (31, 1)] {
        let bias = tensor(&[out], 5);
        let (a, b) = (tensor(&[7, input], 3), tensor(&[out, 7], 4));
        let lora = || Lora {
            a: &a,
            b: &b,
            scale: 0.7,
            laid_out: None,
        };
        let x = tensor(&[300, input], 1);
        for weight in both_types(&tensor(&[out, input], 2)) {
            let run = |x: &Tensor| {
                let (y, dx) = pull(std::slice::from_ref(x), DType::F32, &|t| {
                    linear(&t[0], &weight, Some(&bias), Some(lora())).unwrap()
                });
                (y.to_vec2::<f64>().unwrap(), dx.len())
            };
            let (whole, _) = run(&x);
            for rows in [1, 2, 6, 7, 13, 14, 15, 16, 17, 31, 33, 64, 113] {
                for start in [0, 5, 187] {
                    let (part, _) = run(&x.narrow(0, start, rows).unwrap());
                    assert_eq!(
                        part,
                        whole[start..start + rows],
                        "{rows} rows from {start}, {input} to {out}, {weight:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradient_bits_do_not_depend_on_the_batch() {
    let (a, b) = (tensor(&[7, 96], 3), tensor(&[700, 7], 4));
    let (x, seed) = (tensor(&[300, 96], 1), tensor(&[300, 700], 9));
    let run = |weight: &Matrix, start: usize, rows: usize| {
        let x = candle_core::Var::from_tensor(&x.narrow(0, start, rows).unwrap()).unwrap();
        let y = linear(
            &x,
            weight,
            None,
            Some(Lora {
                a: &a,
                b: &b,
                scale: 0.7,
                laid_out: None,
            }),
        )
        .unwrap();
        let store = y
            .mul(&seed.narrow(0, start, rows).unwrap())
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        store.get(x.as_tensor()).unwrap().to_vec2::<f32>().unwrap()
    };
    for weight in both_types(&tensor(&[700, 96], 2)) {
        let whole = run(&weight, 0, 300);
        for rows in [1, 2, 7, 64, 150] {
            assert_eq!(run(&weight, 50, rows), whole[50..50 + rows], "{weight:?}");
        }
    }
}

#[test]
fn logprob_bits_do_not_depend_on_the_batch() {
    let (hidden, seed) = (tensor(&[300, 96], 1), tensor(&[300], 9));
    let run = |output: &Matrix, start: usize, rows: usize| {
        let hidden =
            candle_core::Var::from_tensor(&hidden.narrow(0, start, rows).unwrap()).unwrap();
        let targets: Arc<[u32]> = (start..start + rows)
            .map(|i| i as u32 * 3)
            .collect::<Vec<_>>()
            .into();
        let result = token_logprobs(&hidden, output, &targets).unwrap();
        let loss = result
            .logprobs
            .mul(&seed.narrow(0, start, rows).unwrap())
            .unwrap()
            .sum_all()
            .unwrap();
        let store = loss.backward().unwrap();
        let gradient = store
            .get(hidden.as_tensor())
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        (
            result.logprobs.to_vec1::<f32>().unwrap(),
            result.entropies.to_vec1::<f32>().unwrap(),
            gradient,
        )
    };
    for output in both_types(&tensor(&[1100, 96], 2)) {
        let whole = run(&output, 0, 300);
        for rows in [1, 2, 7, 64, 150] {
            let part = run(&output, 50, rows);
            assert_eq!(part.0, whole.0[50..50 + rows], "{output:?}");
            assert_eq!(part.1, whole.1[50..50 + rows], "{output:?}");
            assert_eq!(part.2, whole.2[50..50 + rows], "{output:?}");
        }
    }
}

#[test]
fn packed_adapters_have_the_bits_of_plain_ones() {
    for (input, out, rank) in [(576, 192, 64), (40, 33, 7), (576, 1100, 16), (31, 1, 1)] {
        let dense = Matrix::Dense(tensor(&[out, input], 2));
        let (a, b) = (tensor(&[rank, input], 3), tensor(&[out, rank], 4));
        let x = tensor(&[130, input], 1);
        let [f32_panels, bf16_panels] =
            [DType::F32, DType::BF16].map(|dtype| dense.in_panels(dtype).unwrap());
        for weight in [f32_panels, bf16_panels, dense] {
            let laid_out = LaidOut::new(&a, &b, weight.factors()).unwrap();
            // Panels of another type must not be used.
            let other = match weight.factors() {
                DType::F32 => DType::BF16,
                _ => DType::F32,
            };
            let unused = LaidOut::new(&a, &b, other).unwrap();
            let run = |laid_out: Option<&LaidOut>, rows: usize| {
                let lora = Lora {
                    a: &a,
                    b: &b,
                    scale: 0.7,
                    laid_out,
                };
                let x = x.narrow(0, 0, rows).unwrap();
                bits(&linear(&x, &weight, None, Some(lora)).unwrap())
            };
            for rows in [1, 3, 64, 130] {
                let (plain, laid_out) = (run(None, rows), run(Some(&laid_out), rows));
                assert_eq!(plain, laid_out, "[{rows}, {input}] to {out}");
                assert_eq!(
                    plain,
                    run(Some(&unused), rows),
                    "[{rows}, {input}] to {out}"
                );
            }
        }
    }
}
