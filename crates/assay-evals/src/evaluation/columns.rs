//! Scores, labels and controls of the traces as parallel columns.

use std::collections::BTreeMap;

use super::traces::{LabelledTraces, Row};
use crate::classification::RankedTraces;
use crate::scores::TraceScore;

/// Parallel columns of the traces that have a score.
pub(super) struct Columns {
    pub(super) scores: Vec<f64>,
    pub(super) correct: Vec<bool>,
    /// Problem of each trace: the bootstrap unit, counted from 0 without gaps.
    pub(super) units: Vec<usize>,
    /// Group of each trace: problem and generator.
    pub(super) groups: Vec<usize>,
    pub(super) generators: Vec<usize>,
    pub(super) lengths: Vec<f64>,
    /// 1 if the answer has one of the requested forms, else 0.
    pub(super) marked: Vec<f64>,
    /// Index of each trace's problem.
    pub(super) problems: Vec<usize>,
}

impl Columns {
    /// The traces with that score whose problems `included` admits.
    pub(super) fn new(
        traces: &LabelledTraces,
        score: TraceScore,
        included: impl Fn(usize) -> bool,
    ) -> Self {
        let mut columns = Self {
            scores: Vec::new(),
            correct: Vec::new(),
            units: Vec::new(),
            groups: Vec::new(),
            generators: Vec::new(),
            lengths: Vec::new(),
            marked: Vec::new(),
            problems: Vec::new(),
        };
        let mut unit_of_problem = BTreeMap::new();
        for row in traces.rows.iter().filter(|row| included(row.problem)) {
            if let Some(value) = row.score(score) {
                let next = unit_of_problem.len();
                let unit = *unit_of_problem.entry(row.problem).or_insert(next);
                columns.push(row, value, unit, traces.generator_count());
            }
        }
        columns
    }

    fn push(&mut self, row: &Row, score: f64, unit: usize, generators: usize) {
        self.scores.push(score);
        self.correct.push(row.correct);
        self.units.push(unit);
        self.groups.push(row.problem * generators + row.generator);
        self.generators.push(row.generator);
        self.lengths
            .push(row.score(TraceScore::Length).unwrap_or(0.0));
        self.marked.push(f64::from(u8::from(row.marked)));
        self.problems.push(row.problem);
    }

    /// Number of bootstrap units.
    pub(super) fn unit_count(&self) -> usize {
        self.units.iter().max().map_or(0, |last| last + 1)
    }

    /// The traces of one generator.
    pub(super) fn ranked_of(&self, generator: usize) -> RankedTraces {
        let own: Vec<usize> = (0..self.scores.len())
            .filter(|&i| self.generators[i] == generator)
            .collect();
        let scores: Vec<f64> = own.iter().map(|&i| self.scores[i]).collect();
        let correct: Vec<bool> = own.iter().map(|&i| self.correct[i]).collect();
        let units: Vec<usize> = own.iter().map(|&i| self.units[i]).collect();
        RankedTraces::new(&scores, &correct, &units)
    }
}
