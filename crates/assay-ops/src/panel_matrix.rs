//! Frozen matrices in the layout in which the matrix product reads them.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::OpsError;
use crate::cpu::routines::product::{Pair, Panels, Right, View};
use crate::values::{Values, matrix_dims, zeros};

/// A frozen matrix `[out, in]` on the CPU, stored as the panels of its transpose, in f32 or bf16.
///
/// Every product needs its right factor in panels. Decoding multiplies a few rows at a time, and
/// packing the weights would cost as much as multiplying with them. The size is that of the dense
/// matrix, with rows padded to whole panels.
///
/// Products with a bf16 matrix round both factors to bf16 and sum in f32.
#[derive(Clone)]
pub struct PanelMatrix {
    turned: Turned,
    out: usize,
    input: usize,
}

/// The panels of the transpose.
#[derive(Clone)]
enum Turned {
    F32(Panels),
    Bf16(Panels<Pair>),
}

impl std::fmt::Debug for PanelMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dtype = self.dtype().as_str();
        write!(f, "PanelMatrix({dtype}, [{}, {}])", self.out, self.input)
    }
}

impl PanelMatrix {
    /// Packs a dense f32 matrix `[out, in]`, in `dtype`: F32, or BF16, to which values are rounded,
    /// ties to even.
    ///
    /// # Errors
    /// Another rank, element type or device; [`OpsError::OutOfMemory`].
    pub fn new(matrix: &Tensor, dtype: DType) -> Result<Self, OpsError> {
        let (out, input) = matrix_dims("panels", "matrix", matrix)?;
        let matrix = matrix.contiguous()?;
        let values = Values::of(&matrix)?;
        let (columns, dims) = (View::rows(&values, input).transposed(), [input, out]);
        let turned = match dtype {
            DType::F32 => Turned::F32(Panels::of(columns, dims)?),
            DType::BF16 => Turned::Bf16(Panels::of(columns, dims)?),
            found => {
                return Err(OpsError::ElementType {
                    operation: "panels",
                    argument: "dtype",
                    found,
                });
            }
        };
        Ok(Self { turned, out, input })
    }

    /// Type of the stored values, F32 or BF16.
    pub fn dtype(&self) -> DType {
        match self.turned {
            Turned::F32(_) => DType::F32,
            Turned::Bf16(_) => DType::BF16,
        }
    }

    /// Number of rows.
    pub fn out_features(&self) -> usize {
        self.out
    }

    /// Number of columns.
    pub fn in_features(&self) -> usize {
        self.input
    }

    /// Size in memory, padding included.
    pub fn size_in_bytes(&self) -> usize {
        match &self.turned {
            Turned::F32(panels) => panels.size_in_bytes(),
            Turned::Bf16(panels) => panels.size_in_bytes(),
        }
    }

    /// Returns the values as one f32 tensor `[out, in]`.
    ///
    /// # Errors
    /// [`OpsError::OutOfMemory`].
    pub fn to_dense(&self) -> Result<Tensor, OpsError> {
        let mut values = zeros(self.out * self.input)?;
        let rows = values.par_chunks_mut(self.input.max(1)).enumerate();
        rows.for_each(|(row, values)| self.read_row(row, values));
        let shape = (self.out, self.input);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// Copies the row `row`, which exists, into `values` of length `in`.
    pub(crate) fn read_row(&self, row: usize, values: &mut [f32]) {
        self.turned().column(row, values);
    }

    /// The transpose `[in, out]`, packed.
    pub(crate) fn turned(&self) -> Right<'_> {
        match &self.turned {
            Turned::F32(panels) => Right::Panels(panels.all()),
            Turned::Bf16(panels) => Right::Pairs(panels.all()),
        }
    }

    /// `count` columns of the transpose from `first` on, a whole number of panels.
    pub(crate) fn turned_columns(&self, first: usize, count: usize) -> Right<'_> {
        match &self.turned {
            Turned::F32(panels) => Right::Panels(panels.all().columns(first, count)),
            Turned::Bf16(panels) => Right::Pairs(panels.all().columns(first, count)),
        }
    }
}
