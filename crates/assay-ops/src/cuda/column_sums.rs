//! Sums over the rows of a matrix, which the gradients of vectors need.

use candle_core::{DType, Result as CandleResult, Tensor};

use super::launch::{Fresh, Launch, ROW_THREADS};

/// Rows that one thread sums, as in the kernel `column_sums`.
const SUM_ROWS: usize = 64;

/// Returns the sum over rows i of factors_i a_ij b_ij, f32 `[width]`. Without b or factors, 1 is
/// used.
pub(crate) fn column_sums(
    a: &Tensor,
    b: Option<&Tensor>,
    factors: Option<&Tensor>,
) -> CandleResult<Tensor> {
    let (rows, width) = a.dims2()?;
    let (dtype, device, parts) = (a.dtype(), a.device(), rows.div_ceil(SUM_ROWS));
    let sums = Fresh::new(device, DType::F32, width)?;
    let partial = Fresh::new(device, DType::F32, (parts, width))?;
    let grid = [width.div_ceil(ROW_THREADS), parts, 1];
    Launch::new("column_sums", dtype, grid, ROW_THREADS)?
        .tensor(a, dtype)?
        .maybe(b, dtype)?
        .maybe(factors, DType::F32)?
        .fills(&partial)?
        .number(rows)?
        .number(width)?
        .run(device)?;
    Launch::values("sum_parts", DType::F32, width)?
        .fills(&partial)?
        .fills(&sums)?
        .number(parts)?
        .number(width)?
        .run(device)?;
    Ok(sums.tensor())
}
