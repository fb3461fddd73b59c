//! Runs that end before their last iteration, with and without an interruption.

use assay_evals::{Alarm, AlarmKind};
use assay_train::run::{EarlyStop, Observer};

use super::*;

/// Stops a run after some iterations and remembers its alarms.
#[derive(Default)]
struct Recorder {
    stop_after: Option<usize>,
    done: usize,
    alarms: Vec<(AlarmKind, f64)>,
}

impl Observer for Recorder {
    fn iteration(&mut self, metrics: &IterationMetrics, _total: usize) {
        self.done = metrics.iteration + 1;
    }
    fn tokens(&mut self, _count: usize) {}
    fn note(&mut self, _text: &str) {}
    fn alarm(&mut self, alarm: &Alarm) {
        self.alarms.push((alarm.kind, alarm.iteration));
    }
    fn wants_stop(&self) -> bool {
        self.stop_after.is_some_and(|limit| self.done >= limit)
    }
}

/// How a run ended.
#[derive(Debug, PartialEq)]
struct End {
    iterations: usize,
    total: usize,
    early: Option<EarlyStop>,
    alarms: Vec<(AlarmKind, f64)>,
}

fn ends(
    settings: &Settings,
    kind: TrainerKind,
    dir: &Path,
    stop_after: Option<usize>,
) -> Result<End, TrainError> {
    let (model, train_problems) = (model(), problems(8));
    let inputs = TrainInputs {
        kind,
        settings,
        model: &model,
        reward_backbone: model.transformer.clone(),
        train: &train_problems,
        validation: &train_problems[..2],
        ranks: &SingleProcess,
    };
    let mut recorder = Recorder {
        stop_after,
        ..Recorder::default()
    };
    let trained = train(&inputs, dir, RunMode::Resume, &mut recorder)?;
    assert_eq!(trained.ended_early, trained.early_stop.is_some());
    Ok(End {
        iterations: trained.iterations,
        total: trained.total,
        early: trained.early_stop,
        alarms: recorder.alarms,
    })
}

/// Two supervised iterations, one of warm-up, then the policy is measured after each. It never
/// finds an answer, so the second evaluation without improvement is the third one, after iteration
/// 6.
#[test]
fn evaluations_without_improvement_end_the_run() {
    let mut settings = settings();
    settings.run.iterations = 6;
    settings.run.eval_every = 1;
    let mut stopping = settings.clone();
    stopping.run.early_stop.evaluations = 2;
    let unbroken = tempfile::tempdir().unwrap();
    let end = ends(&stopping, TrainerKind::Airl, unbroken.path(), None).unwrap();
    assert_eq!((end.iterations, end.total), (6, 8));
    let reason = EarlyStop::NoImprovement {
        evaluations: 2,
        best: 0.0,
    };
    assert_eq!(end.early, Some(reason));
    let text = std::fs::read_to_string(unbroken.path().join("early_stop.json")).unwrap();
    let expected =
        r#"{"iterations":6,"total":8,"reason":"no_improvement","evaluations":2,"best":0.0}"#;
    assert_eq!(text.trim_end(), expected);
    assert!(checkpoint::path(unbroken.path(), 6).is_dir());

    let broken = tempfile::tempdir().unwrap();
    let end = ends(&stopping, TrainerKind::Airl, broken.path(), Some(5)).unwrap();
    assert_eq!((end.iterations, end.early), (5, None));
    let end = ends(&stopping, TrainerKind::Airl, broken.path(), None).unwrap();
    assert_eq!(end.iterations, 6);
    assert_eq!(result(broken.path()), result(unbroken.path()));
    let again = ends(&stopping, TrainerKind::Airl, broken.path(), None).unwrap();
    assert_eq!((again.iterations, again.early), (6, end.early));

    // Without the condition the same run continues to its end, and no file says that it stopped
    // early.
    let end = ends(&settings, TrainerKind::Airl, broken.path(), None).unwrap();
    assert_eq!((end.iterations, end.early), (8, None));
    assert!(!broken.path().join("early_stop.json").exists());
}

/// All samples of a group are wrong. The alarm needs ten values, so the tenth iteration raises it,
/// even if the run was interrupted after the sixth.
#[test]
fn an_alarm_ends_a_resumed_run() {
    let mut settings = settings();
    settings.policy.start = PolicyStart::Base;
    settings.sampling.samples = 2;
    settings.run.iterations = 14;
    settings.run.prompts_per_iteration = 1;
    settings.run.eval_every = 0;
    settings.run.early_stop.alarms = vec![AlarmKind::ZeroStdGroups];
    let dir = tempfile::tempdir().unwrap();
    let end = ends(&settings, TrainerKind::Grpo, dir.path(), Some(6)).unwrap();
    assert_eq!((end.iterations, end.alarms.len()), (6, 0));
    let end = ends(&settings, TrainerKind::Grpo, dir.path(), None).unwrap();
    assert_eq!((end.iterations, end.total), (10, 14));
    let Some(EarlyStop::Alarm { alarm, value, .. }) = end.early else {
        panic!("{end:?}");
    };
    assert!(alarm == AlarmKind::ZeroStdGroups && value > 0.5);
    assert!(end.alarms.contains(&(AlarmKind::ZeroStdGroups, 9.0)));
}

#[test]
fn waiting_for_evaluations_needs_validation_problems() {
    let mut settings = settings();
    settings.run.early_stop.evaluations = 2;
    let (model, train_problems) = (model(), problems(8));
    let inputs = TrainInputs {
        kind: TrainerKind::Sft,
        settings: &settings,
        model: &model,
        reward_backbone: model.transformer.clone(),
        train: &train_problems,
        validation: &[],
        ranks: &SingleProcess,
    };
    let dir = tempfile::tempdir().unwrap();
    let refused = train(&inputs, dir.path(), RunMode::Fresh, &mut Silent);
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("data.validation.path"), "{message}");
}
