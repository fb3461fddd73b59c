//! `assay localise --labels`: measures how often the reward finds the tokens that people marked,
//! and how far people agree with each other.

use std::path::Path;

use anyhow::{Result, ensure};
use assay_critic::{Critic, ScoringPolicy};
use assay_evals::localisation::{LocalisationCase, Predictor, localise};
use assay_evals::statistics::{BootstrapSettings, Estimate};
use assay_evals::{Judgement, Summary, agreement};
use assay_tasks::labels::{AgreedTrace, FirstError, Label, read_labels};
use assay_tasks::trace::ScoredTrace;

use super::opened;
use crate::args::LocaliseArgs;
use crate::progress::{Progress, message};

/// Name of the kind of errors that people marked.
const KIND: &str = "marked";

/// A trace with the labels of its annotators.
struct Marked<'l> {
    labels: &'l [Label],
    /// The trace in the reward's tokens; without tokens if it is too long.
    scored: ScoredTrace,
}

/// Numbers of traces by the judgement of their annotators, and of those left out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    wrong: usize,
    right: usize,
    undecided: usize,
    moved: usize,
    too_long: usize,
}

/// Scores the labelled traces of a file and compares the reward with the labels.
pub(super) fn marked(args: &LocaliseArgs, path: &Path) -> Result<Summary> {
    let labels = read_labels(path)?;
    for note in labels.notes() {
        message(&note)?;
    }
    let limit = args.limit.unwrap_or(usize::MAX);
    let groups: Vec<&[Label]> = labels.traces().take(limit).collect();
    ensure!(
        !groups.is_empty(),
        "{} holds no label that can be used",
        path.display()
    );
    let traces = scored(args, &groups)?;
    let mut counts = Counts::default();
    let cases = traces.iter().filter_map(|trace| counts.case(trace));
    let cases: Vec<LocalisationCase<'_>> = cases.collect();
    let settings = BootstrapSettings::default();
    let result = localise(cases);
    let mut summary = result.summary(Predictor::LargestDrop, None, &settings);
    let judgements: Vec<Judgement<'_>> = traces
        .iter()
        .flat_map(|marked| marked.judgements())
        .collect();
    summary.extend(agreement(&judgements, &settings));
    counts.add_to(&mut summary);
    message(&counts.said(result.skipped))?;
    Ok(summary)
}

fn scored<'l>(args: &LocaliseArgs, groups: &[&'l [Label]]) -> Result<Vec<Marked<'l>>> {
    let (model, reward) = opened(args)?;
    let critic = Critic::new(&reward, &model, args.token_budget);
    let policy = ScoringPolicy {
        transformer: &model.transformer,
        adapter: None,
    };
    let trace = |label: &Label| ScoredTrace {
        id: label.question.trim().to_owned(),
        question: label.question.clone(),
        text: label.text.clone(),
        ..ScoredTrace::default()
    };
    let mut traces: Vec<ScoredTrace> = groups.iter().map(|own| trace(&own[0])).collect();
    let total = traces.len();
    let mut progress = Progress::new("localise", total);
    critic.score_watched(&mut traces, Some(policy), |done| {
        progress.set(done, total, "")
    })?;
    progress.finish();
    let pairs = groups.iter().zip(traces);
    let marked = pairs.map(|(&labels, scored)| Marked { labels, scored });
    Ok(marked.collect())
}

impl Marked<'_> {
    fn is_scored(&self) -> bool {
        self.scored.token_rewards.iter().any(Option::is_some)
    }

    /// Whether the marked text occurs in the scored text, which is rendered in the reward's style.
    fn holds(&self, error: &FirstError) -> bool {
        let text = &self.labels[0].text;
        self.is_scored() && error.stands_in(text, &self.scored.text)
    }

    /// Index of the marked token among the reward's tokens.
    fn token(&self, error: &FirstError) -> usize {
        let offsets = &self.scored.token_offsets;
        let found = offsets.iter().position(|&(_, end)| end > error.start);
        found.unwrap_or(offsets.len().saturating_sub(1))
    }

    /// The judgement of each annotator, in the reward's tokens. Marks outside of the scored text
    /// are left out.
    fn judgements(&self) -> impl Iterator<Item = Judgement<'_>> {
        let usable = move |label: &&Label| match &label.first_error {
            Some(error) => self.holds(error),
            None => self.is_scored(),
        };
        self.labels
            .iter()
            .filter(usable)
            .map(move |label| Judgement {
                problem: &self.scored.id,
                trace: &label.trace,
                annotator: &label.annotator,
                first_error: label.first_error.as_ref().map(|error| self.token(error)),
            })
    }
}

impl Counts {
    /// Counts a trace. Returns its localisation case if most annotators mark an error.
    fn case<'m>(&mut self, marked: &'m Marked<'_>) -> Option<LocalisationCase<'m>> {
        let Some(agreed) = AgreedTrace::of(marked.labels) else {
            self.undecided += 1;
            return None;
        };
        let Some(error) = agreed.first_error else {
            self.right += 1;
            return None;
        };
        self.wrong += 1;
        if !marked.holds(&error) {
            let left_out = match marked.is_scored() {
                true => &mut self.moved,
                false => &mut self.too_long,
            };
            *left_out += 1;
            return None;
        }
        let scored = &marked.scored;
        Some(LocalisationCase {
            id: &scored.id,
            kind: KIND,
            text: &scored.text,
            token_offsets: &scored.token_offsets,
            token_rewards: &scored.token_rewards,
            reference_rewards: None,
            logprobs: scored.policy_logprobs.as_deref(),
            entropies: scored.entropies.as_deref(),
            error_start: error.start,
            error_end: error.end,
        })
    }

    fn add_to(&self, summary: &mut Summary) {
        for (name, count) in [
            ("labels.wrong", self.wrong),
            ("labels.right", self.right),
            ("labels.undecided", self.undecided),
        ] {
            summary.insert(name, Estimate::exact(count as f64));
        }
    }

    /// The counts as a message. `at_end` traces are marked after their last token.
    fn said(&self, at_end: usize) -> String {
        let Self {
            wrong,
            right,
            undecided,
            moved,
            too_long,
        } = self;
        format!(
            "{wrong} labelled traces with an error, {right} without one, {undecided} undecided; of those with one left out: \
             {moved} whose text changes before the mark when it is rendered in the reward's style, {too_long} too long, \
             {at_end} marked at their end"
        )
    }
}
