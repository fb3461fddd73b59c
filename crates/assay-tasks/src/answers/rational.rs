//! Exact fractions in 128 bits.

/// An exact fraction in lowest terms with a positive denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rational {
    numerator: i128,
    denominator: i128,
}

impl Rational {
    pub(super) const ONE: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// The fraction `numerator / denominator`; `None` when the denominator is 0 or the arithmetic
    /// leaves 128 bits.
    pub fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 || numerator == i128::MIN || denominator == i128::MIN {
            return None;
        }
        let divisor = greatest_common_divisor(numerator.unsigned_abs(), denominator.unsigned_abs());
        let divisor = i128::try_from(divisor).ok()?;
        let sign = denominator.signum();
        Some(Self {
            numerator: sign * (numerator / divisor),
            denominator: sign * (denominator / divisor),
        })
    }

    /// The product; `None` when the arithmetic leaves 128 bits.
    pub fn times(self, other: Self) -> Option<Self> {
        let numerator = self.numerator.checked_mul(other.numerator)?;
        Self::new(numerator, self.denominator.checked_mul(other.denominator)?)
    }

    /// The sum; `None` when the arithmetic leaves 128 bits.
    pub fn plus(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(
            left.checked_add(right)?,
            self.denominator.checked_mul(other.denominator)?,
        )
    }

    /// The fraction with the other sign.
    pub fn negated(self) -> Self {
        Self {
            numerator: -self.numerator,
            denominator: self.denominator,
        }
    }

    /// One over the fraction; `None` for 0.
    pub fn inverted(self) -> Option<Self> {
        Self::new(self.denominator, self.numerator)
    }

    /// An integer power; `None` for a negative power of 0 and when the arithmetic leaves 128 bits.
    pub(super) fn power(self, exponent: i32) -> Option<Self> {
        let base = if exponent < 0 { self.inverted()? } else { self };
        let exponent = exponent.unsigned_abs();
        Self::new(
            base.numerator.checked_pow(exponent)?,
            base.denominator.checked_pow(exponent)?,
        )
    }

    /// The square root of a square of a fraction; `None` for any other value.
    pub(super) fn exact_root(self) -> Option<Self> {
        let root = |square: i128| {
            let root = u128::try_from(square).ok()?.isqrt();
            let root = i128::try_from(root).ok()?;
            (root * root == square).then_some(root)
        };
        Self::new(root(self.numerator)?, root(self.denominator)?)
    }

    /// The value as an integer; `None` where it is a fraction.
    pub(super) fn integer(self) -> Option<i128> {
        (self.denominator == 1).then_some(self.numerator)
    }

    /// Whether the value lies between 0 and 1, both left out.
    pub(super) fn is_proper(self) -> bool {
        0 < self.numerator && self.numerator < self.denominator
    }
}

impl std::fmt::Display for Rational {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.integer() {
            Some(integer) => write!(f, "{integer}"),
            None => write!(f, "{}/{}", self.numerator, self.denominator),
        }
    }
}

fn greatest_common_divisor(mut left: u128, mut right: u128) -> u128 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left.max(1)
}
