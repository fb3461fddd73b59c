//! Which traces of a long file are drawn: the most misjudged ones and a fair sample, chosen in one pass.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use assay_tasks::random::text_key;
use assay_tasks::trace::ScoredTrace;

/// Keeps a bounded number of traces while a file is read.
///
/// A third of the places goes to the wrong traces with the highest score, a third to the correct ones with the lowest,
/// what is left to those with the smallest keys of problem and text: a sample that does not depend on the order. A file
/// with no more traces than places is kept whole.
#[derive(Debug)]
pub struct Gallery {
    /// Wrong traces by score, correct traces by minus score, all traces by minus key.
    kept: [BinaryHeap<Kept>; 3],
    places: [usize; 3],
    seen: usize,
}

/// A trace in a heap whose top is the first to go.
#[derive(Debug)]
struct Kept {
    worth: f64,
    order: usize,
    trace: ScoredTrace,
}

impl Gallery {
    /// A gallery of at most that many traces.
    pub fn new(places: usize) -> Self {
        let third = places / 3;
        Self {
            kept: Default::default(),
            places: [third, third, places],
            seen: 0,
        }
    }

    /// Takes a trace with its trace score; traces without a token reward are not drawn.
    pub fn offer(&mut self, trace: ScoredTrace, score: Option<f64>) {
        if !trace.token_rewards.iter().any(Option::is_some) {
            return;
        }
        self.seen += 1;
        let key = text_key(&trace.id) ^ text_key(&trace.text).rotate_left(1);
        let misjudged = match (trace.correct, score) {
            (Some(false), Some(score)) => Some((0, score)),
            (Some(true), Some(score)) => Some((1, -score)),
            _ => None,
        };
        let sample = (2, -(key as f64));
        for (heap, worth) in misjudged.into_iter().chain([sample]) {
            let order = self.seen;
            if self.admits(heap, worth) {
                let trace = trace.clone();
                self.kept[heap].push(Kept {
                    worth,
                    order,
                    trace,
                });
                if self.kept[heap].len() > self.places[heap] {
                    self.kept[heap].pop();
                }
            }
        }
    }

    /// The traces kept, in the order in which they came, each once.
    pub fn finish(self) -> Vec<ScoredTrace> {
        let most = self.places[2];
        let [wrong, right, sample] = self.kept;
        let mut kept: Vec<Kept> = wrong.into_iter().chain(right).collect();
        // Ascending in the heap's order is descending in worth: the smallest keys first.
        for candidate in sample.into_sorted_vec() {
            if kept.len() < most && kept.iter().all(|other| other.order != candidate.order) {
                kept.push(candidate);
            }
        }
        kept.sort_by_key(|kept| kept.order);
        kept.into_iter().map(|kept| kept.trace).collect()
    }

    /// Traces with a token reward that were offered.
    pub fn seen(&self) -> usize {
        self.seen
    }

    fn admits(&self, heap: usize, worth: f64) -> bool {
        let full = self.kept[heap].len() >= self.places[heap];
        let least = self.kept[heap].peek().map(|kept| kept.worth);
        !full || least.is_some_and(|least| worth > least)
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    /// The least worth is the greatest, so that the top of the heap goes first; the later of equal ones.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_worth = other.worth.total_cmp(&self.worth);
        by_worth.then(self.order.cmp(&other.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(i: usize, correct: bool) -> ScoredTrace {
        ScoredTrace {
            id: format!("p{i}"),
            correct: Some(correct),
            token_rewards: vec![Some(0.0)],
            ..ScoredTrace::default()
        }
    }

    #[test]
    fn the_most_misjudged_and_a_sample_are_kept() {
        let mut gallery = Gallery::new(9);
        for i in 0..100 {
            // Scores rise with i; even ones are wrong, odd ones correct.
            gallery.offer(trace(i, i % 2 == 1), Some(i as f64));
        }
        assert_eq!(gallery.seen(), 100);
        let ids: Vec<String> = gallery.finish().into_iter().map(|t| t.id).collect();
        for expected in ["p1", "p3", "p5", "p94", "p96", "p98"] {
            assert!(ids.iter().any(|id| id == expected), "{ids:?}");
        }
        assert_eq!(ids.len(), 9);
        let mut small = Gallery::new(9);
        (0..9).for_each(|i| small.offer(trace(i, i % 2 == 1), Some(i as f64)));
        assert_eq!(small.finish().len(), 9);
    }

    #[test]
    fn the_sample_does_not_depend_on_the_order() {
        let ids = |order: Vec<usize>| {
            let mut gallery = Gallery::new(3);
            order
                .into_iter()
                .for_each(|i| gallery.offer(trace(i, true), None));
            let mut ids: Vec<String> = gallery.finish().into_iter().map(|t| t.id).collect();
            ids.sort();
            ids
        };
        assert_eq!(ids((0..50).collect()), ids((0..50).rev().collect()));
    }

    #[test]
    fn traces_without_rewards_are_not_drawn() {
        let mut gallery = Gallery::new(3);
        gallery.offer(ScoredTrace::default(), Some(1.0));
        assert_eq!((gallery.seen(), gallery.finish().len()), (0, 0));
    }
}
