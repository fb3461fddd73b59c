//! Ranks: processes that train one run together, each with complete replicas of both players.
//!
//! A rank samples for its share of an iteration's problems and runs the passes of its share of an
//! update's micro-batches. Traces and token scalars are gathered, so every rank computes the loss
//! of the whole update. Gradients are added micro-batch by micro-batch in the order of a single
//! process, so all ranks take the same optimiser step as a single process. Only the first rank
//! writes files.
//!
//! [`Collective`] is the interface for communication. An error of one rank becomes an error of all
//! ranks at their next exchange, so no rank waits for one that has stopped.

mod collective;
#[cfg(feature = "mpi")]
mod mpi;

use std::ops::Range;

use assay_lm::packed::MicroBatch;
use sha2::{Digest, Sha256};

use crate::{TrainError, checkpoint};
use assay_critic::player::TokenScalars;

pub use collective::{Collective, SingleProcess};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;

/// Whether this is the first rank, which writes files.
pub fn is_first(ranks: &dyn Collective) -> bool {
    ranks.rank() == 0
}

/// The part of `count` items that belongs to this rank; parts differ by at most one in length.
pub(crate) fn share(ranks: &dyn Collective, count: usize) -> Range<usize> {
    share_of(ranks.rank(), ranks.size(), count)
}

fn share_of(rank: usize, size: usize, count: usize) -> Range<usize> {
    count * rank / size..count * (rank + 1) / size
}

/// The bytes that every rank computed, in rank order.
///
/// # Errors
/// On a rank that failed its own error; on the others [`TrainError::OtherRank`] with that of the
/// first failed rank.
pub(crate) fn exchange(
    ranks: &dyn Collective,
    own: Result<Vec<u8>, TrainError>,
) -> Result<Vec<Vec<u8>>, TrainError> {
    const MADE: u8 = 0;
    const FAILED: u8 = 1;
    if ranks.size() == 1 {
        return own.map(|own| vec![own]);
    }
    let (tag, content, failed) = match own {
        Ok(made) => (MADE, made, None),
        Err(error) => (FAILED, error.to_string().into_bytes(), Some(error)),
    };
    let message: Vec<u8> = std::iter::once(tag).chain(content).collect();
    let mut all = ranks.gather(&message)?;
    if let Some(error) = failed {
        return Err(error);
    }
    for (rank, message) in all.iter_mut().enumerate() {
        if message.first() != Some(&MADE) {
            let reason = message.get(1..).unwrap_or_default();
            return Err(TrainError::OtherRank {
                rank,
                reason: String::from_utf8_lossy(reason).into_owned(),
            });
        }
        message.remove(0);
    }
    Ok(all)
}

/// The result of this rank, if no rank failed.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn agree<T>(
    ranks: &dyn Collective,
    own: Result<T, TrainError>,
) -> Result<T, TrainError> {
    if ranks.size() == 1 {
        return own;
    }
    let (made, told) = match own {
        Ok(made) => (Some(made), Ok(Vec::new())),
        Err(error) => (None, Err(error)),
    };
    exchange(ranks, told)?;
    made.ok_or_else(|| TrainError::OtherRank {
        rank: ranks.rank(),
        reason: "it failed unseen".to_owned(),
    })
}

/// The result of the first rank; `None` on the others.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn on_first<T>(
    ranks: &dyn Collective,
    make: impl FnOnce() -> Result<T, TrainError>,
) -> Result<Option<T>, TrainError> {
    let made = is_first(ranks).then(make).transpose();
    agree(ranks, made)
}

/// Returns the first rank's number on all ranks.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn from_first(
    ranks: &dyn Collective,
    own: Result<Option<usize>, TrainError>,
) -> Result<Option<usize>, TrainError> {
    let told = own.map(|own| own.map_or_else(Vec::new, |n| n.to_string().into_bytes()));
    let all = exchange(ranks, told)?;
    Ok(String::from_utf8_lossy(&all[0]).parse().ok())
}

/// Whether `own` is true on any rank.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn any(ranks: &dyn Collective, own: bool) -> Result<bool, TrainError> {
    let all = exchange(ranks, Ok(vec![u8::from(own)]))?;
    Ok(all.iter().any(|said| said.as_slice() == [1]))
}

