use super::*;
use crate::policy::advantage::AdvantageKind;
use crate::settings::{BranchEnd, BranchPlace, BranchSource};
use assay_critic::HeadSettings;
use assay_critic::granularity::Granularity;

/// Files under a fresh directory, by name and content.
fn files(contents: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in contents {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn load(dir: &tempfile::TempDir, file: &str, overrides: &[&str]) -> Result<Settings, TrainError> {
    let overrides: Vec<String> = overrides.iter().map(|&option| option.to_owned()).collect();
    Settings::load(&[dir.path().join(file)], &overrides)
}

fn set(overrides: &[&str]) -> Result<Settings, TrainError> {
    let overrides: Vec<String> = overrides.iter().map(|&option| option.to_owned()).collect();
    Settings::load(&[], &overrides)
}

#[test]
fn later_wins_and_tables_merge() {
    let dir = files(&[
        (
            "base.toml",
            "seed = 1\n[sampling]\nsamples = 4\ntemperature = 0.7\n",
        ),
        ("more.toml", "seed = 2\n"),
        (
            "sub/run.toml",
            "extends = [\"../base.toml\", \"../more.toml\"]\n[sampling]\nsamples = 8\n",
        ),
    ]);
    let settings = load(
        &dir,
        "sub/run.toml",
        &["sampling.max_prompt_tokens=55", "model.path=models/tiny"],
    )
    .unwrap();
    assert_eq!(
        (
            settings.seed,
            settings.sampling.samples,
            settings.sampling.temperature
        ),
        (2, 8, 0.7)
    );
    assert_eq!(
        (
            settings.sampling.max_prompt_tokens,
            settings.model.path.to_str()
        ),
        (55, Some("models/tiny"))
    );
}

#[test]
fn a_kind_owns_its_table() {
    let dir = files(&[(
        "a.toml",
        "[reward.granularity]\nkind = \"interval\"\nevery = 7\n",
    )]);
    assert_eq!(
        load(&dir, "a.toml", &[]).unwrap().reward.granularity,
        Granularity::Interval { every: 7 }
    );
    let changed = load(&dir, "a.toml", &["reward.granularity=dense"]).unwrap();
    assert_eq!(changed.reward.granularity, Granularity::Dense);
    let kept = load(&dir, "a.toml", &["reward.granularity=interval"]).unwrap();
    assert_eq!(kept.reward.granularity, Granularity::Interval { every: 7 });
    let settings = set(&[
        "reward.head=implicit",
        "reward.head.beta=0.5",
        "policy.advantage.estimator=dense",
    ])
    .unwrap();
    assert_eq!(
        settings.reward.head,
        HeadSettings::Implicit {
            beta: 0.5,
            reference_weight: 1.0
        }
    );
    assert_eq!(
        settings.policy.advantage.estimator,
        AdvantageKind::Dense { gamma: 0.9 }
    );
    let surplus = set(&["reward.granularity.every=3"])
        .unwrap_err()
        .to_string();
    assert!(
        surplus.contains("unknown setting `reward.granularity.every` in --set"),
        "{surplus}"
    );
}

#[test]
fn unknown_keys_name_path_file_and_nearest() {
    let dir = files(&[
        ("typo.toml", "[reward.loss.bce]\nsmothing = 0.1\n"),
        ("top.toml", "sede = 3\n"),
    ]);
    let message = load(&dir, "typo.toml", &[]).unwrap_err().to_string();
    assert!(
        message.contains("unknown setting `reward.loss.bce.smothing`"),
        "{message}"
    );
    assert!(message.contains("typo.toml"), "{message}");
    assert!(
        message.contains("did you mean `reward.loss.bce.smoothing`?"),
        "{message}"
    );
    let message = load(&dir, "top.toml", &[]).unwrap_err().to_string();
    assert!(
        message.contains("unknown setting `sede`") && message.contains("`seed`"),
        "{message}"
    );
    let message = set(&["learning_rate=1"]).unwrap_err().to_string();
    assert!(message.contains(".learning_rate`?"), "{message}");
    let message = set(&["data.train.pth=x"]).unwrap_err().to_string();
    assert!(
        message
            .contains("`data.train.pth` in --set data.train.pth=x; did you mean `data.train.path`"),
        "{message}"
    );
}

#[test]
fn wrong_types_name_key_and_file() {
    let dir = files(&[("bad.toml", "[run]\niterations = \"many\"\n")]);
    let message = load(&dir, "bad.toml", &[]).unwrap_err().to_string();
    assert!(
        message.contains("`run.iterations`") && message.contains("bad.toml"),
        "{message}"
    );
    let message = set(&["reward.perturbations.kinds=[\"flip_operators\"]"])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("reward.perturbations.kinds") && message.contains("flip_operator"),
        "{message}"
    );
    let message = set(&["reward.granularity=densest"])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("reward.granularity") && message.contains("densest"),
        "{message}"
    );
    let message = set(&["seed.x=1"]).unwrap_err().to_string();
    assert!(message.contains("`seed` in --set seed.x=1"), "{message}");
    assert!(
        set(&["sampling.samples=-1"])
            .unwrap_err()
            .to_string()
            .contains("sampling.samples")
    );
}

