//! Invalid settings: the error of an invalid value names its key, that of a malformed file its
//! name.
#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use assay_train::TrainError;
use assay_train::settings::Settings;

fn told(result: Result<Settings, TrainError>) -> String {
    let Err(error) = result else {
        return "no error".to_owned();
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// Counts malformed cases for the table in docs/reliability.md.
#[allow(clippy::print_stdout)] // tools/reliability reads it
fn tried(cases: usize) {
    println!("\nMALFORMED {cases}");
}

/// An option and a part of the expected error.
const OPTIONS: &[(&str, &str)] = &[
    ("", "expected key=value"),
    ("=", "a part of the key is empty"),
    ("seed", "expected key=value"),
    (".seed=1", "a part of the key is empty"),
    ("run..iterations=1", "a part of the key is empty"),
    ("seed=-1", "setting `seed`"),
    ("seed=9223372036854775808", "seed"),
    ("seed=1.5", "setting `seed`"),
    ("seed=nan", "setting `seed`"),
    ("seed=[1", "not complete TOML"),
    ("seed=\"1", "not complete TOML"),
    ("seed={a=1}", "seed"),
    ("sede=1", "did you mean `seed`"),
    ("__proto__=1", "unknown setting `__proto__`"),
    ("run=1", "`run`"),
    ("run.iterations=0", "run.iterations"),
    ("run.iterations=-5", "run.iterations"),
    ("run.iterations=many", "run.iterations"),
    ("run.iteration=5", "did you mean `run.iterations`"),
    ("run.token_budget=0", "run.token_budget"),
    ("run.iterations.deep.key=1", "run.iterations"),
    ("sampling.samples=0", "sampling.samples"),
    ("sampling.samples=18446744073709551616", "sampling.samples"),
    ("sampling.temperature=0", "sampling.temperature"),
    ("sampling.temperature=-1.0", "sampling.temperature"),
    ("sampling.temperature=nan", "sampling.temperature"),
    ("sampling.temperature=inf", "sampling.temperature"),
    ("sampling.top_p=0.0", "sampling.top_p"),
    ("sampling.top_p=1.5", "sampling.top_p"),
    ("sampling.top_p=nan", "sampling.top_p"),
    ("lora.policy.rank=0", "lora.policy.rank"),
    ("lora.reward.alpha=nan", "lora.reward.alpha"),
    ("lora.reward.alpha=-1.0", "lora.reward.alpha"),
    ("lora.targets=[]", "lora.targets"),
    ("lora.targets=[\"../x\"]", "lora.targets"),
    ("lora.targets=q_proj", "lora.targets"),
    ("data.wrong_demonstrations=nan", "data.wrong_demonstrations"),
    ("data.wrong_demonstrations=2.0", "data.wrong_demonstrations"),
    ("data.train.format=exe", "exe"),
    ("data.train.limit=-1", "data.train.limit"),
    ("prompt.style=nonsense", "nonsense"),
    (
        "reward.head={kind=\"implicit\",beta=nan,reference_weight=1.0}",
        "reward.head.beta",
    ),
    (
        "reward.head={kind=\"implicit\",beta=inf,reference_weight=1.0}",
        "reward.head.beta",
    ),
    (
        "reward.head={kind=\"hybrid\",beta=1.0,reference_weight=-1.0}",
        "reward.head.reference_weight",
    ),
    ("reward.head={kind=\"linear\",beta=1.0}", "reward.head"),
    ("reward.head=quadratic", "quadratic"),
    (
        "reward.head_learning_rate_factor=0.0",
        "reward.head_learning_rate_factor",
    ),
    (
        "reward.granularity={kind=\"interval\",every=0}",
        "reward.granularity",
    ),
    ("reward.transform.temperature=0.0", "reward.transform"),
    ("reward.transform.lower=nan", "reward.transform"),
    ("reward.loss.bce.weight=-1.0", "reward.loss"),
    ("reward.loss.bce.smoothing=2.0", "reward.loss"),
    ("reward.perturbations.kinds=[\"rm -rf\"]", "rm -rf"),
    (
        "reward.perturbations.kinds=[]",
        "reward.perturbations.kinds",
    ),
    (
        "reward.perturbations.held_out=[\"drop_step\"]",
        "cannot be held out",
    ),
    ("reward.schedule.every=0", "reward.schedule.every"),
    (
        "reward.schedule.updates_per_iteration=0",
        "reward.schedule.updates_per_iteration",
    ),
    (
        "reward.schedule.replay.share=nan",
        "reward.schedule.replay.share",
    ),
    ("optimiser.reward.learning_rate=nan", "optimiser.reward"),
    ("optimiser.beta1=1.0", "optimiser.beta1"),
    ("optimiser.policy.beta2=-0.1", "optimiser.policy"),
    (
        "optimiser.epsilon=0.0",
        "unknown setting `optimiser.epsilon`",
    ),
    ("optimiser.clip_norm=nan", "optimiser.clip_norm"),
    ("policy.objective.clip_low=nan", "policy.objective"),
    (
        "policy.updates_per_iteration=0",
        "policy.updates_per_iteration",
    ),
    ("sft.epochs=0", "sft.epochs"),
];

#[test]
fn options() {
    tried(OPTIONS.len());
    for (option, expected) in OPTIONS {
        let text = told(Settings::load(&[], &[(*option).to_owned()]));
        assert!(
            text.contains(expected),
            "{option}: {text:?} lacks {expected:?}"
        );
    }
}

/// Files by name and content; the first is read.
fn load(files: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("project/configs");
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    told(Settings::load(&[root.join(files[0].0)], &[]))
}

#[test]
fn files() {
    let dotted = format!("{}a = 1", "a.".repeat(100_000));
    let lists = format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = "#".repeat((1 << 20) + 1);
    let cases = [
        ("seed", "s.toml"),
        ("seed = ", "s.toml"),
        ("seed = 1\nseed = 2", "duplicate key"),
        ("[run]\n[run]", "duplicate key"),
        ("[run\n", "s.toml"),
        ("\u{0}", "s.toml"),
        ("seed = 1_000_000_000_000_000_000_000", "s.toml"),
        ("seed = 0xg", "s.toml"),
        ("seed = 1979-05-27", "seed"),
        ("\u{feff}sede = 1", "unknown setting `sede`"),
        (dotted.as_str(), "recursion limit"),
        (lists.as_str(), "recursion"),
        (
            long.as_str(),
            "no settings file is longer than 1048576 bytes",
        ),
        ("extends = 5", "must be a list of files"),
        ("extends = \"base.toml\"", "must be a list of files"),
        ("extends = [1]", "must be a list of files"),
        ("extends = [\"\"]", "Is a directory"),
        ("extends = [\".\"]", "Is a directory"),
        ("extends = [\"s.toml\"]", "extends itself"),
        ("extends = [\"./../configs/s.toml\"]", "extends itself"),
        ("extends = [\"missing.toml\"]", "missing.toml"),
        ("extends = [\"/etc/hostname\"]", "lies outside"),
        (
            "extends = [\"../../../../../../../../etc/hostname\"]",
            "lies outside",
        ),
        ("extends = [\"\\u0000\"]", "unexpected NUL byte"),
    ];
    tried(cases.len());
    for (text, expected) in cases {
        let told = load(&[("s.toml", text)]);
        let shown: String = text.chars().take(60).collect();
        assert!(
            told.contains(expected),
            "{shown}: {told:?} lacks {expected:?}"
        );
    }
    let two = load(&[
        ("a.toml", "extends = [\"b.toml\"]"),
        ("b.toml", "extends = [\"a.toml\"]"),
    ]);
    assert!(two.contains("extends itself"), "{two}");
    let bytes = tempfile::tempdir().unwrap();
    let path: PathBuf = bytes.path().join("s.toml");
    fs::write(&path, b"seed = \"\xff\"").unwrap();
    let told_bytes = told(Settings::load(&[path], &[]));
    assert!(told_bytes.contains("UTF-8"), "{told_bytes}");
}

/// Links are followed before the location of a file is checked.
#[cfg(unix)]
#[test]
fn links_do_not_lead_out() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("a/b");
    fs::create_dir_all(&inside).unwrap();
    fs::write(dir.path().join("secret.toml"), "seed = 1").unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret.toml"), inside.join("base.toml")).unwrap();
    fs::write(inside.join("s.toml"), "extends = [\"base.toml\"]").unwrap();
    let text = told(Settings::load(&[inside.join("s.toml")], &[]));
    assert!(text.contains("lies outside"), "{text}");
}