/// Checks that all ranks have the same value; `what` is its name in the plural.
///
/// # Errors
/// [`TrainError::RanksDiffer`] names the first rank that differs from rank 0.
pub(crate) fn same(
    ranks: &dyn Collective,
    what: &'static str,
    own: &str,
) -> Result<(), TrainError> {
    let mut hasher = Sha256::new();
    hasher.update(own);
    let all = exchange(ranks, Ok(checkpoint::hex_digest(hasher).into_bytes()))?;
    match all.iter().position(|digest| *digest != all[0]) {
        Some(rank) => Err(TrainError::RanksDiffer { rank, what }),
        None => Ok(()),
    }
}

/// Token scalars of all micro-batches in order. `pass` computes those of one micro-batch. This rank
/// computes every `size`-th micro-batch, beginning with the one of its rank.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn scalars(
    ranks: &dyn Collective,
    parts: &[MicroBatch],
    mut pass: impl FnMut(&MicroBatch) -> Result<TokenScalars, TrainError>,
) -> Result<TokenScalars, TrainError> {
    let own = parts.iter().skip(ranks.rank()).step_by(ranks.size());
    let mut made = TokenScalars::new();
    let passed = own
        .map(&mut pass)
        .try_for_each(|rows| rows.map(|rows| made.extend(rows)));
    let lengths: Vec<Vec<usize>> = parts
        .iter()
        .map(|part| {
            let completions = part.groups.iter().flat_map(|group| &group.completions);
            completions.map(Vec::len).collect()
        })
        .collect();
    gathered(ranks, &lengths, passed.map(|()| made))
}

/// Token scalars of all parts in order. Each rank computed every `size`-th part, beginning with the
/// one of its rank. `lengths` has the lengths of the completions of each part.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn gathered(
    ranks: &dyn Collective,
    lengths: &[Vec<usize>],
    made: Result<TokenScalars, TrainError>,
) -> Result<TokenScalars, TrainError> {
    if ranks.size() == 1 {
        return made;
    }
    let bytes = made.map(|made| {
        made.iter()
            .flatten()
            .flat_map(|x| x.to_le_bytes())
            .collect()
    });
    let all = exchange(ranks, bytes)?;
    let mut rest: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    let mut rows = TokenScalars::new();
    for (index, part) in lengths.iter().enumerate() {
        let rank = index % ranks.size();
        for length in part {
            let taken = rest[rank].split_at_checked(4 * length);
            let (row, later) = taken.ok_or_else(|| TrainError::OtherRank {
                rank,
                reason: "it gave too few token scalars".to_owned(),
            })?;
            rest[rank] = later;
            rows.push(row.chunks_exact(4).map(f32_of).collect());
        }
    }
    Ok(rows)
}

fn f32_of(bytes: &[u8]) -> f32 {
    let mut word = [0; 4];
    word.copy_from_slice(bytes);
    f32::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_each_other_and_lose_nothing() {
        for (count, size) in [(8, 2), (7, 3), (1, 4), (0, 2), (5, 1)] {
            let shares: Vec<Range<usize>> =
                (0..size).map(|rank| share_of(rank, size, count)).collect();
            let all: Vec<usize> = shares.iter().cloned().flatten().collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
            let longest = shares.iter().map(Range::len).max();
            assert!(longest <= Some(count.div_ceil(size)));
        }
    }

    #[test]
    fn alone_everything_is_its_own() {
        let mut total = [1.0, 2.0];
        SingleProcess.accumulate(&mut total, &[0.5, -2.0]).unwrap();
        assert_eq!(total, [1.5, 0.0]);
        assert_eq!(exchange(&SingleProcess, Ok(vec![7])).unwrap(), [[7]]);
        assert!(any(&SingleProcess, true).unwrap() && !any(&SingleProcess, false).unwrap());
        let failed = agree::<()>(&SingleProcess, Err(TrainError::EmptyUpdate));
        assert!(matches!(failed, Err(TrainError::EmptyUpdate)));
    }
}
