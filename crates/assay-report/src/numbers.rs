//! Formats numbers for people.

/// A number with four decimals, or with four significant digits in scientific notation where four
/// decimals would show too few or too many digits.
pub fn format_number(value: f64) -> String {
    // Adding zero turns -0 into 0.
    let value = value + 0.0;
    if value == 0.0 || (1e-3..1e5).contains(&value.abs()) {
        format!("{value:.4}")
    } else {
        format!("{value:.3e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_decimals_or_an_exponent() {
        assert_eq!(
            [-0.0, -0.5, 2e9, 1e-5].map(format_number),
            ["0.0000", "-0.5000", "2.000e9", "1.000e-5"]
        );
    }
}
