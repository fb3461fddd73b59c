//! Frozen matrices in the layout in which the matrix product reads them.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::OpsError;
use crate::cpu::routines::product::{Panels, Part, View};
use crate::values::{Values, matrix_dims, zeros};

/// A frozen matrix `[out, in]` of f32 values, stored as the panels of its transpose.
///
/// Every product needs its right factor in panels. Decoding multiplies a few rows at a time: there, packing the weights costs
/// as much as multiplying with them. Values and size are those of the dense matrix, rows padded to whole panels.
#[derive(Clone)]
pub struct PanelMatrix {
    turned: Panels,
    out: usize,
    input: usize,
}

impl std::fmt::Debug for PanelMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PanelMatrix([{}, {}])", self.out, self.input)
    }
}

impl PanelMatrix {
    /// Lays out a dense matrix `[out, in]` f32 on the CPU.
    ///
    /// # Errors
    /// Another rank, element type or device.
    pub fn new(matrix: &Tensor) -> Result<Self, OpsError> {
        let (out, input) = matrix_dims("panels", "matrix", matrix)?;
        let matrix = matrix.contiguous()?;
        let values = Values::of(&matrix)?;
        let turned = Panels::of(View::rows(&values, input).transposed(), [input, out])?;
        Ok(Self { turned, out, input })
    }

    /// Rows.
    pub fn out_features(&self) -> usize {
        self.out
    }

    /// Columns.
    pub fn in_features(&self) -> usize {
        self.input
    }

    /// Size in memory, padding included.
    pub fn size_in_bytes(&self) -> usize {
        self.turned.size_in_bytes()
    }

    /// The values as one f32 tensor `[out, in]`.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn to_dense(&self) -> Result<Tensor, OpsError> {
        let mut values = zeros(self.out * self.input)?;
        let rows = values.par_chunks_mut(self.input.max(1)).enumerate();
        rows.for_each(|(row, values)| self.read_row(row, values));
        let shape = (self.out, self.input);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// Copies a row that exists into `values`, `in` of them.
    pub(crate) fn read_row(&self, row: usize, values: &mut [f32]) {
        let part = self.turned();
        for (column, value) in values.iter_mut().enumerate() {
            *value = part.at(column, row);
        }
    }

    /// The transpose `[in, out]`, packed.
    pub(crate) fn turned(&self) -> Part<'_> {
        self.turned.all()
    }
}
