use std::sync::Arc;

use super::Kind::{Activation, Vector};
use super::*;
use crate::cuda;
use crate::{AdamWSettings, AdamWTensors, AdamWUpdate, Matrix, MomentSlices, RopeTable};

#[test]
fn rms_norm() {
    for (rows, width) in [(1, 8), (3, 19), (70, 300)] {
        let inputs = [
            (tensor(&[rows, width], 1), Activation),
            (tensor(&[width], 2), Vector),
        ];
        assert_agree(
            "rms_norm",
            &inputs,
            &|t| cuda::rms_norm::rms_norm(&t[0], &t[1], 1e-5).unwrap(),
            &|t| crate::rms_norm(&t[0], &t[1], 1e-5).unwrap(),
        );
    }
}

#[test]
fn rope() {
    let frequencies = [1f32, 0.3, 0.07];
    let table = RopeTable::new(&frequencies, 400, &Device::Cpu).unwrap();
    let positions: Arc<[u32]> = (0..35).map(|i| (i * 11) % 400).collect::<Vec<_>>().into();
    let angle = |i: usize| f64::from((i / 3) as f32 * frequencies[i % 3]);
    let cos: Vec<f32> = (0..1200).map(|i| angle(i).cos() as f32).collect();
    let sin: Vec<f32> = (0..1200).map(|i| angle(i).sin() as f32).collect();
    assert_agree(
        "rope",
        &[(tensor(&[35, 24], 3), Activation)],
        &|t| {
            let angles = cuda::rope::Angles::new(&cos, &sin, 3, t[0].device()).unwrap();
            cuda::rope::rope(&t[0], &positions, &Arc::new(angles)).unwrap()
        },
        &|t| crate::rope(&t[0], &positions, &table).unwrap(),
    );
}

#[test]
fn swiglu() {
    let inputs = [
        ((tensor(&[7, 133], 4) * 12.0).unwrap(), Activation),
        (tensor(&[7, 133], 5), Activation),
    ];
    assert_agree(
        "swiglu",
        &inputs,
        &|t| cuda::swiglu::swiglu(&t[0], &t[1]).unwrap(),
        &|t| crate::swiglu(&t[0], &t[1]).unwrap(),
    );
}

#[test]
fn add() {
    let inputs = [
        (tensor(&[9, 70], 1), Activation),
        (tensor(&[9, 70], 2), Activation),
    ];
    assert_agree(
        "add",
        &inputs,
        &|t| cuda::add::add(&t[0], &t[1]).unwrap(),
        &|t| crate::add(&t[0], &t[1]).unwrap(),
    );
}

#[test]
fn add_bias() {
    let inputs = [
        (tensor(&[130, 33], 4), Activation),
        (tensor(&[33], 5), Vector),
    ];
    assert_agree(
        "add_bias",
        &inputs,
        &|t| cuda::linear::add_bias(&t[0], &t[1]).unwrap(),
        &|t| t[0].broadcast_add(&t[1]).unwrap(),
    );
}

#[test]
fn embedding() {
    let ids: Arc<[u32]> = vec![3, 0, 3, 10, 3, 0].into();
    let table = [(tensor(&[11, 300], 6), Activation)];
    assert_agree(
        "embedding",
        &table,
        &|t| cuda::embedding::embedding(&t[0], &ids).unwrap(),
        &|t| crate::embedding(&Matrix::Dense(t[0].clone()), &ids).unwrap(),
    );
}

#[test]
fn reward_head() {
    for (rows, width) in [(1, 5), (150, 67)] {
        let inputs = [
            (tensor(&[rows, width], 7), Activation),
            (tensor(&[width], 8), Vector),
            (tensor(&[1], 9), Vector),
        ];
        assert_agree(
            "reward_head",
            &inputs,
            &|t| cuda::reward_head::reward_head(&t[0], &t[1], &t[2]).unwrap(),
            &|t| crate::reward_head(&t[0], &t[1], &t[2]).unwrap(),
        );
    }
}

#[test]
fn adamw_steps_and_sums_of_squares() {
    let count = 9000;
    let settings = AdamWSettings {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    for place in places() {
        emulated::DESCENDING.set(place.descending);
        let placed = |seed| tensor(&[count], seed).to_device(&place.device).unwrap();
        let param = placed(1).copy().unwrap();
        let zeros = || Tensor::zeros(count, DType::F32, &place.device).unwrap();
        let (first, second) = (zeros(), zeros());
        let finite = Tensor::ones(1, DType::U32, &place.device).unwrap();
        let mut expected = numbers(count, 1);
        let (mut m, mut v) = (vec![0.0; count], vec![0.0; count]);
        for number in 1..=3 {
            let grad = placed(10 + number);
            let squares = cuda::adamw::squares(&grad).unwrap();
            let found: f64 = squares.to_vec1::<f64>().unwrap().iter().sum();
            let exact: f64 = values(&grad).iter().map(|&g| f64::from(g).powi(2)).sum();
            assert!((found - exact).abs() < 1e-9 * exact, "{found} {exact}");
            let update = AdamWUpdate {
                settings: &settings,
                number,
                clip_scale: 0.7,
            };
            let state = AdamWTensors {
                param: &param,
                grad: &grad,
                first: &first,
                second: &second,
            };
            crate::adamw_on_device(state, &finite, update).unwrap();
            let moments = MomentSlices {
                first: &mut m,
                second: &mut v,
            };
            crate::adamw(&mut expected, &values(&grad), moments, update);
        }
        assert!(relative(&values(&param), &expected) < 1e-6, "{place:?}");
        assert!(relative(&values(&first), &m) < 1e-6 && relative(&values(&second), &v) < 1e-6);
        assert_eq!(finite.to_vec1::<u32>().unwrap(), [1]);
        let mut bad = vec![0f32; count];
        bad[8999] = f32::NAN;
        let bad = Tensor::from_vec(bad, count, &place.device).unwrap();
        let sums = cuda::adamw::squares(&bad)
            .unwrap()
            .to_vec1::<f64>()
            .unwrap();
        assert!(sums[0] == 0.0 && sums[2].is_nan());
        let state = AdamWTensors {
            param: &param,
            grad: &bad,
            first: &first,
            second: &second,
        };
        let update = AdamWUpdate {
            settings: &settings,
            number: 4,
            clip_scale: 1.0,
        };
        crate::adamw_on_device(state, &finite, update).unwrap();
        assert_eq!(finite.to_vec1::<u32>().unwrap(), [0]);
    }
}