#[test]
fn malformed_input_is_refused() {
    let dir = files(&[
        ("broken.toml", "seed = = 1\n"),
        ("list.toml", "extends = \"base.toml\"\n"),
    ]);
    assert!(
        load(&dir, "broken.toml", &[])
            .unwrap_err()
            .to_string()
            .contains("broken.toml")
    );
    assert!(
        load(&dir, "list.toml", &[])
            .unwrap_err()
            .to_string()
            .contains("must be a list")
    );
    assert!(
        load(&dir, "absent.toml", &[])
            .unwrap_err()
            .to_string()
            .contains("absent.toml")
    );
    for option in ["seed", "=1", "a..b=1", "run.iterations=[1"] {
        assert!(
            matches!(set(&[option]), Err(TrainError::SettingsSyntax { .. })),
            "{option}"
        );
    }
}

#[test]
fn cycles_and_escapes_are_refused() {
    let dir = files(&[
        ("c/a.toml", "extends = [\"b.toml\"]\n"),
        ("c/b.toml", "extends = [\"a.toml\"]\n"),
        ("c/d/out.toml", "extends = [\"../../far.toml\"]\n"),
        ("far.toml", "seed = 1\n"),
        ("c/twice.toml", "extends = [\"e.toml\", \"f.toml\"]\n"),
        ("c/e.toml", "extends = [\"f.toml\"]\n"),
        ("c/f.toml", "seed = 9\n"),
    ]);
    assert!(
        load(&dir, "c/a.toml", &[])
            .unwrap_err()
            .to_string()
            .contains("extends itself")
    );
    assert!(
        load(&dir, "c/d/out.toml", &[])
            .unwrap_err()
            .to_string()
            .contains("lies outside")
    );
    let absolute = format!(
        "extends = [\"{}\"]\n",
        dir.path().join("far.toml").display()
    );
    std::fs::write(dir.path().join("c/abs.toml"), absolute).unwrap();
    assert!(
        load(&dir, "c/abs.toml", &[])
            .unwrap_err()
            .to_string()
            .contains("lies outside")
    );
    assert_eq!(
        load(&dir, "c/twice.toml", &[]).unwrap().seed,
        9,
        "a file may be built on twice"
    );
}

#[test]
fn resolved_settings_read_back() {
    let settings = set(&[
        "reward.head=hybrid",
        "prompt.style=gsm8k",
        "data.test.limit=5",
        "seed=7",
    ])
    .unwrap();
    let text = settings.resolved_toml().unwrap();
    assert_eq!(
        Settings::from_toml(&text, "settings.toml").unwrap(),
        settings
    );
    assert!(
        text.contains("clip_norm") && text.contains("importance_cap"),
        "{text}"
    );
}

fn toml_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(toml_files(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            found.push(path);
        }
    }
    found
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

#[test]
fn every_shipped_config_loads_and_is_valid() {
    let mut files = toml_files(&configs());
    // Grids of `assay sweep` are not settings; its own tests read them.
    files.retain(|file| !file.parent().is_some_and(|dir| dir.ends_with("sweeps")));
    assert!(files.len() >= 9, "{files:?}");
    for file in files {
        let settings = Settings::load(std::slice::from_ref(&file), &[]).unwrap();
        let text = settings.resolved_toml().unwrap();
        assert_eq!(
            Settings::from_toml(&text, "resolved").unwrap(),
            settings,
            "{}",
            file.display()
        );
    }
}

