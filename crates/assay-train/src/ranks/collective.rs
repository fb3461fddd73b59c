//! What ranks exchange, and the collective of a single process.

use crate::TrainError;

/// Collective operations of the ranks of a run. All ranks must make the same calls in the same
/// order.
pub trait Collective {
    /// Index of this rank, from 0.
    fn rank(&self) -> usize;

    /// Index of this rank among the ranks of its machine, from 0. `compute.device = "auto"` uses the
    /// GPU with this index.
    fn local_rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// The bytes `own` of every rank, in rank order.
    ///
    /// # Errors
    /// [`TrainError::Collective`] if the others cannot be reached.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, TrainError>;

    /// `total[i] = ((total[i] + own_0[i]) + own_1[i]) + ...` in f32 and in rank order, on every
    /// rank. All slices have the same length.
    ///
    /// # Errors
    /// [`TrainError::Collective`] if the others cannot be reached.
    fn accumulate(&self, total: &mut [f32], own: &[f32]) -> Result<(), TrainError>;

    /// Ends all ranks at once with an exit status. Returns without effect if there is only one
    /// rank.
    fn abort(&self, status: u8);
}

/// A single process.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleProcess;

impl Collective for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, TrainError> {
        Ok(vec![own.to_vec()])
    }

    fn accumulate(&self, total: &mut [f32], own: &[f32]) -> Result<(), TrainError> {
        add(total, own);
        Ok(())
    }

    fn abort(&self, _status: u8) {}
}

/// Adds `own` to `total`, element by element.
pub(super) fn add(total: &mut [f32], own: &[f32]) {
    for (total, own) in total.iter_mut().zip(own) {
        *total += own;
    }
}
