//! Matrix products over device memory.

use std::ops::Range;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::executor;
use super::launch::{Fresh, tensor_address};

/// A row-major matrix in device memory, read as it is or transposed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(super) address: u64,
    pub(super) dtype: DType,
    rows: usize,
    /// Columns as stored: the distance of two rows.
    pub(super) columns: usize,
    pub(super) transposed: bool,
}

/// Memory that a product writes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(any(test, feature = "cuda", feature = "emulator")),
    allow(dead_code)
)]
pub(crate) struct Target {
    pub(super) address: u64,
    pub(super) dtype: DType,
}

/// The two factors of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    pub(crate) a: Operand,
    pub(crate) b: Operand,
}

/// c = alpha a b + beta c, with c `[rows, columns]` and the sum over `depth`; products are summed
/// in f32.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(any(test, feature = "cuda", feature = "emulator")),
    allow(dead_code)
)]
pub(crate) struct Product {
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) columns: usize,
    pub(super) a: Operand,
    pub(super) b: Operand,
    pub(super) c: Target,
    pub(super) alpha: f32,
    pub(super) beta: f32,
}

impl Operand {
    /// A matrix tensor without gaps.
    pub(crate) fn of(tensor: &Tensor) -> CandleResult<Self> {
        let (rows, columns) = tensor.dims2()?;
        Ok(Self {
            address: tensor_address(tensor)?,
            dtype: tensor.dtype(),
            rows,
            columns,
            transposed: false,
        })
    }

    /// Some of the stored rows.
    pub(crate) fn rows(self, rows: Range<usize>) -> Self {
        let before = rows.start * self.columns * self.dtype.size_in_bytes();
        Self {
            address: self.address + before as u64,
            rows: rows.len(),
            ..self
        }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    fn dims(self) -> (usize, usize) {
        match self.transposed {
            true => (self.columns, self.rows),
            false => (self.rows, self.columns),
        }
    }
}

impl Factors {
    /// The factors of the product a b.
    pub(crate) fn new(a: Operand, b: Operand) -> Self {
        Self { a, b }
    }
}

/// Returns scale * a b in new memory of type `dtype`.
pub(crate) fn product(
    device: &Device,
    factors: Factors,
    scale: f32,
    dtype: DType,
) -> CandleResult<Fresh> {
    let shape = (factors.a.dims().0, factors.b.dims().1);
    let c = Fresh::new(device, dtype, shape)?;
    write(device, factors, target(&c, dtype)?, [scale, 0.0])?;
    Ok(c)
}

/// c += a b, in place.
pub(crate) fn add_product(
    device: &Device,
    factors: Factors,
    c: &Fresh,
    dtype: DType,
) -> CandleResult<()> {
    write(device, factors, target(c, dtype)?, [1.0, 1.0])
}

/// c = a b + beta c, where c is some rows of a matrix.
pub(crate) fn product_into(
    device: &Device,
    factors: Factors,
    c: Operand,
    beta: f32,
) -> CandleResult<()> {
    let c = Target {
        address: c.address,
        dtype: c.dtype,
    };
    write(device, factors, c, [1.0, beta])
}

fn target(c: &Fresh, dtype: DType) -> CandleResult<Target> {
    Ok(Target {
        address: executor::address(&c.storage)?,
        dtype,
    })
}

fn write(
    device: &Device,
    factors: Factors,
    c: Target,
    [alpha, beta]: [f32; 2],
) -> CandleResult<()> {
    let Factors { a, b } = factors;
    let ((rows, depth), (other, columns)) = (a.dims(), b.dims());
    if depth != other || a.dtype != b.dtype {
        candle_core::bail!("a matrix product of {a:?} and {b:?} does not fit")
    }
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let product = Product {
        rows,
        depth,
        columns,
        a,
        b,
        c,
        alpha,
        beta,
    };
    executor::multiply(device, &product)
}
