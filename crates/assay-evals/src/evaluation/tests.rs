//! Tests of the evaluation over synthetic traces with a known relation of score and correctness.

use assay_tasks::random::Stream;
use assay_tasks::trace::ScoredTrace;

use super::*;
use crate::scores::TraceScore;
use crate::statistics::BootstrapSettings;
use crate::summary::Summary;

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
    // The score is the true logit, so it is calibrated without a fit.
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
    let classes = &result.histogram.classes;
    let counted: usize = classes.iter().flat_map(|class| &class.counts).sum();
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
fn fault_16_scores_follow_their_trace() {
    let mut all = traces(30, 1.0);
    let forward = evaluate(all.clone(), &quick()).unwrap();
    // The order of problems is reversed, the order within a problem kept: only rounding may change.
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
    assert_eq!((result.traces, result.unlabelled), (0, 1));
}

#[test]
fn fitting_on_validation_chooses_and_calibrates() {
    let mut all = traces(60, 0.0);
    // Only the last token is informative; the others have the wrong sign.
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
    assert!((fitted.platt.scale - 1.0 / 3.0).abs() < 0.08, "{fitted:?}");
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
fn stopping_when_decided_loses_nothing_and_saves_tokens() {
    let result = evaluate(traces(60, 1.0), &quick()).unwrap();
    let value = |name: &str| result.summary.get(name).unwrap().value;
    assert!(value("budget.decided.accuracy_lost").abs() < 1e-12);
    assert!((value("budget.decided.accuracy") - value("select.majority.at_16")).abs() < 1e-12);
    let (decided, confident) = (
        value("budget.decided.tokens_saved"),
        value("budget.confident.tokens_saved"),
    );
    assert!(
        decided > 0.05 && confident > decided,
        "{decided} {confident}"
    );
    assert!(value("budget.confident.samples") < value("budget.decided.samples"));
}

#[test]
fn the_correlation_map_is_symmetric() {
    let result = evaluate(traces(60, 1.0), &quick()).unwrap();
    let map = &result.correlations;
    let place = |name: &str| map.names.iter().position(|n| *n == name).unwrap();
    let rho = map.rho[place("correct")][place("mean")].unwrap();
    let spearman = result.summary.get("critic.spearman").unwrap().value;
    assert!((rho - spearman).abs() < 1e-9, "{rho} {spearman}");
    // No trace is truncated and every trace is answered, so these constant variables are left out.
    assert!(!map.names.contains(&"truncated") && !map.names.contains(&"answered"));
    for (i, row) in map.rho.iter().enumerate() {
        assert!((row[i].unwrap() - 1.0).abs() < 1e-12);
        assert!(
            row.iter()
                .zip(&map.rho)
                .all(|(a, other)| (a.unwrap() - other[i].unwrap()).abs() < 1e-12)
        );
    }
}

#[test]
fn formats_have_their_own_histogram() {
    let mut all = traces(4, 1.0);
    all[0].finish_reason = Some(assay_tasks::trace::FinishReason::Length);
    all[1].predicted_answer = None;
    let result = evaluate(all, &quick()).unwrap();
    let counts: Vec<(&str, usize)> = result
        .histogram_by_format
        .classes
        .iter()
        .map(|class| (class.name, class.counts.iter().sum()))
        .collect();
    assert_eq!(
        counts,
        [("answered", 62), ("no answer", 1), ("truncated", 1)]
    );
}

#[test]
fn a_calibration_is_fitted_on_what_was_seen() {
    let mut evaluator = Evaluator::new(quick());
    for trace in &traces(80, 0.0) {
        evaluator.push(trace).unwrap();
    }
    let calibration = evaluator.calibrate("validation.jsonl").unwrap();
    assert_eq!((calibration.traces, calibration.problems), (1280, 80));
    assert_eq!(calibration.data, "validation.jsonl");
    // The score is the true logit.
    let p = calibration.fitted.platt.probability(1.0);
    assert!((p - crate::scores::sigmoid(1.0)).abs() < 0.05, "{p}");
    let error = calibration.error.unwrap();
    assert!(
        error.ece_platt < 0.06 && error.ece_isotonic < 0.08,
        "{error:?}"
    );
    let trace = &traces(1, 0.0)[0];
    let score = calibration.score().of(trace, &calibration.scores);
    assert_eq!(
        calibration.probability(trace),
        score.map(|score| calibration.probability_of(score))
    );
    let empty = Evaluator::new(quick());
    assert_eq!(empty.calibrate("none"), None);
}

#[test]
fn duplicated_traces_change_no_value() {
    let all = traces(20, 1.0);
    let once = evaluate(all.clone(), &quick()).unwrap();
    // Every problem a second time under another name.
    let mut twice = all.clone();
    twice.extend(all.into_iter().map(|mut trace| {
        trace.id.push('b');
        trace
    }));
    let twice = evaluate(twice, &quick()).unwrap();
    for name in [
        "critic.auroc",
        "critic.auroc_within",
        "critic.spearman",
        "select.majority.at_16",
    ] {
        let (a, b) = (
            once.summary.get(name).unwrap(),
            twice.summary.get(name).unwrap(),
        );
        assert!((a.value - b.value).abs() < 1e-12, "{name}");
        assert!(b.high - b.low < a.high - a.low + 1e-12, "{name}");
    }
}

#[test]
fn a_last_number_is_no_strict_answer() {
    let trace = |text: &str, correct| ScoredTrace {
        id: "p".to_owned(),
        generator: "g".to_owned(),
        text: text.to_owned(),
        predicted_answer: Some("4".to_owned()),
        correct: Some(correct),
        ..ScoredTrace::default()
    };
    let traces = [
        trace("2 + 2 is\n#### 4", true),
        trace("so it is 4", true),
        trace("<answer>4</answer>", false),
        trace("\\boxed{4}", true),
    ];
    let result = evaluate(traces, &quick()).unwrap();
    let value = |name: &str| result.summary.get(name).unwrap().value;
    assert_eq!(value("policy.g.pass_at_k.1"), 0.75);
    assert_eq!(value("policy.g.pass_at_k_strict.1"), 0.5);
}

#[test]
fn similar_generator_names_are_distinguished() {
    let trace = |generator: &str, correct| ScoredTrace {
        id: "p".to_owned(),
        generator: generator.to_owned(),
        text: "#### 4".to_owned(),
        correct: Some(correct),
        ..ScoredTrace::default()
    };
    let traces = [
        trace("a.b", true),
        trace("a_b", false),
        trace("a b", true),
        trace("c", false),
    ];
    let result = evaluate(traces, &quick()).unwrap();
    let value = |name: &str| {
        let name = format!("policy.{name}.pass_at_k.1");
        result.summary.get(&name).unwrap().value
    };
    assert_eq!(
        ["a_b", "a_b_2", "a_b_3", "c"].map(value),
        [1.0, 0.0, 1.0, 0.0]
    );
}
