//! Chooses the traces of a long file to draw, in one pass: the most misjudged ones and a random
//! sample.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use assay_tasks::random::text_key;
use assay_tasks::trace::ScoredTrace;

/// Keeps a bounded number of the traces of a file.
///
/// One third is the wrong traces with the highest scores, one third the correct traces with the
/// lowest scores. The rest is the traces with the smallest hash of problem and text: a sample that
/// does not depend on the order of the file. If the file has no more traces than the limit, all are
/// kept.
#[derive(Debug)]
pub struct TraceSample {
    /// Wrong traces by score, correct traces by negated score, all traces by negated hash.
    kept: [BinaryHeap<Kept>; 3],
    /// Maximum length of each heap.
    limits: [usize; 3],
    seen: usize,
}

/// A trace in a heap whose top is dropped first.
#[derive(Debug)]
struct Kept {
    priority: f64,
    order: usize,
    trace: ScoredTrace,
}

impl TraceSample {
    /// An empty sample of at most `limit` traces.
    pub fn new(limit: usize) -> Self {
        let third = limit / 3;
        Self {
            kept: Default::default(),
            limits: [third, third, limit],
            seen: 0,
        }
    }

    /// Offers a trace with its trace score. Traces without token rewards are ignored.
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
        for (heap, priority) in misjudged.into_iter().chain([sample]) {
            let order = self.seen;
            if self.admits(heap, priority) {
                let trace = trace.clone();
                self.kept[heap].push(Kept {
                    priority,
                    order,
                    trace,
                });
                if self.kept[heap].len() > self.limits[heap] {
                    self.kept[heap].pop();
                }
            }
        }
    }

    /// The kept traces in the order in which they were offered, each once.
    pub fn finish(self) -> Vec<ScoredTrace> {
        let limit = self.limits[2];
        let [wrong, right, sample] = self.kept;
        let mut kept: Vec<Kept> = wrong.into_iter().chain(right).collect();
        // Ascending in the heap's order is descending in priority: the smallest hashes first.
        for candidate in sample.into_sorted_vec() {
            if kept.len() < limit && kept.iter().all(|other| other.order != candidate.order) {
                kept.push(candidate);
            }
        }
        kept.sort_by_key(|kept| kept.order);
        kept.into_iter().map(|kept| kept.trace).collect()
    }

    /// Number of offered traces with token rewards.
    pub fn seen(&self) -> usize {
        self.seen
    }

    fn admits(&self, heap: usize, priority: f64) -> bool {
        let full = self.kept[heap].len() >= self.limits[heap];
        let least = self.kept[heap].peek().map(|kept| kept.priority);
        !full || least.is_some_and(|least| priority > least)
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
    /// The lowest priority is the greatest element, so the top of the heap is dropped first; of
    /// equal ones the later.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_priority = other.priority.total_cmp(&self.priority);
        by_priority.then(self.order.cmp(&other.order))
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
    fn misjudged_traces_and_a_sample_are_kept() {
        let mut sample = TraceSample::new(9);
        for i in 0..100 {
            // Scores rise with i; even ones are wrong, odd ones correct.
            sample.offer(trace(i, i % 2 == 1), Some(i as f64));
        }
        assert_eq!(sample.seen(), 100);
        let ids: Vec<String> = sample.finish().into_iter().map(|t| t.id).collect();
        for expected in ["p1", "p3", "p5", "p94", "p96", "p98"] {
            assert!(ids.iter().any(|id| id == expected), "{ids:?}");
        }
        assert_eq!(ids.len(), 9);
        let mut small = TraceSample::new(9);
        (0..9).for_each(|i| small.offer(trace(i, i % 2 == 1), Some(i as f64)));
        assert_eq!(small.finish().len(), 9);
    }

    #[test]
    fn the_sample_does_not_depend_on_the_order() {
        let ids = |order: Vec<usize>| {
            let mut sample = TraceSample::new(3);
            order
                .into_iter()
                .for_each(|i| sample.offer(trace(i, true), None));
            let mut ids: Vec<String> = sample.finish().into_iter().map(|t| t.id).collect();
            ids.sort();
            ids
        };
        assert_eq!(ids((0..50).collect()), ids((0..50).rev().collect()));
    }

    #[test]
    fn traces_without_rewards_are_not_drawn() {
        let mut sample = TraceSample::new(3);
        sample.offer(ScoredTrace::default(), Some(1.0));
        assert_eq!((sample.seen(), sample.finish().len()), (0, 0));
    }
}
