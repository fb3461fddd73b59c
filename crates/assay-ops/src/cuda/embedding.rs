//! The GPU side of [`crate::embedding()`].

use std::sync::Arc;

use candle_core::{DType, Result as CandleResult, Tensor};

use super::attach::attach1;
use super::launch::{Fresh, Launch};
use super::upload;

/// [`crate::embedding()`] of a dense table, f32 or bf16.
pub(crate) fn embedding(table: &Tensor, ids: &Arc<[u32]>) -> CandleResult<Tensor> {
    let (_, width) = table.dims2()?;
    let (dtype, device) = (table.dtype(), table.device());
    let rows = Fresh::new(device, dtype, (ids.len(), width))?;
    Launch::rows("gather", dtype, ids.len())?
        .tensor(table, dtype)?
        .tensor(&upload(ids, device)?, DType::U32)?
        .fills(&rows)?
        .number(width)?
        .run(device)?;
    let ids = Arc::clone(ids);
    attach1("embedding", table, rows, move |[table], _, grad| {
        Ok([Some(scattered(table, &ids, grad)?)])
    })
}

/// The gradient at a table whose rows `ids` were selected: the sum over equal ids, in row order.
fn scattered(table: &Tensor, ids: &Arc<[u32]>, grad: &Tensor) -> CandleResult<Tensor> {
    let (dtype, device) = (table.dtype(), table.device());
    let sums = table.zeros_like()?;
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&row| ids[row as usize]);
    let (mut distinct, mut starts) = (Vec::new(), Vec::new());
    for (at, &row) in order.iter().enumerate() {
        if distinct.last() != Some(&ids[row as usize]) {
            distinct.push(ids[row as usize]);
            starts.push(at as u32);
        }
    }
    starts.push(order.len() as u32);
    let list = |values: &[u32]| Tensor::from_slice(values, values.len(), device);
    if !distinct.is_empty() {
        Launch::rows("gather_grad", dtype, distinct.len())?
            .tensor(grad, dtype)?
            .tensor(&list(&distinct)?, DType::U32)?
            .tensor(&list(&starts)?, DType::U32)?
            .tensor(&list(&order)?, DType::U32)?
            .tensor(&sums, dtype)?
            .number(table.dims2()?.1)?
            .run(device)?;
    }
    Ok(sums)
}
