//! A weight matrix, dense or quantised.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{OpsError, QuantisedMatrix};

/// A weight matrix `[out, in]`.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// f32 values. When the tensor is tracked (a variable), operations compute its gradient.
    Dense(Tensor),
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
            Self::Quantised(blocks) => Ok((blocks.out_features(), blocks.in_features())),
        }
    }

    /// Whether operations compute a gradient for this matrix.
    pub fn is_tracked(&self) -> bool {
        match self {
            Self::Dense(tensor) => tensor.track_op(),
            Self::Quantised(_) => false,
        }
    }

    /// The values as one f32 tensor `[out, in]`; shares the storage of a dense matrix.
    ///
    /// # Errors
    /// The memory of an expanded matrix cannot be had.
    pub fn to_dense(&self) -> Result<Tensor, OpsError> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Quantised(blocks) => blocks.dequantise(),
        }
    }

    /// The same matrix with quantised blocks expanded to f32.
    ///
    /// # Errors
    /// As [`Matrix::to_dense`].
    pub fn dequantised(&self) -> Result<Self, OpsError> {
        Ok(Self::Dense(self.to_dense()?))
    }
}
