//! From a stream of traces to the `policy.*`, `select.*` and `critic.*` entries of `summary.json`.
//!
//! Traces are taken one at a time and only scalars of each are kept. Scores are computed from the record itself, so a
//! score cannot belong to another trace. Constants that need fitting (vote temperature, combination weight,
//! calibration) come from validation traces, or by cross-fitting over problems: what judges a problem was fitted on
//! other problems.

mod critic;
mod fitting;
mod measured;
mod pictures;
mod probe;
mod selecting;

use std::collections::{BTreeMap, HashMap};
use std::panic::resume_unwind;
use std::thread;

use assay_tasks::answers::AnswerClasses;
use assay_tasks::random::text_key;
use assay_tasks::trace::ScoredTrace;
use serde::{Deserialize, Serialize};

pub use fitting::Fitted;
pub use measured::Measured;
pub use pictures::{CorrelationMap, HistogramClass, ScoreHistogram};
pub use probe::{
    PROBE_FOLDS, PROBE_RIDGE, PROBE_TOKENS, PROBE_TRACES, StyleProbe, TokenBag, probe,
};

use crate::classification::ReliabilityBin;
use crate::error::EvalError;
use crate::pass_at_k::pass_at_k;
use crate::scores::{ScoreSettings, TraceScore};
use crate::selection::Candidate;
use crate::statistics::{BootstrapSettings, Estimate, Resampler, mean, paired_difference};
use crate::summary::{Summary, segment};

/// Which traces form the group that a selector chooses from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// Those of one problem by one generator.
    #[default]
    Generator,
    /// Those of one problem, whoever wrote them.
    Problem,
}

/// What to compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSettings {
    /// The trace score that `critic.*` and the selectors use.
    pub score: TraceScore,
    /// The log-probability that the `logprob` and `combined` selectors use.
    pub logprob: TraceScore,
    /// Constants of the trace scores.
    pub scores: ScoreSettings,
    /// Numbers N of traces to select from, the first N of each group.
    pub sample_counts: Vec<usize>,
    /// k of pass@k and success@k.
    pub pass_ks: Vec<usize>,
    /// What a group is.
    pub group_by: GroupBy,
    /// Generators whose traces are not judged, such as the demonstrations themselves.
    pub excluded_generators: Vec<String>,
    /// Intervals.
    pub bootstrap: BootstrapSettings,
    /// Number of folds of the cross-fit, at least 2; without effect if `fitted` is given.
    pub folds: usize,
    /// Constants fitted on validation traces by [`Evaluator::fit`].
    pub fitted: Option<Fitted>,
}

/// Accuracy of a selector as the number of traces grows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelectionCurve {
    /// The selector's name.
    pub selector: String,
    /// N and the accuracy at N.
    pub points: Vec<(usize, Estimate)>,
}

/// All results over one set of traces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The entries of `summary.json`.
    pub summary: Summary,
    /// The trace score in use.
    pub score: Option<TraceScore>,
    /// Accuracy against N.
    pub curves: Vec<SelectionCurve>,
    /// Reliability of the calibrated score.
    pub reliability: Vec<ReliabilityBin>,
    /// Reliability of the score itself taken as a logit.
    pub reliability_raw: Vec<ReliabilityBin>,
    /// Reliability under the isotonic map.
    pub reliability_isotonic: Vec<ReliabilityBin>,
    /// Trace scores of correct and of wrong traces.
    pub histogram: ScoreHistogram,
    /// Trace scores of traces with an answer, without one, and cut at the token limit.
    pub histogram_by_format: ScoreHistogram,
    /// Spearman's rho of correctness, trace scores, log-probability, length and format with each other.
    pub correlations: CorrelationMap,
    /// Value of each problem behind an entry of the summary, by entry and problem identifier.
    pub per_problem: BTreeMap<String, BTreeMap<String, f64>>,
    /// Number of traces judged.
    pub traces: usize,
    /// Number of problems.
    pub problems: usize,
    /// Traces without known correctness, left out of everything that needs it.
    pub unjudged: usize,
}

/// Takes traces one at a time.
#[derive(Clone, Debug)]
pub struct Evaluator {
    settings: EvalSettings,
    resampler: Resampler,
    rows: Vec<Row>,
    problems: Vec<ProblemAnswers>,
    problem_index: HashMap<String, usize>,
    generators: Vec<String>,
    bags: probe::Bags,
    unjudged: usize,
}

/// The scalars kept of one trace.
#[derive(Clone, Debug)]
struct Row {
    problem: usize,
    generator: usize,
    correct: bool,
    answer: Option<u32>,
    truncated: bool,
    /// Whether its answer stands in a form that was asked for.
    marked: bool,
    /// By [`TraceScore::ALL`].
    scores: [Option<f64>; TraceScore::ALL.len()],
}

