//! The choice of a selector among the traces of each problem.

use std::collections::HashMap;

use assay_tasks::answers::AnswerClasses;
use assay_tasks::trace::ScoredTrace;

use super::selector::{Candidate, Selector, SelectorConstants};
use crate::evaluation::{EvalSettings, GroupBy};
use crate::scores::TraceScore;

/// A selector's choice among the traces of one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The problem's identifier.
    pub id: String,
    /// Indices of the problem's traces, ascending.
    pub traces: Vec<usize>,
    /// The probability of each of them; empty if all lack the selector's data.
    pub probabilities: Vec<f64>,
    /// Index of the chosen trace; `None` if all lack the selector's data.
    pub chosen: Option<usize>,
}

/// Index of the most probable candidate; at a tie the one with the highest score, then the first.
pub fn likeliest(distribution: &[f64], candidates: &[Candidate]) -> Option<usize> {
    let score = |place: usize| candidates[place].score.unwrap_or(f64::NEG_INFINITY);
    let places = (0..distribution.len()).filter(|&place| distribution[place] > 0.0);
    places.reduce(|best, next| {
        let (p, q) = (distribution[best], distribution[next]);
        let better = q > p + 1e-12 || ((q - p).abs() <= 1e-12 && score(next) > score(best));
        if better { next } else { best }
    })
}

/// Chooses among the traces of each group, in the order in which the groups begin.
///
/// The trace score, the groups and the fitted constants are those of the settings. A trace of
/// unknown correctness counts as wrong; only [`Selector::Oracle`] uses correctness.
pub fn choose_among(
    traces: &[ScoredTrace],
    selector: Selector,
    settings: &EvalSettings,
) -> Vec<Choice> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<(&str, &str), usize> = HashMap::new();
    for (place, trace) in traces.iter().enumerate() {
        let generator = match settings.group_by {
            GroupBy::Generator => trace.generator.as_str(),
            GroupBy::Problem => "",
        };
        let group = *known.entry((&trace.id, generator)).or_insert(groups.len());
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(place);
    }
    let chosen = groups.into_iter().map(|places| {
        let members: Vec<&ScoredTrace> = places.iter().map(|&place| &traces[place]).collect();
        choice(&members, places, selector, settings)
    });
    chosen.collect()
}

fn choice(
    members: &[&ScoredTrace],
    places: Vec<usize>,
    selector: Selector,
    settings: &EvalSettings,
) -> Choice {
    let candidates = candidates(members, settings);
    let fitted = settings.fitted.as_ref();
    let constants = fitted.map_or_else(SelectorConstants::default, |fitted| fitted.selectors);
    let distribution = selector.distribution(&candidates, &constants);
    let probabilities = distribution.unwrap_or_default();
    let chosen = likeliest(&probabilities, &candidates);
    Choice {
        id: members.first().map_or_else(String::new, |t| t.id.clone()),
        chosen: chosen.map(|place| places[place]),
        traces: places,
        probabilities,
    }
}

/// The data of each trace that selectors use.
fn candidates(traces: &[&ScoredTrace], settings: &EvalSettings) -> Vec<Candidate> {
    let mut classes = AnswerClasses::default();
    let fitted = settings.fitted.as_ref();
    let score = fitted.map_or(settings.score, |fitted| fitted.score);
    let candidate = |trace: &&ScoredTrace| {
        let answer = trace.predicted_answer.as_deref();
        Candidate {
            correct: trace.correct.unwrap_or(false),
            answer: answer.map(|answer| classes.class(answer)),
            score: score.of(trace, &settings.scores),
            logprob: settings.logprob.of(trace, &settings.scores),
            length: TraceScore::Length
                .of(trace, &settings.scores)
                .unwrap_or(0.0),
        }
    };
    traces.iter().map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(id: &str, generator: &str, answer: &str, reward: f32) -> ScoredTrace {
        ScoredTrace {
            id: id.into(),
            generator: generator.into(),
            predicted_answer: Some(answer.into()),
            text: "a".into(),
            token_ids: vec![0],
            token_offsets: vec![(0, 1)],
            token_rewards: vec![Some(reward)],
            ..ScoredTrace::default()
        }
    }

    #[test]
    fn each_problem_gets_a_choice() {
        let traces = [
            trace("p", "a", "5", 1.0),
            trace("q", "a", "1", 0.0),
            trace("p", "a", "7", 3.0),
            trace("p", "a", "5.0", 2.0),
            trace("p", "b", "9", 9.0),
        ];
        let settings = EvalSettings::default();
        let best = choose_among(&traces, Selector::BestOfN, &settings);
        let chosen: Vec<_> = best.iter().map(|choice| choice.chosen).collect();
        assert_eq!(chosen, [Some(2), Some(1), Some(4)]);
        assert_eq!(best[0].traces, [0, 2, 3]);
        // 5 and 5.0 are one answer; of its traces the one with the higher score is chosen.
        let vote = choose_among(&traces, Selector::Majority, &settings);
        assert_eq!((vote[0].chosen, vote[0].id.as_str()), (Some(3), "p"));
        assert_eq!(vote[0].probabilities, [0.5, 0.0, 0.5]);
        let among_all = EvalSettings {
            group_by: GroupBy::Problem,
            ..settings
        };
        let best = choose_among(&traces, Selector::BestOfN, &among_all);
        assert_eq!(best[0].chosen, Some(4));
    }

    #[test]
    fn traces_without_rewards_give_no_choice() {
        let mut bare = trace("p", "a", "5", 1.0);
        bare.token_rewards.clear();
        let chosen = choose_among(&[bare], Selector::BestOfN, &EvalSettings::default());
        assert_eq!((chosen[0].chosen, chosen[0].probabilities.len()), (None, 0));
    }

    #[test]
    fn an_elected_class_answers_with_its_best_trace() {
        let candidate = |score| Candidate {
            score,
            ..Candidate::default()
        };
        let candidates = [Some(0.5), Some(9.0), Some(2.0), None].map(candidate);
        assert_eq!(likeliest(&[0.5, 0.0, 0.5, 0.0], &candidates), Some(2));
        assert_eq!(likeliest(&[0.4, 0.6, 0.0, 0.0], &candidates), Some(1));
        assert_eq!(likeliest(&[0.25; 4], &candidates), Some(1));
        assert_eq!(likeliest(&[0.0; 4], &candidates), None);
    }
}
