//! From a stream of traces to the `policy.*`, `select.*` and `critic.*` entries of `summary.json`.
//!
//! Traces are taken one at a time and only scalars of each are kept. Scores are computed from the record itself, so a
//! score cannot belong to another trace. Constants that need fitting (vote temperature, combination weight,
//! calibration) come from validation traces, or by cross-fitting over problems: what judges a problem was fitted on
//! other problems.

mod critic;
mod selecting;

use std::collections::{BTreeMap, HashMap};

use assay_tasks::answers;
use assay_tasks::random::text_key;
use assay_tasks::trace::{FinishReason, ScoredTrace};
use serde::{Deserialize, Serialize};

use crate::classification::{Calibration, ReliabilityBin};
use crate::error::EvalError;
use crate::pass_at_k::pass_at_k;
use crate::scores::{ScoreSettings, TraceScore};
use crate::selection::{Candidate, SelectorConstants};
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

/// What is fitted on validation traces.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// The trace score with the highest AUROC (within problem if defined, else pooled).
    pub score: TraceScore,
    /// Constants of the selectors.
    pub selectors: SelectorConstants,
    /// Temperature and bias of the score.
    pub calibration: Calibration,
}

/// Accuracy of a selector as the number of traces grows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelectionCurve {
    /// The selector's name.
    pub selector: String,
    /// N and the accuracy at N.
    pub points: Vec<(usize, Estimate)>,
}

/// Counts of trace scores over equal-width bins.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ScoreHistogram {
    /// Lower edge of the first bin.
    pub low: f64,
    /// Upper edge of the last bin.
    pub high: f64,
    /// Correct traces a bin.
    pub correct: Vec<usize>,
    /// Wrong traces a bin.
    pub wrong: Vec<usize>,
}

/// All results over one set of traces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The entries of `summary.json`.
    pub summary: Summary,
    /// Accuracy against N.
    pub curves: Vec<SelectionCurve>,
    /// Reliability of the calibrated score.
    pub reliability: Vec<ReliabilityBin>,
    /// Reliability of the score itself taken as a logit.
    pub reliability_raw: Vec<ReliabilityBin>,
    /// Scores of correct and of wrong traces.
    pub histogram: ScoreHistogram,
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
    /// By [`TraceScore::ALL`].
    scores: [Option<f64>; TraceScore::ALL.len()],
}

/// A number read off one trace.
type Measure = &'static dyn Fn(&Row) -> f64;