/// A number read off one trace.
type Measure = &'static dyn Fn(&Row) -> f64;

/// Whether one trace counts as right.
type Verdict = &'static dyn Fn(&Row) -> bool;

/// A problem and the distinct answers given to it.
#[derive(Clone, Debug)]
struct ProblemAnswers {
    id: String,
    classes: AnswerClasses,
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self {
            score: TraceScore::Mean,
            logprob: TraceScore::LogprobSum,
            scores: ScoreSettings::default(),
            sample_counts: vec![2, 4, 8, 16],
            pass_ks: vec![1, 3, 5, 10],
            group_by: GroupBy::Generator,
            excluded_generators: vec!["demonstration".to_owned()],
            bootstrap: BootstrapSettings::default(),
            folds: 2,
            fitted: None,
        }
    }
}

/// Evaluates all traces; see [`Evaluator`].
///
/// # Errors
/// As [`Evaluator::push`].
pub fn evaluate(
    traces: impl IntoIterator<Item = ScoredTrace>,
    settings: &EvalSettings,
) -> Result<Evaluation, EvalError> {
    let mut evaluator = Evaluator::new(settings.clone());
    for trace in traces {
        evaluator.push(&trace)?;
    }
    Ok(evaluator.finish())
}

impl Evaluator {
    /// An evaluator that has seen nothing.
    pub fn new(settings: EvalSettings) -> Self {
        Self {
            resampler: Resampler::new(settings.bootstrap),
            settings,
            rows: Vec::new(),
            problems: Vec::new(),
            problem_index: HashMap::new(),
            generators: Vec::new(),
            bags: probe::Bags::default(),
            unjudged: 0,
        }
    }

    /// Takes one trace. Traces of excluded generators and traces of unknown correctness only count as unjudged.
    ///
    /// # Errors
    /// As [`Measured::of`].
    pub fn push(&mut self, trace: &ScoredTrace) -> Result<(), EvalError> {
        self.add(Measured::of(trace, &self.settings)?);
        Ok(())
    }

