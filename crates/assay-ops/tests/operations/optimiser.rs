use assay_ops::{AdamWSettings, AdamWUpdate, MomentSlices, adamw};

use crate::compare::numbers;

#[test]
fn adamw_first_update_by_hand() {
    // With zero moments the first update is lr * sign(g) after the decay, whatever the size of g.
    let settings = AdamWSettings {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.5,
    };
    let mut p = [1.0f32, 2.0];
    let (mut m, mut v) = ([0f32; 2], [0f32; 2]);
    let moments = MomentSlices {
        first: &mut m,
        second: &mut v,
    };
    let update = AdamWUpdate {
        settings: &settings,
        number: 1,
        clip_scale: 1.0,
    };
    adamw(&mut p, &[4.0, -0.5], moments, update);
    assert!(
        (p[0] - 0.85).abs() < 1e-6 && (p[1] - 2.0).abs() < 1e-6,
        "{p:?}"
    );
    assert!((m[0] - 0.4).abs() < 1e-6 && (v[0] - 0.16).abs() < 1e-6);
}

#[test]
fn adamw_follows_the_formula_for_ten_updates() {
    let settings = AdamWSettings {
        lr: 3e-3,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    let count = 40_000;
    let (mut p, mut m, mut v) = (numbers(count, 1), vec![0f32; count], vec![0f32; count]);
    let mut exact: Vec<[f64; 3]> = p.iter().map(|&p| [f64::from(p), 0.0, 0.0]).collect();
    for number in 1..=10u64 {
        let grad = numbers(count, 100 + number);
        let moments = MomentSlices {
            first: &mut m,
            second: &mut v,
        };
        let update = AdamWUpdate {
            settings: &settings,
            number,
            clip_scale: 0.25,
        };
        adamw(&mut p, &grad, moments, update);
        for ([p, m, v], &g) in exact.iter_mut().zip(&grad) {
            let g = f64::from(g) * 0.25;
            *p *= 1.0 - settings.lr * settings.weight_decay;
            *m = settings.beta1 * *m + (1.0 - settings.beta1) * g;
            *v = settings.beta2 * *v + (1.0 - settings.beta2) * g * g;
            let m_hat = *m / (1.0 - settings.beta1.powi(number as i32));
            let v_hat = *v / (1.0 - settings.beta2.powi(number as i32));
            *p -= settings.lr * m_hat / (v_hat.sqrt() + settings.eps);
        }
    }
    for (i, (&found, [expected, ..])) in p.iter().zip(&exact).enumerate() {
        assert!(
            (f64::from(found) - expected).abs() < 1e-6,
            "value {i}: {found} {expected}"
        );
    }
}
