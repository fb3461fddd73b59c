//! Starts the processes that train one run together, and stops them when one fails.

use std::time::Duration;

use anyhow::Result;
use assay_train::ranks::Collective;

use crate::failure;

/// Time that a failed rank waits for rank 0 to print an error common to all ranks and to stop them.
const FIRST_SPEAKS: Duration = Duration::from_secs(5);

/// All processes that `mpirun` started.
#[cfg(feature = "mpi")]
pub(crate) fn join() -> Result<Box<dyn Collective>> {
    Ok(Box::new(assay_train::ranks::Mpi::start()?))
}

/// This process.
///
/// # Errors
/// The process was started as one of several.
#[cfg(not(feature = "mpi"))]
pub(crate) fn join() -> Result<Box<dyn Collective>> {
    // Set by Open MPI, and by MPICH and its relatives.
    for name in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"] {
        let size = std::env::var(name).ok().and_then(|size| size.parse().ok());
        if size.unwrap_or(1) > 1 {
            anyhow::bail!(
                "one of {} processes, but this assay was built without MPI; build it with `--features mpi`",
                size.unwrap_or(1)
            );
        }
    }
    Ok(Box::new(assay_train::ranks::SingleProcess))
}

/// Prints the error and stops all ranks, since they may wait for this one. Does nothing if this is
/// the only rank.
///
/// An error that occurs on all ranks is printed once, by rank 0.
pub(crate) fn give_up(ranks: &dyn Collective, error: &anyhow::Error) {
    if ranks.size() == 1 {
        return;
    }
    if ranks.rank() > 0 {
        std::thread::sleep(FIRST_SPEAKS);
    }
    let (rank, size) = (ranks.rank(), ranks.size());
    let _ = crate::progress::message(&format!(
        "rank {rank} of {size} failed and stops all ranks:"
    ));
    let _ = failure::report(error);
    ranks.abort(failure::status(error));
}
