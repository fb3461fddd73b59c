//! Agreement between people who labelled the same traces.
//!
//! Traces that only one person labelled are left out. Formulas are in `docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};

use crate::statistics::{BootstrapSettings, Estimate, Resampler};
use crate::summary::Summary;

/// Tolerances w of `within_w`, in tokens.
pub const AGREEMENT_WINDOWS: [usize; 3] = [0, 1, 3];

/// One annotator's judgement of one trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement<'a> {
    /// The problem of the trace. The bootstrap resamples problems.
    pub problem: &'a str,
    /// The trace.
    pub trace: &'a str,
    /// The annotator.
    pub annotator: &'a str,
    /// The first wrong token; `None` if there is no error.
    pub first_error: Option<usize>,
}

/// A trace that several people labelled.
struct Unit<'a> {
    /// Index of its problem.
    problem: usize,
    judgements: Vec<&'a Judgement<'a>>,
}

/// The traces that several people labelled.
struct Units<'a> {
    units: Vec<Unit<'a>>,
    problems: usize,
    annotators: BTreeSet<&'a str>,
}

/// The entries `agreement.*` of a summary; none if no trace has two judgements.
///
/// Judgements of one trace must be of different annotators.
pub fn agreement(judgements: &[Judgement<'_>], settings: &BootstrapSettings) -> Summary {
    let units = Units::new(judgements);
    let mut summary = Summary::default();
    if units.units.is_empty() {
        return summary;
    }
    let resampler = Resampler::new(*settings);
    let mut add = |name: &str, statistic: &dyn Fn(&[f64]) -> Option<f64>| {
        let estimate = resampler.estimate(units.problems, statistic);
        summary.insert_some(&format!("agreement.{name}"), estimate);
    };
    add("has_error.same", &|w| units.share(w, same_verdict));
    if units.annotators.len() == 2 {
        add("has_error.kappa", &|w| units.kappa(w));
    }
    add("has_error.alpha", &|w| units.alpha(w));
    for window in AGREEMENT_WINDOWS {
        add(&format!("first_error.within_{window}"), &|w| {
            units.share(w, |a, b| {
                Some(a.first_error?.abs_diff(b.first_error?) <= window)
            })
        });
    }
    for (name, count) in [
        ("traces", units.units.len()),
        ("annotators", units.annotators.len()),
    ] {
        summary.insert(&format!("agreement.{name}"), Estimate::exact(count as f64));
    }
    summary
}

fn same_verdict(a: &Judgement<'_>, b: &Judgement<'_>) -> Option<bool> {
    Some(a.first_error.is_some() == b.first_error.is_some())
}

impl<'a> Units<'a> {
    fn new(judgements: &'a [Judgement<'a>]) -> Self {
        let mut by_trace: BTreeMap<&str, Vec<&Judgement<'_>>> = BTreeMap::new();
        for judgement in judgements {
            by_trace.entry(judgement.trace).or_default().push(judgement);
        }
        by_trace.retain(|_, own| own.len() > 1);
        let mut places = BTreeMap::new();
        let mut annotators = BTreeSet::new();
        let mut units = Vec::with_capacity(by_trace.len());
        for (_, mut judgements) in by_trace {
            judgements.sort_by_key(|judgement| judgement.annotator);
            annotators.extend(judgements.iter().map(|judgement| judgement.annotator));
            let next = places.len();
            let problem = *places.entry(judgements[0].problem).or_insert(next);
            units.push(Unit {
                problem,
                judgements,
            });
        }
        Self {
            units,
            problems: places.len(),
            annotators,
        }
    }

    /// The share of pairs of annotators of one trace for which `agree` returns true, among those
    /// for which it is defined.
    fn share(
        &self,
        weights: &[f64],
        agree: impl Fn(&Judgement<'_>, &Judgement<'_>) -> Option<bool>,
    ) -> Option<f64> {
        let (mut held, mut all) = (0.0, 0.0);
        for unit in &self.units {
            let weight = weights[unit.problem];
            for (index, first) in unit.judgements.iter().enumerate() {
                for second in &unit.judgements[index + 1..] {
                    if let Some(agreed) = agree(first, second) {
                        all += weight;
                        held += weight * f64::from(u8::from(agreed));
                    }
                }
            }
        }
        (all > 0.0).then(|| held / all)
    }

    /// Cohen's kappa of two annotators on whether a trace has an error: (o - e) / (1 - e), where o
    /// is the share of traces on which they agree and e the share expected of independent
    /// annotators with the same shares of wrong traces. `None` if e is 1.
    fn kappa(&self, weights: &[f64]) -> Option<f64> {
        let mut table = [[0.0; 2]; 2];
        for unit in &self.units {
            let [first, second] = unit.judgements.as_slice() else {
                continue;
            };
            let row = usize::from(first.first_error.is_some());
            let column = usize::from(second.first_error.is_some());
            table[row][column] += weights[unit.problem];
        }
        let all: f64 = table.iter().flatten().sum();
        let observed = (table[0][0] + table[1][1]) / all;
        let first = (table[1][0] + table[1][1]) / all;
        let second = (table[0][1] + table[1][1]) / all;
        let expected = first * second + (1.0 - first) * (1.0 - second);
        let kappa = (observed - expected) / (1.0 - expected);
        kappa.is_finite().then_some(kappa)
    }

    /// Krippendorff's alpha for nominal data on whether a trace has an error, for any number of
    /// annotators: 1 - (n - 1) o / (2 n_0 n_1), where o = sum over traces of 2 k_0 k_1 / (k - 1). A
    /// trace has k judgements, k_1 of them with an error. `None` if all judgements are the same.
    fn alpha(&self, weights: &[f64]) -> Option<f64> {
        let (mut totals, mut disagreement) = ([0.0; 2], 0.0);
        for unit in &self.units {
            let weight = weights[unit.problem];
            let all = unit.judgements.len() as f64;
            let wrong = unit.judgements.iter().filter(|j| j.first_error.is_some());
            let wrong = wrong.count() as f64;
            totals[0] += weight * (all - wrong);
            totals[1] += weight * wrong;
            disagreement += weight * 2.0 * wrong * (all - wrong) / (all - 1.0);
        }
        let expected = 2.0 * totals[0] * totals[1];
        let all = totals[0] + totals[1];
        (expected > 0.0).then(|| 1.0 - (all - 1.0) * disagreement / expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row per annotator with the first wrong token of each trace: -1 without an error, -2
    /// without a label.
    fn of<'a>(rows: &[(&'a str, &[i64])], names: &'a [String]) -> Vec<Judgement<'a>> {
        let mut all = Vec::new();
        for &(annotator, row) in rows {
            for (trace, &token) in names.iter().zip(row) {
                if token > -2 {
                    all.push(Judgement {
                        problem: trace,
                        trace,
                        annotator,
                        first_error: usize::try_from(token).ok(),
                    });
                }
            }
        }
        all
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("t{index:02}")).collect()
    }

    fn summary(rows: &[(&str, &[i64])]) -> Summary {
        let names = names(rows[0].1.len());
        agreement(&of(rows, &names), &BootstrapSettings::default())
    }

    fn value(summary: &Summary, name: &str) -> Option<f64> {
        summary.get(&format!("agreement.{name}")).map(|e| e.value)
    }

    fn close(found: Option<f64>, expected: f64) {
        assert!(
            (found.unwrap() - expected).abs() < 1e-12,
            "{found:?}, not {expected}"
        );
    }

    /// Both mark an error in 20 of 50 traces, only the first in 5, only the second in 10. They
    /// agree on 0.7; by chance they would agree on 0.5 0.6 + 0.5 0.4 = 0.5. (0.7 - 0.5) / 0.5 =
    /// 0.4.
    #[test]
    fn kappa_is_that_of_the_table() {
        let of_counts = |errors: [i64; 4]| -> Vec<i64> {
            let counts = [20, 5, 10, 15];
            let rows = errors.into_iter().zip(counts);
            rows.flat_map(|(error, count)| vec![error; count]).collect()
        };
        let (first, second) = (of_counts([3, 3, -1, -1]), of_counts([3, -1, 3, -1]));
        let found = summary(&[("Ada", &first), ("Bob", &second)]);
        close(value(&found, "has_error.kappa"), 0.4);
        close(value(&found, "has_error.same"), 0.7);
        let kappa = found.get("agreement.has_error.kappa").unwrap();
        assert!(kappa.low < 0.4 && kappa.high > 0.4 && kappa.n == 50);
        close(value(&found, "traces"), 50.0);
    }

    /// Krippendorff's published example of two observers and ten units: alpha 0.095. By hand, 4
    /// units disagree, 14 of 20 values are 0: 1 - 19 * 8 / (2 * 14 * 6).
    #[test]
    fn alpha_is_that_of_the_published_example() {
        let first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0].map(|seen| seen - 1);
        let second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0].map(|seen| seen - 1);
        let found = summary(&[("A", &first), ("B", &second)]);
        close(value(&found, "has_error.alpha"), 1.0 - 152.0 / 168.0);
    }

    /// Three annotators, one label missing. Judgements with an error: t0 3 of 3, t1 1 of 3, t2
    /// 0 of 2; t3 has one label and does not count. o = 2 * 1 * 2 / 2 = 2; n_1 = 4, n_0 = 4, n = 8:
    /// 1 - 7 * 2 / 32.
    #[test]
    fn alpha_takes_any_number_of_annotators() {
        let found = summary(&[
            ("A", &[5, 2, -1, 1]),
            ("B", &[6, -1, -1, -2]),
            ("C", &[9, -1, -2, -2]),
        ]);
        close(value(&found, "has_error.alpha"), 1.0 - 14.0 / 32.0);
        assert_eq!(value(&found, "has_error.kappa"), None);
        close(value(&found, "traces"), 3.0);
        close(value(&found, "annotators"), 3.0);
        // Pairs with two errors: (5, 6), (5, 9), (6, 9).
        close(value(&found, "first_error.within_0"), 0.0);
        close(value(&found, "first_error.within_1"), 1.0 / 3.0);
        close(value(&found, "first_error.within_3"), 2.0 / 3.0);
    }

    #[test]
    fn what_is_not_defined_has_no_entry() {
        let none = summary(&[("A", &[1, 2]), ("B", &[-2, -2])]);
        assert!(none.is_empty());
        let right = summary(&[("A", &[-1, -1]), ("B", &[-1, -1])]);
        close(value(&right, "has_error.same"), 1.0);
        for name in ["has_error.kappa", "has_error.alpha", "first_error.within_0"] {
            assert_eq!(value(&right, name), None, "{name}");
        }
    }

    #[test]
    fn problems_are_resampled_not_traces() {
        let names = names(4);
        let rows: [(&str, &[i64]); 2] = [("A", &[1, 1, 1, 1]), ("B", &[1, 1, 2, 2])];
        let mut judgements = of(&rows, &names);
        for judgement in &mut judgements {
            judgement.problem = "one";
        }
        let found = agreement(&judgements, &BootstrapSettings::default());
        let within = found.get("agreement.first_error.within_0").unwrap();
        assert_eq!(
            (within.value, within.low, within.high, within.n),
            (0.5, 0.5, 0.5, 1)
        );
    }
}
