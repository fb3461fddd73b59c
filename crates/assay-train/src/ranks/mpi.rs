//! Ranks that `mpirun` started. They communicate through MPI from the main thread.

use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};

use super::collective::{Collective, add};
use crate::TrainError;

/// Maximum number of bytes per message: MPI counts in 32-bit integers.
const BYTES: usize = 1 << 24;
/// Maximum number of floats a rank in one exchange of gradients.
const FLOATS: usize = 1 << 20;
/// Exit status after a panic.
const PANIC: i32 = 2;

/// All processes of an `mpirun`. Dropping it finalises MPI, which waits for all ranks.
pub struct Mpi {
    world: SimpleCommunicator,
    local_rank: usize,
    _universe: Universe,
}

impl Mpi {
    /// Joins the processes that were started together. Without `mpirun` this process is the only
    /// one.
    ///
    /// # Errors
    /// [`TrainError::Collective`] if this process has joined before.
    pub fn start() -> Result<Self, TrainError> {
        let (universe, _) =
            mpi::initialize_with_threading(Threading::Funneled).ok_or_else(|| {
                TrainError::Collective {
                    doing: "joining the others",
                    reason: "this process has done so before".to_owned(),
                }
            })?;
        let world = universe.world();
        let machine = world.split_shared(world.rank());
        Ok(Self {
            local_rank: machine.rank() as usize,
            world,
            _universe: universe,
        })
    }

    fn ranks(&self) -> std::ops::Range<i32> {
        0..self.world.size()
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, TrainError> {
        let mut lengths = vec![0_u64; self.size()];
        self.world
            .all_gather_into(&(own.len() as u64), &mut lengths[..]);
        let mut all = Vec::with_capacity(self.size());
        for (rank, &length) in self.ranks().zip(&lengths) {
            let mut bytes = if rank == self.world.rank() {
                own.to_vec()
            } else {
                vec![0; length as usize]
            };
            let root = self.world.process_at_rank(rank);
            for message in bytes.chunks_mut(BYTES) {
                root.broadcast_into(message);
            }
            all.push(bytes);
        }
        Ok(all)
    }

    fn accumulate(&self, total: &mut [f32], own: &[f32]) -> Result<(), TrainError> {
        let mut all = vec![0.0_f32; FLOATS.min(own.len()) * self.size()];
        for (total, own) in total.chunks_mut(FLOATS).zip(own.chunks(FLOATS)) {
            let all = &mut all[..own.len() * self.size()];
            self.world.all_gather_into(own, all);
            for one in all.chunks(own.len()) {
                add(total, one);
            }
        }
        Ok(())
    }

    fn abort(&self, status: u8) {
        if self.size() > 1 {
            self.world.abort(i32::from(status));
        }
    }
}

impl Drop for Mpi {
    /// Finalising MPI waits for all ranks. During a panic they would wait for this one, so it
    /// aborts them.
    fn drop(&mut self) {
        if std::thread::panicking() && self.size() > 1 {
            self.world.abort(PANIC);
        }
    }
}
