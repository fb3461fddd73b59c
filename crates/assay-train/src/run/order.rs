//! The items of an iteration: a function of seed and iteration only, so a resumed run needs no
//! cursor.
//!
//! Items are visited in epochs; each epoch is a new permutation. Iteration i takes positions
//! `i * size .. (i + 1) * size` of the concatenated epochs.

use assay_tasks::random::StreamKey;

/// The `size` indices of the items of one iteration. Items repeat if there are fewer than `size`.
pub fn batch(seed: u64, items: usize, size: usize, iteration: usize) -> Vec<usize> {
    let mut cached: Option<(usize, Vec<usize>)> = None;
    let mut picked = Vec::with_capacity(size);
    for position in iteration * size..(iteration + 1) * size {
        let (epoch, place) = (position / items.max(1), position % items.max(1));
        if cached.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let mut order: Vec<usize> = (0..items).collect();
            let mut stream = StreamKey::DataOrder.stream(seed, &[epoch as u64]);
            stream.shuffle(&mut order);
            cached = Some((epoch, order));
        }
        picked.extend(cached.as_ref().and_then(|(_, order)| order.get(place)));
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_is_another_permutation() {
        let epoch =
            |e: usize| -> Vec<usize> { (0..4).flat_map(|i| batch(1, 12, 3, 4 * e + i)).collect() };
        let (mut first, mut second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        first.sort_unstable();
        second.sort_unstable();
        assert_eq!(first, (0..12).collect::<Vec<_>>());
        assert_eq!(second, first);
    }

    #[test]
    fn a_batch_may_cross_epochs() {
        let picked: Vec<usize> = (0..5).flat_map(|i| batch(7, 5, 3, i)).collect();
        for epoch in picked.chunks(5) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
        }
        assert_eq!(batch(7, 1, 3, 0), [0, 0, 0]);
    }
}
