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

/// c = alpha a b + beta c, with c `[rows, columns]` and the sum over `depth`; products are summed in f32.
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
    pub(super) c: (u64, DType),
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

    /// Read the other way round.
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

/// scale * a b as new memory of type `dtype`.
pub(crate) fn product(
    device: &Device,
    (a, b): (Operand, Operand),
    scale: f32,
    dtype: DType,
) -> CandleResult<Fresh> {
    let c = Fresh::new(device, dtype, (a.dims().0, b.dims().1))?;
    write(
        device,
        (a, b),
        (executor::address(&c.storage)?, dtype),
        [scale, 0.0],
    )?;
    Ok(c)
}

/// c += a b, in place.
pub(crate) fn add_product(
    device: &Device,
    (a, b): (Operand, Operand),
    c: &Fresh,
    dtype: DType,
) -> CandleResult<()> {
    write(
        device,
        (a, b),
        (executor::address(&c.storage)?, dtype),
        [1.0, 1.0],
    )
}

/// c = a b + beta c, where c are rows of a matrix.
pub(crate) fn product_into(
    device: &Device,
    (a, b): (Operand, Operand),
    c: Operand,
    beta: f32,
) -> CandleResult<()> {
    write(device, (a, b), (c.address, c.dtype), [1.0, beta])
}

fn write(
    device: &Device,
    (a, b): (Operand, Operand),
    c: (u64, DType),
    [alpha, beta]: [f32; 2],
) -> CandleResult<()> {
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
