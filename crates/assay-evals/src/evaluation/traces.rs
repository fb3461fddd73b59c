//! The traces of an evaluation, reduced to the scalars that the statistics need.

use std::collections::{BTreeMap, HashMap};

use assay_tasks::answers::AnswerClasses;
use assay_tasks::random::text_key;

use super::measurements::TraceMeasurements;
use super::probe::Bags;
use super::settings::{EvalSettings, GroupBy};
use crate::scores::TraceScore;
use crate::selection::Candidate;
use crate::statistics::Resampler;
use crate::summary::segment;

/// The traces of known correctness.
#[derive(Clone, Debug)]
pub(super) struct LabelledTraces {
    pub(super) settings: EvalSettings,
    pub(super) resampler: Resampler,
    pub(super) rows: Vec<Row>,
    pub(super) bags: Bags,
    problems: Vec<ProblemAnswers>,
    problem_index: HashMap<String, usize>,
    generators: Vec<String>,
    unlabelled: usize,
}

/// The scalars of one trace.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Index of the problem.
    pub(super) problem: usize,
    /// Index of the generator.
    pub(super) generator: usize,
    pub(super) correct: bool,
    /// Class of the answer among the answers to the problem.
    pub(super) answer: Option<u32>,
    /// Whether the trace was cut at the token limit.
    pub(super) truncated: bool,
    /// Whether the answer has one of the requested forms.
    pub(super) marked: bool,
    /// In the order of [`TraceScore::ALL`].
    scores: [Option<f64>; TraceScore::ALL.len()],
}

/// The rows that a selector chooses from.
pub(super) struct Group {
    pub(super) problem: usize,
    pub(super) rows: Vec<usize>,
}

/// A number that belongs to one problem.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProblemValue {
    pub(super) problem: usize,
    pub(super) value: f64,
}

/// A problem and the distinct answers given to it.
#[derive(Clone, Debug)]
struct ProblemAnswers {
    id: String,
    classes: AnswerClasses,
}

impl LabelledTraces {
    pub(super) fn new(settings: EvalSettings) -> Self {
        Self {
            resampler: Resampler::new(settings.bootstrap),
            settings,
            rows: Vec::new(),
            bags: Bags::default(),
            problems: Vec::new(),
            problem_index: HashMap::new(),
            generators: Vec::new(),
            unlabelled: 0,
        }
    }

    /// Adds a trace. A trace of unknown correctness is only counted; one of an excluded generator
    /// is ignored.
    pub(super) fn add(&mut self, measured: TraceMeasurements) {
        let excluded = &self.settings.excluded_generators;
        if excluded.contains(&measured.generator) {
            return;
        }
        let Some(correct) = measured.correct else {
            self.unlabelled += 1;
            return;
        };
        let problem = self.problem(&measured.id);
        let answer = measured
            .answer
            .map(|answer| self.problems[problem].classes.class(&answer));
        let generator = self.generator(&measured.generator);
        self.bags.offer(measured.bag, self.rows.len());
        self.rows.push(Row {
            problem,
            generator,
            correct,
            answer,
            truncated: measured.truncated,
            marked: measured.marked,
            scores: measured.scores,
        });
    }

    /// Number of traces of unknown correctness.
    pub(super) fn unlabelled(&self) -> usize {
        self.unlabelled
    }

    pub(super) fn problem_count(&self) -> usize {
        self.problems.len()
    }

    pub(super) fn problem_id(&self, problem: usize) -> &str {
        &self.problems[problem].id
    }

    pub(super) fn generator_count(&self) -> usize {
        self.generators.len()
    }

    /// A generator's segment of entry names. Names that look alike get a number: `a.b`, `a_b`
    /// become `a_b`, `a_b_2`.
    pub(super) fn generator_segment(&self, generator: usize) -> String {
        let mut taken: Vec<String> = Vec::new();
        for name in &self.generators[..=generator] {
            let plain = segment(name);
            let numbered = (2..).map(|number| format!("{plain}_{number}"));
            let free = std::iter::once(plain.clone())
                .chain(numbered)
                .find(|candidate| !taken.contains(candidate));
            taken.extend(free);
        }
        taken.pop().unwrap_or_default()
    }

    /// The trace score in use: the one chosen on validation traces, else the configured one.
    pub(super) fn score(&self) -> TraceScore {
        let fitted = self.settings.fitted.as_ref();
        fitted.map_or(self.settings.score, |fitted| fitted.score)
    }

    /// Number of folds of the cross-fit.
    pub(super) fn folds(&self) -> usize {
        self.settings.folds.max(2)
    }

    /// Fold of a problem. It depends on the identifier only, not on the order of the file.
    pub(super) fn fold(&self, problem: usize) -> usize {
        (text_key(self.problem_id(problem)) % self.folds() as u64) as usize
    }

    /// The groups in the order of the problems.
    pub(super) fn groups(&self) -> Vec<Group> {
        let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (index, row) in self.rows.iter().enumerate() {
            let generator = match self.settings.group_by {
                GroupBy::Generator => row.generator,
                GroupBy::Problem => 0,
            };
            groups
                .entry((row.problem, generator))
                .or_default()
                .push(index);
        }
        groups
            .into_iter()
            .map(|((problem, _), rows)| Group { problem, rows })
            .collect()
    }

    /// The data of a row that selectors use.
    pub(super) fn candidate(&self, row: usize) -> Candidate {
        let row = &self.rows[row];
        Candidate {
            correct: row.correct,
            answer: row.answer,
            score: row.score(self.score()),
            logprob: row.score(self.settings.logprob),
            length: row.score(TraceScore::Length).unwrap_or(0.0),
        }
    }

    fn problem(&mut self, id: &str) -> usize {
        if let Some(&known) = self.problem_index.get(id) {
            return known;
        }
        let index = self.problems.len();
        self.problems.push(ProblemAnswers {
            id: id.to_owned(),
            classes: AnswerClasses::default(),
        });
        self.problem_index.insert(id.to_owned(), index);
        index
    }

    fn generator(&mut self, name: &str) -> usize {
        self.generators
            .iter()
            .position(|known| known == name)
            .unwrap_or_else(|| {
                self.generators.push(name.to_owned());
                self.generators.len() - 1
            })
    }
}

impl Row {
    pub(super) fn score(&self, score: TraceScore) -> Option<f64> {
        self.scores[score as usize]
    }
}
