use super::*;

fn refused(change: impl FnOnce(&mut Settings), key: &str) {
    let mut settings = Settings::default();
    change(&mut settings);
    let message = settings.validate().unwrap_err().to_string();
    assert!(
        message.contains(&format!("`{key}`")),
        "{message} does not name {key}"
    );
}

#[test]
fn defaults_are_valid_and_localised() {
    let settings = Settings::default();
    settings.validate().unwrap();
    assert_eq!(settings.reward_model_path(), &settings.model.path);
    assert_eq!(
        (settings.lora.policy().alpha, settings.lora.reward().alpha),
        (256.0, 64.0)
    );
}

#[test]
fn nonsense_is_refused_by_key() {
    use crate::policy::advantage::{AdvantageKind, ExpertInGroup, StdScale};
    refused(|s| s.sampling.samples = 1, "policy.advantage.scale");
    refused(|s| s.sampling.samples = 0, "sampling.samples");
    refused(
        |s| (s.run.early_stop.evaluations, s.run.eval_every) = (2, 0),
        "run.early_stop.evaluations",
    );
    refused(|s| s.sampling.temperature = 0.0, "sampling.temperature");
    refused(
        |s| s.sampling.max_completion_tokens = 0,
        "sampling.max_completion_tokens",
    );
    refused(
        |s| s.optimiser.policy.learning_rate = -1.0,
        "optimiser.policy.learning_rate",
    );
    refused(
        |s| s.optimiser.reward.beta2 = Some(1.0),
        "optimiser.reward.beta2",
    );
    refused(|s| s.optimiser.clip_norm = 0.0, "optimiser.clip_norm");
    refused(
        |s| s.reward.perturbations.kinds.clear(),
        "reward.perturbations.kinds",
    );
    refused(
        |s| s.reward.perturbations.held_out = s.reward.perturbations.kinds[..1].into(),
        "reward.perturbations.held_out",
    );
    refused(
        |s| {
            s.reward.head = HeadSettings::Implicit {
                beta: 0.0,
                reference_weight: 1.0,
            }
        },
        "reward.head.beta",
    );
    refused(
        |s| s.reward.granularity = Granularity::Interval { every: 0 },
        "reward.granularity.every",
    );
    refused(
        |s| s.reward.loss.bce.smoothing = 0.5,
        "reward.loss.bce.smoothing",
    );
    refused(
        |s| s.reward.loss.contrast.weight = f64::NAN,
        "reward.loss.contrast.weight",
    );
    refused(
        |s| s.reward.schedule.updates_per_iteration = 0,
        "reward.schedule.updates_per_iteration",
    );
    refused(
        |s| s.policy.objective.clip_low = 2.0,
        "policy.objective.clip_low",
    );
    refused(
        |s| s.policy.objective.delta = Some(1.1),
        "policy.objective.delta",
    );
    refused(
        |s| s.policy.advantage.estimator = AdvantageKind::Dense { gamma: 1.5 },
        "policy.advantage.estimator.gamma",
    );
    refused(|s| s.lora.policy.rank = 0, "lora.policy.rank");
    refused(|s| s.lora.targets.clear(), "lora.targets");
    refused(|s| s.run.iterations = 0, "run.iterations");
    refused(
        |s| s.data.wrong_demonstrations = 1.5,
        "data.wrong_demonstrations",
    );
    refused(|s| s.seed = u64::MAX, "seed");
    let mut lonely = Settings::default();
    lonely.sampling.samples = 1;
    lonely.policy.advantage.expert_in_group = ExpertInGroup::Single;
    lonely.validate().unwrap();
    lonely.policy.advantage.expert_in_group = ExpertInGroup::Off;
    lonely.policy.advantage.scale = StdScale::None;
    assert!(
        lonely
            .validate()
            .unwrap_err()
            .to_string()
            .contains("policy.advantage.centre")
    );
}

#[test]
fn advice_names_settings_that_exist() {
    let settings = toml::Table::try_from(Settings::default()).unwrap();
    let exists = |path: &str| {
        let mut keys = path.split('.');
        let top = keys.next().and_then(|key| settings.get(key));
        keys.try_fold(top, |node, key| Some(node?.as_table()?.get(key)))
            .flatten()
            .is_some()
    };
    let mut named = 0;
    for alarm in assay_evals::AlarmKind::ALL {
        for word in alarm.advice().split([' ', ',', ';', ':', '(', ')']) {
            if word.trim_end_matches('.').contains('.') {
                assert!(exists(word), "{alarm:?} names {word}");
                named += 1;
            }
        }
    }
    assert!(named >= 10, "{named} settings are named");
}