/// A problem and the distinct answers given to it.
#[derive(Clone, Debug)]
struct ProblemAnswers {
    id: String,
    answers: Vec<String>,
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
            unjudged: 0,
        }
    }

    /// Takes one trace. Traces of excluded generators and traces of unknown correctness only count as unjudged.
    ///
    /// # Errors
    /// [`EvalError::Misaligned`] if a token array has another length than the tokens; [`EvalError::NonFinite`] if a
    /// score is NaN or infinite.
    pub fn push(&mut self, trace: &ScoredTrace) -> Result<(), EvalError> {
        check_alignment(trace)?;
        if self.settings.excluded_generators.contains(&trace.generator) {
            return Ok(());
        }
        let Some(correct) = correctness(trace) else {
            self.unjudged += 1;
            return Ok(());
        };
        let mut scores = [None; TraceScore::ALL.len()];
        for (slot, score) in scores.iter_mut().zip(TraceScore::ALL) {
            *slot = score.of(trace, &self.settings.scores);
            if slot.is_some_and(|value| !value.is_finite()) {
                return Err(EvalError::NonFinite {
                    what: format!("the score `{}`", score.name()),
                    id: trace.id.clone(),
                    generator: trace.generator.clone(),
                });
            }
        }
        let problem = self.problem(&trace.id);
        let answer = trace
            .predicted_answer
            .as_deref()
            .map(|answer| self.problems[problem].class(answer));
        let generator = self.generator(&trace.generator);
        let truncated = trace.finish_reason == Some(FinishReason::Length);
        self.rows.push(Row {
            problem,
            generator,
            correct,
            answer,
            truncated,
            scores,
        });
        Ok(())
    }

    /// Fits on everything seen so far: chooses the trace score, then the constants for it.
    ///
    /// `None` if nothing seen has both a score of rewards and both classes.
    pub fn fit(&self) -> Option<Fitted> {
        let score = critic::best_score(self)?;
        critic::fit(self, score, &|_| true)
    }

    /// Computes everything.
    pub fn finish(self) -> Evaluation {
        let mut result = Evaluation {
            traces: self.rows.len(),
            problems: self.problems.len(),
            unjudged: self.unjudged,
            ..Evaluation::default()
        };
        let folds = self.fitted_folds();
        for generator in 0..self.generators.len() {
            self.add_policy(generator, &mut result);
        }
        selecting::add(&self, &folds, &mut result);
        critic::add(&self, &folds, &mut result);
        result
    }

    /// The score in use: the one chosen on validation, else the configured one.
    fn score(&self) -> TraceScore {
        self.settings
            .fitted
            .map_or(self.settings.score, |fitted| fitted.score)
    }

    /// Fold of a problem: by its identifier, not by its place in the file.
    fn fold(&self, problem: usize) -> usize {
        (text_key(&self.problems[problem].id) % self.settings.folds.max(2) as u64) as usize
    }

    /// What judges the problems of each fold.
    fn fitted_folds(&self) -> Vec<Option<Fitted>> {
        let fit_without = |fold| {
            critic::fit(self, self.settings.score, &|problem| {
                self.fold(problem) != fold
            })
        };
        let folds = 0..self.settings.folds.max(2);
        folds
            .map(|fold| self.settings.fitted.or_else(|| fit_without(fold)))
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
        let prefix = format!("policy.{}", segment(&self.generators[generator]));
        for &k in &self.settings.pass_ks {
            let value = |rows: &[&Row]| {
                pass_at_k(rows.len(), rows.iter().filter(|row| row.correct).count(), k)
            };
            let values = of_problem
                .iter()
                .filter_map(|(&problem, rows)| Some((problem, value(rows)?)));
            self.add_mean(&format!("{prefix}.pass_at_k.{k}"), values.collect(), result);
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
            answers: Vec::new(),
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

impl ProblemAnswers {
    /// Class of an answer: answers that count as equal share one.
    fn class(&mut self, answer: &str) -> u32 {
        let known = self
            .answers
            .iter()
            .position(|known| known == answer || answers::same_answer(known, answer));
        let class = known.unwrap_or_else(|| {
            self.answers.push(answer.to_owned());
            self.answers.len() - 1
        });
        class as u32
    }
}

/// Recorded correctness, else the predicted answer against the gold one; no predicted answer is a wrong one.
fn correctness(trace: &ScoredTrace) -> Option<bool> {
    trace.correct.or_else(|| {
        let gold = trace.answer.as_deref()?;
        Some(
            trace
                .predicted_answer
                .as_deref()
                .is_some_and(|predicted| answers::same_answer(predicted, gold)),
        )
    })
}

fn check_alignment(trace: &ScoredTrace) -> Result<(), EvalError> {
    let expected = trace.token_ids.len().max(trace.token_offsets.len());
    let lengths = [
        ("token_ids", Some(trace.token_ids.len())),
        ("token_offsets", Some(trace.token_offsets.len())),
        ("token_rewards", Some(trace.token_rewards.len())),
        (
            "policy_logprobs",
            trace.policy_logprobs.as_ref().map(Vec::len),
        ),
        (
            "sampling_logprobs",
            trace.sampling_logprobs.as_ref().map(Vec::len),
        ),
        ("entropies", trace.entropies.as_ref().map(Vec::len)),
    ];
    for (field, found) in lengths {
        let found = found.unwrap_or(expected);
        if found != expected && !(field.starts_with("token") && found == 0) {
            return Err(EvalError::Misaligned {
                id: trace.id.clone(),
                field,
                expected,
                found,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use assay_tasks::random::Stream;

    use super::*;

    fn trace(problem: usize, correct: bool, score: f32, stream: &mut Stream) -> ScoredTrace {
        let length = 5 + stream.below(10);
        ScoredTrace {
            id: format!("p{problem}"),
            generator: "base".into(),
            text: "x".repeat(length),
            token_ids: vec![1; length],
            token_offsets: (0..length).map(|i| (i, i + 1)).collect(),
            token_rewards: vec![Some(score); length],
            policy_logprobs: Some(vec![-0.5; length]),
            predicted_answer: Some(if correct {
                "1".into()
            } else {
                format!("{}", 2 + stream.below(3))
            }),
            correct: Some(correct),
            ..ScoredTrace::default()
        }
    }

    /// `problems` x 16 traces whose score is the logit of being correct, plus the problem's own offset.
    fn traces(problems: usize, between: f32) -> Vec<ScoredTrace> {
        let mut all = Vec::new();
        for problem in 0..problems {
            let mut stream = Stream::new(7, &[problem as u64]);
            let offset = between * stream.normal_f32();
            for _ in 0..16 {
                let score = stream.normal_f32();
                let correct = f64::from(stream.uniform_f32())
                    < crate::scores::sigmoid(f64::from(score * 2.0 + offset));
                all.push(trace(problem, correct, score * 2.0 + offset, &mut stream));
            }
        }
        all
    }

    fn quick() -> EvalSettings {
        let bootstrap = BootstrapSettings {
            resamples: 200,
            ..BootstrapSettings::default()
        };
        EvalSettings {
            bootstrap,
            ..EvalSettings::default()
        }
    }

    #[test]
    fn entries_are_there_and_agree_with_each_other() {
        let result = evaluate(traces(120, 1.0), &quick()).unwrap();
        let value = |name: &str| {
            result
                .summary
                .get(name)
                .unwrap_or_else(|| panic!("{name}"))
                .value
        };
        assert_eq!((result.traces, result.problems), (1920, 120));
        // random at 16 of 16 samples is pass@1
        assert!((value("select.random.at_16") - value("policy.base.pass_at_k.1")).abs() < 1e-12);
        for n in [2, 4, 8, 16] {
            let at = |selector: &str| value(&format!("select.{selector}.at_{n}"));
            assert!(at("oracle") >= at("best_of_n") && at("best_of_n") > at("random") + 0.1);
            assert!(
                (at("best_of_n") - at("random") - value(&format!("select_gain.best_of_n.at_{n}")))
                    .abs()
                    < 1e-12
            );
        }
        assert!(value("critic.auroc") > value("critic.auroc_within"));
        // The score is the true logit: calibrated as it stands.
        assert!(value("critic.ece_raw") < 0.05 && value("critic.ece") < 0.05);
        assert!(value("critic.spearman") > 0.4 && value("critic.length_spearman").abs() < 0.1);
        assert!(value("critic.partial_spearman") > 0.4 && value("critic.welch_p") < 1e-6);
        assert!((value("critic.by_score.min.auroc") - value("critic.auroc")).abs() < 1e-9);
        assert_eq!(value("success_at_k.1"), value("select.best_of_n.at_16"));
        assert_eq!(
            result
                .curves
                .iter()
                .find(|curve| curve.selector == "majority")
                .unwrap()
                .points
                .len(),
            4
        );
        let counted: usize = result
            .histogram
            .correct
            .iter()
            .chain(&result.histogram.wrong)
            .sum();
        assert_eq!(counted, 1920);
    }

    #[test]
    fn intervals_hold_the_value_and_everything_round_trips() {
        let result = evaluate(traces(40, 0.5), &quick()).unwrap();
        for (name, estimate) in result.summary.iter() {
            assert!(
                estimate.low <= estimate.value + 1e-9 && estimate.value <= estimate.high + 1e-9,
                "{name} {estimate:?}"
            );
        }
        let read = Summary::from_value(&result.summary.to_value().unwrap()).unwrap();
        assert_eq!(read, result.summary);
    }

    #[test]
    fn fault_16_scores_follow_their_trace_in_any_order() {
        let mut all = traces(30, 1.0);
        let forward = evaluate(all.clone(), &quick()).unwrap();
        // Problems in reverse, each problem's own order kept: nothing but rounding may change.
        all.sort_by(|a, b| b.id.cmp(&a.id));
        let backward = evaluate(all, &quick()).unwrap();
        for (name, estimate) in forward.summary.iter() {
            let other = backward.summary.get(name).unwrap();
            assert!(
                (estimate.value - other.value).abs() < 1e-9,
                "{name}: {estimate:?} {other:?}"
            );
        }
        assert_eq!(forward.per_problem, backward.per_problem);
    }

    #[test]
    fn fault_16_arrays_of_another_length_are_refused() {
        let mut bad = traces(1, 1.0).remove(0);
        bad.token_rewards.pop();
        let message = evaluate([bad.clone()], &quick()).unwrap_err().to_string();
        assert!(
            message.contains("`p0`") && message.contains("token_rewards"),
            "{message}"
        );
        bad.token_rewards.push(Some(f32::NAN));
        let message = evaluate([bad], &quick()).unwrap_err().to_string();
        assert!(message.contains("not finite"), "{message}");
    }

    #[test]
    fn small_and_empty_inputs_are_defined() {
        assert!(evaluate([], &quick()).unwrap().summary.is_empty());
        let one = traces(1, 1.0).remove(0);
        let result = evaluate([one.clone()], &quick()).unwrap();
        assert_eq!(result.summary.get("critic.auroc"), None);
        assert_eq!(result.summary.get("select.random.at_2"), None);
        let mut unknown = one.clone();
        (unknown.correct, unknown.answer) = (None, None);
        let mut demonstration = one;
        demonstration.generator = "demonstration".into();
        let result = evaluate([unknown, demonstration], &quick()).unwrap();
        assert_eq!((result.traces, result.unjudged), (0, 1));
    }

    #[test]
    fn fitting_on_validation_chooses_and_calibrates() {
        let mut all = traces(60, 0.0);
        // Only the last token tells; the others are noise of the wrong sign.
        for trace in &mut all {
            let last = trace.token_rewards.len() - 1;
            let reward = trace.token_rewards[last].unwrap();
            trace
                .token_rewards
                .iter_mut()
                .for_each(|r| *r = Some(-reward));
            trace.token_rewards[last] = Some(reward * 3.0);
        }
        let mut evaluator = Evaluator::new(quick());
        for trace in &all {
            evaluator.push(trace).unwrap();
        }
        let fitted = evaluator.fit().unwrap();
        assert_eq!(fitted.score, TraceScore::Last);
        assert!(
            (fitted.calibration.scale - 1.0 / 3.0).abs() < 0.08,
            "{fitted:?}"
        );
        let settings = EvalSettings {
            fitted: Some(fitted),
            ..quick()
        };
        let result = evaluate(all, &settings).unwrap();
        assert!(
            result.summary.get("critic.ece").unwrap().value
                < result.summary.get("critic.ece_raw").unwrap().value
        );
        assert!(result.summary.get("critic.auroc").unwrap().value > 0.7);
    }

    #[test]
    fn systems_are_compared_over_shared_problems() {
        let base = evaluate(traces(50, 0.0), &quick()).unwrap();
        let entry = "select.best_of_n.at_8";
        let same = base.difference(&base, entry, &quick().bootstrap).unwrap();
        assert_eq!(
            (same.value, same.low, same.high, same.n),
            (0.0, 0.0, 0.0, 50)
        );
        let other = evaluate(traces(20, 0.0), &quick()).unwrap();
        assert_eq!(
            base.difference(&other, entry, &quick().bootstrap)
                .unwrap()
                .n,
            20
        );
        assert_eq!(base.difference(&other, "absent", &quick().bootstrap), None);
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(serde_json::from_str::<EvalSettings>(r#"{"scor": "mean"}"#).is_err());
        let settings: EvalSettings = serde_json::from_str(r#"{"score": "soft_min"}"#).unwrap();
        assert_eq!((settings.score, settings.folds), (TraceScore::SoftMin, 2));
    }

    #[test]
    #[ignore = "timing; run alone with --ignored --nocapture"]
    fn hundred_thousand_traces() {
        let mut stream = Stream::new(1, &[]);
        let rewards: Vec<f32> = (0..1 << 16).map(|_| stream.normal_f32()).collect();
        let mut evaluator = Evaluator::new(EvalSettings::default());
        let mut pushing = std::time::Duration::ZERO;
        for index in 0..100_000 {
            let mut trace = trace(index / 16, stream.uniform_f32() < 0.4, 0.0, &mut stream);
            let from = stream.below(rewards.len() - 300);
            trace.text = "y".repeat(300);
            trace.token_ids = vec![1; 300];
            trace.token_offsets = (0..300).map(|i| (i, i + 1)).collect();
            trace.token_rewards = rewards[from..from + 300]
                .iter()
                .copied()
                .map(Some)
                .collect();
            trace.policy_logprobs = Some(rewards[from..from + 300].to_vec());
            let start = std::time::Instant::now();
            evaluator.push(&trace).unwrap();
            pushing += start.elapsed();
        }
        let start = std::time::Instant::now();
        let result = evaluator.finish();
        println!("push {pushing:?}, finish {:?}", start.elapsed());
        assert_eq!(result.traces, 100_000);
    }
}
