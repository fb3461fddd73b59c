use std::sync::Arc;

use super::*;
use crate::cuda::{self, upload};
use crate::{OpsError, StepInput, record};

const WORDS: usize = 40;
const WIDTH: usize = 24;

fn list(values: &[u32]) -> Arc<[u32]> {
    values.into()
}

/// Rows of a table, normalised and added to other rows of it, as logits of which tokens are drawn.
fn pass(
    table: &Tensor,
    weight: &Tensor,
    ids: &Arc<[u32]>,
    others: &Arc<[u32]>,
    uniforms: &[f64],
) -> candle_core::Result<[Tensor; 3]> {
    let x = cuda::rms_norm::rms_norm(&cuda::embedding::embedding(table, ids)?, weight, 1e-5)?;
    // The first list again: it is copied to the device only once.
    let again = cuda::embedding::embedding(table, ids)?;
    let sum = cuda::add::add(
        &cuda::add::add(&x, &again)?,
        &cuda::embedding::embedding(table, others)?,
    )?;
    let drawn = crate::DeviceDrawSettings {
        temperature: 0.7,
        top_p: 1.0,
        top_k: 0,
    };
    cuda::draw::draw_tokens(&sum, uniforms, drawn)
}

fn read(drawn: &[Tensor; 3]) -> (Vec<u32>, Vec<Vec<f32>>) {
    let numbers = drawn[1..].iter().map(|t| t.to_vec1().unwrap());
    (drawn[0].to_vec1().unwrap(), numbers.collect())
}

#[test]
fn a_recorded_pass_replays_with_other_inputs() {
    let (first, second) = ([3, 7, 7, 30], [1, 2, 39, 0]);
    let (other, later) = ([9, 9, 1, 0], [5, 6, 7, 8]);
    let (uniforms, numbers) = ([0.1, 0.9, 0.5, 0.3], [0.8, 0.2, 0.999, 0.45]);
    for place in places() {
        emulated::DESCENDING.set(place.descending);
        let table = (tensor(&[WORDS, WIDTH], 3) * 3.0).unwrap();
        let table = table.to_device(&place.device).unwrap();
        let weight = Tensor::ones(WIDTH, DType::F32, &place.device).unwrap();
        let run = |ids: &[u32], others: &[u32], uniforms: &[f64]| {
            pass(&table, &weight, &list(ids), &list(others), uniforms)
        };
        let plain = |ids, others, uniforms| read(&run(ids, others, uniforms).unwrap());
        let (drawn, mut recording) =
            record(&place.device, || run(&first, &other, &uniforms)).unwrap();
        assert_eq!(read(&drawn), plain(&first, &other, &uniforms), "{place:?}");
        // The second replay is the first one of a graph that was captured, where there is one.
        for _ in 0..2 {
            let inputs = [
                StepInput::Ids(&second),
                StepInput::Ids(&later),
                StepInput::Numbers(&numbers),
            ];
            recording.replay(&inputs).unwrap();
            assert_eq!(read(&drawn), plain(&second, &later, &numbers), "{place:?}");
        }
        let short = [
            StepInput::Ids(&second[1..]),
            StepInput::Ids(&later),
            StepInput::Numbers(&numbers),
        ];
        for wrong in [&short[..], &short[..2]] {
            assert!(matches!(
                recording.replay(wrong),
                Err(OpsError::Length { .. })
            ));
        }
        // Outside of a recording a list is copied on every use, and nothing is kept.
        let ids = list(&first);
        let (a, b) = (upload(&ids, &place.device), upload(&ids, &place.device));
        assert_ne!(a.unwrap().id(), b.unwrap().id());
    }
}

#[test]
fn a_pass_that_fails_ends_its_recording() {
    for place in places() {
        let failed = record(&place.device, || Err::<(), _>("no"));
        assert_eq!(failed.err(), Some("no"));
        assert!(!cuda::recording::active());
    }
}
