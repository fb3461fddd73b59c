//! The CPU side of [`crate::embedding()`].

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use crate::values::{Values, slice, zeros};
use crate::{Matrix, OpsError};

/// `ids` are rows of the table.
pub(crate) fn embedding(weight: &Matrix, ids: &Arc<[u32]>) -> Result<Tensor, OpsError> {
    let (_, width) = weight.dims()?;
    match weight {
        Matrix::Dense(table) => Ok(table
            .contiguous()?
            .apply_op1(Embedding { ids: ids.clone() })?),
        frozen => {
            let mut rows = zeros(ids.len() * width)?;
            for (row, &id) in rows.chunks_exact_mut(width.max(1)).zip(ids.iter()) {
                frozen.read_row(id as usize, row)?;
            }
            Ok(Tensor::from_vec(rows, (ids.len(), width), &Device::Cpu)?)
        }
    }
}

struct Embedding {
    ids: Arc<[u32]>,
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let table = slice(table, layout)?;
        let (_, width) = layout.shape().dims2()?;
        let mut rows = zeros(self.ids.len() * width)?;
        rows.par_chunks_mut(width.max(1))
            .zip(self.ids.par_iter())
            .for_each(|(row, &id)| {
                row.copy_from_slice(&table[id as usize * width..(id as usize + 1) * width]);
            });
        Ok((CpuStorage::F32(rows), Shape::from((self.ids.len(), width))))
    }

    fn bwd(&self, table: &Tensor, _rows: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let g = Values::of(&grad)?;
        let (rows, width) = table.dims2()?;
        let mut sum = zeros(rows * width)?;
        for (&id, g) in self.ids.iter().zip(g.chunks_exact(width.max(1))) {
            let row = &mut sum[id as usize * width..(id as usize + 1) * width];
            row.iter_mut().zip(g).for_each(|(sum, &g)| *sum += g);
        }
        Ok(Some(Tensor::from_vec(sum, table.shape(), table.device())?))
    }
}