/// Dotted keys of every value.
fn value_keys(table: &Table, path: &str) -> Vec<String> {
    let of = |(key, value): (&String, &Value)| match value {
        Value::Table(inner) => value_keys(inner, &join(path, key)),
        _ => vec![join(path, key)],
    };
    table.iter().flat_map(of).collect()
}

/// The file has every key with its default, and at most 90 keys.
#[test]
fn the_base_config_is_the_default_settings() {
    let file = configs().join("base.toml");
    let settings = Settings::load(std::slice::from_ref(&file), &[]).unwrap();
    assert_eq!(settings, Settings::default());
    let written: Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let mut written = value_keys(&written, "");
    let mut resolved = value_keys(&table(&settings).unwrap(), "");
    written.sort();
    resolved.sort();
    assert_eq!(written, resolved);
    assert!(resolved.len() <= 90, "{} keys", resolved.len());
}

/// Retired keys with the value that earlier versions wrote into settings.toml are read; other
/// values are errors.
#[test]
fn retired_keys_with_their_value_are_read() {
    let text = "sampling.top_p = 1.0\noptimiser.beta1 = 0.9\n\
                [reward.schedule]\nevery = 1\nreplay = { share = 0.0, capacity = 1024 }\n\
                policy_negatives = { kind = \"style_advantage\", weight = 0.5, floor = 0.6, ceiling = 0.95 }\n\
                [reward.loss]\nbce.reduction = \"global\"\nwgan.clip = 0.10000000149011612\n";
    let settings = Settings::from_toml(text, "settings.toml").unwrap();
    assert_eq!(settings, Settings::default());
    for option in [
        "reward.schedule.every=2",
        "sampling.top_p=0.9",
        "optimiser.beta1=text",
        "reward.loss.bce.reduction=per_sequence",
        "reward.loss.wgan.clip=0.1001",
    ] {
        let message = set(&[option]).unwrap_err().to_string();
        let key = option.split('=').next().unwrap();
        assert!(message.contains(key), "{message}");
        assert!(message.contains("no setting any more"), "{message}");
    }
}

#[test]
fn branches_come_from_policy_or_file() {
    let settings = set(&["reward.branches.source.end=token"]).unwrap();
    let expected = BranchSource::Policy {
        place: BranchPlace::Uniform,
        end: BranchEnd::Token,
    };
    assert_eq!(settings.reward.branches.source, expected);
    let file = r#"reward.branches.source={ kind = "file", path = "wrong.jsonl" }"#;
    let expected = BranchSource::File {
        path: PathBuf::from("wrong.jsonl"),
    };
    assert_eq!(set(&[file]).unwrap().reward.branches.source, expected);
    for (option, key) in [
        ("reward.branches.source=file", "reward.branches.source"),
        ("reward.branches.source.end=line", "reward.branches.source"),
        (
            "reward.branches.per_demonstraton=1",
            "reward.branches.per_demonstration",
        ),
    ] {
        let message = set(&[option]).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
    let mut settings = Settings::default();
    let path = PathBuf::new();
    settings.reward.branches.source = BranchSource::File { path };
    let message = settings.validate().unwrap_err().to_string();
    assert!(
        message.contains("`reward.branches.source.path`"),
        "{message}"
    );
}

#[test]
fn the_paper_is_reproduced() {
    let settings = Settings::load(&[configs().join("paper/llama-3.2-3b.toml")], &[]).unwrap();
    let loss = &settings.reward.loss;
    assert_eq!(
        settings.policy.advantage.estimator,
        AdvantageKind::Dense { gamma: 0.9 }
    );
    assert_eq!(
        (
            loss.bce.weight,
            loss.bce.smoothing,
            loss.relativistic.weight
        ),
        (1.0, 0.1, 0.0)
    );
    assert_eq!(loss.prefix_labels, crate::reward::loss::PrefixLabels::Whole);
    assert_eq!(
        (
            settings.optimiser.reward.learning_rate,
            settings.optimiser.policy.learning_rate
        ),
        (1e-5, 1e-4)
    );
    assert_eq!(
        (
            settings.run.iterations,
            settings.run.prompts_per_iteration,
            settings.sampling.samples
        ),
        (500, 2, 16)
    );
}
