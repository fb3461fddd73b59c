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
    /// f32 values, on a GPU also bf16. When the tensor is tracked (a variable), operations compute
    /// its gradient.
    Dense(Tensor),
    /// f32 or bf16 values in the product's own layout on the CPU, always frozen.
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

    /// The device of the matrix and the element type of activations there. On the CPU activations
    /// are f32.
    pub fn placement(&self) -> (Device, DType) {
        match self {
            Self::Dense(tensor) => (tensor.device().clone(), tensor.dtype()),
            Self::Panels(_) => (Device::Cpu, DType::F32),
            Self::Quantised(blocks) => blocks.placement(),
        }
    }

    /// Returns the values as one tensor `[out, in]`; shares the storage of a dense matrix.
    ///
    /// # Errors
    /// [`OpsError::OutOfMemory`] for an expanded matrix.
    pub fn to_dense(&self) -> Result<Tensor, OpsError> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Panels(panels) => panels.to_dense(),
            Self::Quantised(blocks) => blocks.dequantise(),
        }
    }

    /// Type to which products on the CPU round both factors: BF16 for bf16 panels and for blocks
    /// with bf16 factors, F32 otherwise.
    pub fn factors(&self) -> DType {
        match self {
            Self::Panels(panels) => panels.dtype(),
            Self::Quantised(blocks) => blocks.factors(),
            Self::Dense(_) => DType::F32,
        }
    }

    /// Returns the same matrix in the layout of the matrix product, stored as `dtype`: F32, or
    /// BF16, to which its values are rounded. On a GPU, returns expanded values in their own type.
    ///
    /// # Errors
    /// As [`Matrix::to_dense`]; another type.
    pub fn in_panels(&self, dtype: DType) -> Result<Self, OpsError> {
        match self {
            Self::Panels(panels) if panels.dtype() == dtype => Ok(self.clone()),
            // A GPU multiplies with the values as they are.
            other if has_kernels(&other.placement().0) => Ok(Self::Dense(other.to_dense()?)),
            other => Ok(Self::Panels(Arc::new(PanelMatrix::new(
                &other.to_dense()?,
                dtype,
            )?))),
        }
    }

    /// Returns the same matrix on a device: dense values in `dtype`, or unchanged blocks.
    ///
    /// # Errors
    /// A block format without a kernel, too little memory on the device.
    pub fn to_device(&self, device: &Device, dtype: DType) -> Result<Self, OpsError> {
        Ok(match self {
            Self::Dense(_) | Self::Panels(_) => {
                Self::Dense(self.to_dense()?.to_device(device)?.to_dtype(dtype)?)
            }
            Self::Quantised(blocks) => Self::Quantised(Arc::new(blocks.to_device(device, dtype)?)),
        })
    }

    /// Calls `visit(first, values)` with the rows in order: all rows of a dense matrix at once,
    /// blocks of [`ROWS`] expanded rows of others. The blocks are whole depth blocks of the matrix
    /// product, so sums over rows have the same bits.
    pub(crate) fn each_rows(
        &self,
        mut visit: impl FnMut(usize, &[f32]) -> candle_core::Result<()>,
    ) -> candle_core::Result<()> {
        let (out, input) = self.dims()?;
        match self {
            Self::Dense(tensor) => {
                let tensor = tensor.contiguous()?;
                visit(0, &Values::of(&tensor)?)?;
            }
            _ => {
                let mut values = zeros(ROWS.min(out) * input)?;
                for first in (0..out).step_by(ROWS) {
                    let count = ROWS.min(out - first);
                    let values = &mut values[..count * input];
                    let rows = values.par_chunks_mut(input.max(1)).enumerate();
                    rows.try_for_each(|(row, values)| self.read_row(first + row, values))?;
                    visit(first, values)?;
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
            Self::Quantised(blocks) => {
                blocks.dequantise_rows(row..row + 1, values)?;
                if blocks.factors() == DType::BF16 {
                    let round = |value: &mut f32| *value = half::bf16::from_f32(*value).to_f32();
                    values.iter_mut().for_each(round);
                }
                Ok(())
            }
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
