//! Rotary position embedding.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::values::matrix_dims;
use crate::{OpsError, cpu, cuda, has_kernels};

const NAME: &str = "rope";

/// Cosines and sines of every position, `[max_positions, head_dim / 2]` each. A clone shares them.
#[derive(Clone)]
pub struct RopeTable {
    pub(crate) half: usize,
    max_positions: usize,
    pub(crate) cos: Arc<[f32]>,
    pub(crate) sin: Arc<[f32]>,
    /// The same on the device that the table was made for, when that has kernels of its own.
    angles: Option<Arc<cuda::rope::Angles>>,
}

impl std::fmt::Debug for RopeTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RopeTable([{}, {}])", self.max_positions, self.half)
    }
}

impl RopeTable {
    /// Computes the angles position * inverse_frequency in f32, as transformers does.
    ///
    /// # Errors
    /// The device has no memory for it.
    pub fn new(
        inverse_frequencies: &[f32],
        max_positions: usize,
        device: &Device,
    ) -> Result<Self, OpsError> {
        let angle = |i: usize| {
            let (position, frequency) =
                (i / inverse_frequencies.len(), i % inverse_frequencies.len());
            f64::from(position as f32 * inverse_frequencies[frequency])
        };
        let count = max_positions * inverse_frequencies.len();
        let cos: Vec<f32> = (0..count)
            .into_par_iter()
            .map(|i| angle(i).cos() as f32)
            .collect();
        let sin: Vec<f32> = (0..count)
            .into_par_iter()
            .map(|i| angle(i).sin() as f32)
            .collect();
        let half = inverse_frequencies.len();
        let angles = match has_kernels(device) {
            true => {
                let angles = cuda::rope::Angles::new(&cos, &sin, half, device)?;
                Some(Arc::new(angles))
            }
            false => None,
        };
        Ok(Self {
            half,
            max_positions,
            angles,
            cos: cos.into(),
            sin: sin.into(),
        })
    }

    /// Number of positions in the table.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Values per head.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }
}

/// Rotates each head of each row by the row's position, in the half-rotation convention of
/// transformers: (a, b) -> (a cos - b sin, b cos + a sin), where a is the first and b the second
/// half of a head.
///
/// # Shapes
/// x and the result `[T, heads * head_dim]`, f32, on a GPU also bf16; positions `[T]`.
///
/// The gradient reaches x.
///
/// # Errors
/// A width that is not whole heads, another number of positions than rows, a position beyond the
/// table.
///
/// Su et al., "RoFormer", 2021.
pub fn rope(x: &Tensor, positions: &Arc<[u32]>, table: &RopeTable) -> Result<Tensor, OpsError> {
    let (rows, width) = matrix_dims(NAME, "x", x)?;
    let head_dim = table.head_dim();
    if head_dim == 0 || !width.is_multiple_of(head_dim) {
        let expected = format!("[rows, a multiple of {head_dim}]");
        return Err(OpsError::Shape {
            operation: NAME,
            argument: "x",
            expected,
            found: x.dims().to_vec(),
        });
    }
    if positions.len() != rows {
        let found = positions.len();
        return Err(OpsError::Length {
            operation: NAME,
            argument: "positions",
            expected: rows,
            found,
        });
    }
    if let Some(row) = positions
        .iter()
        .position(|&p| p as usize >= table.max_positions)
    {
        let (index, limit) = (positions[row] as usize, table.max_positions);
        return Err(OpsError::Index {
            operation: NAME,
            index_of: "position",
            row,
            index,
            limit,
        });
    }
    let x = x.contiguous()?;
    if !cuda::takes(&x) {
        return cpu::rope::rope(&x, positions, table);
    }
    match &table.angles {
        Some(angles) => Ok(cuda::rope::rope(&x, positions, angles)?),
        None => Err(OpsError::Elsewhere {
            operation: NAME,
            argument: "table",
        }),
    }
}