    /// Takes what [`Measured::of`] read off a trace, on whatever thread.
    pub fn add(&mut self, measured: Measured) {
        if self
            .settings
            .excluded_generators
            .contains(&measured.generator)
        {
            return;
        }
        let Some(correct) = measured.correct else {
            self.unjudged += 1;
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

    /// Traces so far whose correctness nobody knows.
    pub fn unjudged(&self) -> usize {
        self.unjudged
    }

    /// A generator's segment of dotted names; a number sets apart those that look alike (`a.b`, `a_b`: `a_b`, `a_b_2`).
    fn generator_segment(&self, generator: usize) -> String {
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

    /// Computes everything, on three threads.
    pub fn finish(self) -> Evaluation {
        let mut result = Evaluation {
            traces: self.rows.len(),
            problems: self.problems.len(),
            unjudged: self.unjudged,
            score: Some(self.score()),
            ..Evaluation::default()
        };
        let folds = self.fitted_folds();
        let (evaluator, folds) = (&self, folds.as_slice());
        thread::scope(|scope| {
            let critic = scope.spawn(|| {
                let mut part = Evaluation::default();
                critic::add(evaluator, folds, &mut part);
                part
            });
            let by_score = scope.spawn(|| {
                let mut part = Evaluation::default();
                critic::add_by_score(evaluator, &mut part);
                part
            });
            for generator in 0..evaluator.generators.len() {
                evaluator.add_policy(generator, &mut result);
            }
            selecting::add(evaluator, folds, &mut result);
            probe::add(evaluator, &mut result);
            let parts = [critic.join(), by_score.join()];
            let [critic, by_score] =
                parts.map(|part| part.unwrap_or_else(|panic| resume_unwind(panic)));
            result.summary.extend(critic.summary);
            result.summary.extend(by_score.summary);
            result.reliability = critic.reliability;
            result.reliability_isotonic = critic.reliability_isotonic;
            result.reliability_raw = critic.reliability_raw;
            result.histogram = by_score.histogram;
            result.histogram_by_format = by_score.histogram_by_format;
            result.correlations = by_score.correlations;
        });
        result
    }

    /// The score in use: the one chosen on validation, else the configured one.
    fn score(&self) -> TraceScore {
        let fitted = self.settings.fitted.as_ref();
        fitted.map_or(self.settings.score, |fitted| fitted.score)
    }

    /// Fold of a problem: by its identifier, not by its place in the file.
    fn fold(&self, problem: usize) -> usize {
        (text_key(&self.problems[problem].id) % self.settings.folds.max(2) as u64) as usize
    }

    /// What judges the problems of each fold.
    fn fitted_folds(&self) -> Vec<Option<Fitted>> {
        let fit_without = |fold| {
            fitting::fit(self, self.settings.score, &|problem| {
                self.fold(problem) != fold
            })
        };
        let given = self.settings.fitted.as_ref();
        let folds = 0..self.settings.folds.max(2);
        folds
            .map(|fold| given.cloned().or_else(|| fit_without(fold)))
            .collect()
    }

    /// Rows of each group, in the order of the problems, with the group's problem.
    fn groups(&self) -> Vec<(usize, Vec<usize>)> {
        let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (index, row) in self.rows.iter().enumerate() {
            let generator = if self.settings.group_by == GroupBy::Generator {
                row.generator
            } else {
                0
            };
            groups
                .entry((row.problem, generator))
                .or_default()
                .push(index);
        }
        groups
            .into_iter()
            .map(|((problem, _), rows)| (problem, rows))
            .collect()
    }

    fn candidate(&self, row: usize) -> Candidate {
        let row = &self.rows[row];
        Candidate {
            correct: row.correct,
            answer: row.answer,
            score: row.score(self.score()),
            logprob: row.score(self.settings.logprob),
            length: row.score(TraceScore::Length).unwrap_or(0.0),
        }
    }

    fn add_policy(&self, generator: usize, result: &mut Evaluation) {
        let mut of_problem: BTreeMap<usize, Vec<&Row>> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.generator == generator) {
            of_problem.entry(row.problem).or_default().push(row);
        }
        let prefix = format!("policy.{}", self.generator_segment(generator));
        let right: [(&str, Verdict); 2] = [
            ("pass_at_k", &|row| row.correct),
            ("pass_at_k_strict", &|row| row.correct && row.marked),
        ];
        for (name, right) in right {
            for &k in &self.settings.pass_ks {
                let count = |rows: &[&Row]| rows.iter().filter(|row| right(row)).count();
                let values = of_problem.iter().filter_map(|(&problem, rows)| {
                    Some((problem, pass_at_k(rows.len(), count(rows), k)?))
                });
                self.add_mean(&format!("{prefix}.{name}.{k}"), values.collect(), result);
            }
        }
        let share = |rows: &[&Row], of: &dyn Fn(&Row) -> f64| {
            mean(&rows.iter().map(|row| of(row)).collect::<Vec<_>>()).unwrap_or(0.0)
        };
        let measures: [(&str, Measure); 3] = [
            ("answered", &|row| f64::from(u8::from(row.answer.is_some()))),
            ("truncated", &|row| f64::from(u8::from(row.truncated))),
            ("length", &|row| {
                row.score(TraceScore::Length).unwrap_or(0.0)
            }),
        ];
        for (name, of) in measures {
            let values = of_problem
                .iter()
                .map(|(&problem, rows)| (problem, share(rows, of)));
            self.add_mean(&format!("{prefix}.{name}"), values.collect(), result);
        }
    }

    /// Adds the mean of one value a problem to the summary, and the values to `per_problem`.
    fn add_mean(
        &self,
        name: &str,
        values: Vec<(usize, f64)>,
        result: &mut Evaluation,
    ) -> Option<Estimate> {
        let numbers: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
        let estimate = self.resampler.mean(&numbers)?;
        result.summary.insert(name, estimate);
        let named = values
            .into_iter()
            .map(|(problem, value)| (self.problems[problem].id.clone(), value));
        result.per_problem.insert(name.to_owned(), named.collect());
        Some(estimate)
    }

    fn problem(&mut self, id: &str) -> usize {
        if let Some(&known) = self.problem_index.get(id) {
            return known;
        }
        self.problems.push(ProblemAnswers {
            id: id.to_owned(),
            classes: AnswerClasses::default(),
        });
        self.problem_index
            .insert(id.to_owned(), self.problems.len() - 1);
        self.problems.len() - 1
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

impl Evaluation {
    /// Paired bootstrap of this evaluation minus another in one entry, over the problems both have.
    ///
    /// `None` if they share no problem in that entry, or it has no values a problem.
    pub fn difference(
        &self,
        other: &Self,
        entry: &str,
        settings: &BootstrapSettings,
    ) -> Option<Estimate> {
        let (own, others) = (self.per_problem.get(entry)?, other.per_problem.get(entry)?);
        let shared = own
            .iter()
            .filter_map(|(id, value)| Some((*value, *others.get(id)?)));
        let (a, b): (Vec<f64>, Vec<f64>) = shared.unzip();
        paired_difference(&a, &b, settings)
    }
}

impl Row {
    fn score(&self, score: TraceScore) -> Option<f64> {
        self.scores[score as usize]
    }
}

#[cfg(test)]
mod tests;
