//! Rotary position embedding.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu::routines::dispatched;
use crate::values::{Values, matrix_dims, slice, zeros};
use crate::{OpsError, cuda, has_kernels};

const NAME: &str = "rope";
/// Rows of one parallel task.
const ROWS: usize = 32;

/// Cosines and sines of every position, `[max_positions, head_dim / 2]` each. Cheap to clone.
#[derive(Clone)]
pub struct RopeTable {
    half: usize,
    max_positions: usize,
    cos: Arc<[f32]>,
    sin: Arc<[f32]>,
    /// The same on the device that the table was made for, when that has kernels of its own.
    angles: Option<Arc<cuda::rms_norm::Angles>>,
}

impl std::fmt::Debug for RopeTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RopeTable([{}, {}])", self.max_positions, self.half)
    }
}

impl RopeTable {
    /// The table of angles position * inverse_frequency; angles in f32, as transformers computes them.
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
                let angles = cuda::rms_norm::Angles::new((&cos, &sin), half, device)?;
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

    /// Positions the table holds.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Values a head.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }
}

/// Rotates each head of each row by the row's position, in the half-rotation convention of transformers:
/// (a, b) -> (a cos - b sin, b cos + a sin), a the first and b the second half of a head.
///
/// # Shapes
/// x `[T, heads * head_dim]` f32, on a GPU also bf16, positions `[T]`, result as x.
///
/// The gradient reaches x.
///
/// # Errors
/// A width that is not whole heads, another number of positions than rows, a position beyond the table.
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
            what: "position",
            row,
            index,
            limit,
        });
    }
    let x = x.contiguous()?;
    if cuda::takes(&x) {
        let Some(angles) = &table.angles else {
            return Err(OpsError::Elsewhere {
                operation: NAME,
                argument: "table",
            });
        };
        return Ok(cuda::rms_norm::rope(&x, positions, angles)?);
    }
    Ok(x.apply_op1(Rope {
        positions: positions.clone(),
        table: table.clone(),
    })?)
}

struct Rope {
    positions: Arc<[u32]>,
    table: RopeTable,
}

impl Rope {
    /// Rotates every row by `sign` times its angle.
    fn rotate(&self, x: &[f32], sign: f32) -> Result<Vec<f32>, OpsError> {
        let mut y = zeros(x.len())?;
        if self.positions.is_empty() || x.is_empty() {
            return Ok(y);
        }
        let width = x.len() / self.positions.len();
        let tasks = y
            .par_chunks_mut(ROWS * width)
            .zip(x.par_chunks(ROWS * width))
            .zip(self.positions.par_chunks(ROWS));
        tasks.for_each(|((y, x), positions)| {
            for ((y, x), &position) in y
                .chunks_exact_mut(width)
                .zip(x.chunks_exact(width))
                .zip(positions)
            {
                let angles =
                    position as usize * self.table.half..(position as usize + 1) * self.table.half;
                rotate_row(
                    x,
                    (&self.table.cos[angles.clone()], &self.table.sin[angles]),
                    sign,
                    y,
                );
            }
        });
        Ok(y)
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        Ok((
            CpuStorage::F32(self.rotate(slice(x, layout)?, 1.0)?),
            layout.shape().clone(),
        ))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = self.rotate(&Values::of(&grad)?, -1.0)?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

dispatched! {
    fn rotate_row(x: &[f32], angles: (&[f32], &[f32]), sign: f32, y: &mut [f32]) {
        let (cos, sin) = angles;
        let half = cos.len();
        for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
            let (x_first, x_second) = x.split_at(half);
            let (y_first, y_second) = y.split_at_mut(half);
            for i in 0..half {
                let (c, s) = (cos[i], sin[i] * sign);
                y_first[i] = x_first[i] * c - x_second[i] * s;
                y_second[i] = x_second[i] * c + x_first[i] * s;
            }
        }
    }
}
