//! A weight matrix: dense, laid out for products, or quantised.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::values::{Values, zeros};
use crate::{OpsError, PanelMatrix, QuantisedMatrix, has_kernels};

/// Rows of a quantised matrix that are expanded at one time.
const ROWS: usize = 1024;

/// A weight matrix `[out, in]`.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// f32 values, on a GPU also bf16. When the tensor is tracked (a variable), operations compute its gradient.
    Dense(Tensor),
    /// f32 values in the product's own layout, always frozen.
    Panels(Arc<PanelMatrix>),
    /// GGUF blocks, always frozen.
    Quantised(Arc<QuantisedMatrix>),
}

impl Matrix {
    /// Rows and columns.
    ///
    /// # Errors
    /// A dense matrix that is not of rank two.
    pub fn dims(&self) -> Result<(usize, usize), OpsError> {
        match self {
            Self::Dense(tensor) => crate::values::matrix_dims("matrix", "weight", tensor),
            Self::Panels(panels) => Ok((panels.out_features(), panels.in_features())),
            Self::Quantised(blocks) => Ok((blocks.out_features(), blocks.in_features())),
        }
    }

    /// The device and the element type that operations with this matrix work in.
    pub fn placement(&self) -> (Device, DType) {
        match self {
            Self::Dense(tensor) => (tensor.device().clone(), tensor.dtype()),
            Self::Panels(_) => (Device::Cpu, DType::F32),
            Self::Quantised(blocks) => blocks.placement(),
        }
    }

    /// The values as one tensor `[out, in]`; shares the storage of a dense matrix.
    ///
    /// # Errors
    /// The memory of an expanded matrix cannot be had.
    pub fn to_dense(&self) -> Result<Tensor, OpsError> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Panels(panels) => panels.to_dense(),
            Self::Quantised(blocks) => blocks.dequantise(),
        }
    }

    /// The same matrix as f32 values in the layout of the matrix product; on a device, expanded values in its type.
    ///
    /// # Errors
    /// As [`Matrix::to_dense`].
    pub fn in_panels(&self) -> Result<Self, OpsError> {
        match self {
            Self::Panels(_) => Ok(self.clone()),
            // A device multiplies with the values as they are.
            other if has_kernels(&other.placement().0) => Ok(Self::Dense(other.to_dense()?)),
            other => Ok(Self::Panels(Arc::new(PanelMatrix::new(
                &other.to_dense()?,
            )?))),
        }
    }

    /// The same matrix on a device, dense values in `dtype`; blocks stay as they are.
    ///
    /// # Errors
    /// A block format without a kernel, a device without memory for it.
    pub fn to_device(&self, device: &Device, dtype: DType) -> Result<Self, OpsError> {
        Ok(match self {
            Self::Dense(_) | Self::Panels(_) => {
                Self::Dense(self.to_dense()?.to_device(device)?.to_dtype(dtype)?)
            }
            Self::Quantised(blocks) => Self::Quantised(Arc::new(blocks.to_device(device, dtype)?)),
        })
    }

    /// Calls `visit(first, values)` with the rows in order: all rows of a dense matrix at once, blocks of [`ROWS`] expanded
    /// rows of others. The blocks are whole depth blocks of the matrix product, so sums over rows come out alike.
    pub(crate) fn each_rows(
        &self,
        mut visit: impl FnMut(usize, &[f32]),
    ) -> candle_core::Result<()> {
        let (out, input) = self.dims()?;
        match self {
            Self::Dense(tensor) => {
                let tensor = tensor.contiguous()?;
                visit(0, &Values::of(&tensor)?);
            }
            _ => {
                let mut values = zeros(ROWS.min(out) * input)?;
                for first in (0..out).step_by(ROWS) {
                    let count = ROWS.min(out - first);
                    let values = &mut values[..count * input];
                    let rows = values.par_chunks_mut(input.max(1)).enumerate();
                    rows.try_for_each(|(row, values)| self.read_row(first + row, values))?;
                    visit(first, values);
                }
            }
        }
        Ok(())
    }

    /// Copies the row of a frozen matrix into `values`.
    pub(crate) fn read_row(&self, row: usize, values: &mut [f32]) -> Result<(), OpsError> {
        match self {
            Self::Dense(tensor) => {
                let tensor = tensor.get(row)?;
                values.copy_from_slice(&Values::of(&tensor)?);
                Ok(())
            }
            Self::Panels(panels) => {
                panels.read_row(row, values);
                Ok(())
            }
            Self::Quantised(blocks) => blocks.dequantise_rows(row..row + 1, values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_rows_are_whole_depth_blocks() {
        assert_eq!(ROWS % crate::cpu::routines::product::DEPTH, 0);
    }
}
