//! The incomplete beta function, for the tail of Student's t and for votes.

/// Two-sided tail probability of Student's t: `I_{v/(v+t^2)}(v/2, 1/2)`.
pub(super) fn student_t_two_sided(t: f64, degrees_of_freedom: f64) -> f64 {
    let v = degrees_of_freedom;
    let t2 = t * t;
    incomplete_beta(v / 2.0, 0.5, v / (v + t2), t2 / (v + t2))
}

/// Regularised `I_{1/2}(a, b)`: the chance that a Beta(a, b) variable lies below one half.
pub(crate) fn beta_below_half(a: f64, b: f64) -> f64 {
    incomplete_beta(a, b, 0.5, 0.5)
}

/// Regularised `I_x(a, b)`; `y = 1 - x` is passed so that neither loses digits.
fn incomplete_beta(a: f64, b: f64, x: f64, y: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if y <= 0.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * y.ln()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * continued_fraction(a, b, x) / a
    } else {
        1.0 - front * continued_fraction(b, a, y) / b
    }
}

/// Lentz's evaluation of the continued fraction of the incomplete beta function.
fn continued_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for step in 1..10_000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away_from_zero(1.0 + even * d);
        c = away_from_zero(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away_from_zero(1.0 + odd * d);
        c = away_from_zero(1.0 + odd / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

/// Lanczos approximation (g = 7, nine terms) for positive arguments.
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let shifted = x - 1.0;
    let series = COEFFICIENTS
        .iter()
        .zip(1u32..)
        .fold(0.999_999_999_999_809_9, |total, (c, i)| {
            total + c / (shifted + f64::from(i))
        });
    let t = shifted + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (shifted + 0.5) * t.ln() - t + series.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_degree_of_freedom_is_the_arctangent() {
        for t in [0.1f64, 1.0, 3.0, 40.0] {
            let expected = 1.0 - 2.0 * t.atan() / std::f64::consts::PI;
            assert!(
                (student_t_two_sided(t, 1.0) - expected).abs() < 1e-13,
                "{t}"
            );
        }
        assert_eq!(student_t_two_sided(0.0, 5.0), 1.0);
    }

    #[test]
    fn beta_of_small_integers() {
        // Beta(2, 1) has the distribution function x^2, Beta(1, 3) has 1 - (1-x)^3.
        assert!((beta_below_half(2.0, 1.0) - 0.25).abs() < 1e-13);
        assert!((beta_below_half(1.0, 3.0) - 0.875).abs() < 1e-13);
        assert!((beta_below_half(4.0, 4.0) - 0.5).abs() < 1e-13);
    }

    #[test]
    fn gamma_of_integers_and_a_half() {
        assert!((ln_gamma(5.0) - 24f64.ln()).abs() < 1e-13);
        assert!((ln_gamma(0.5) - 0.5 * std::f64::consts::PI.ln()).abs() < 1e-13);
    }
}
