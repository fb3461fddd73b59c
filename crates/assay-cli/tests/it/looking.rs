//! The commands calibrate, show, report and sweep.

use std::fs;
use std::path::Path;

use assay_evals::calibration::Calibration;
use assay_tasks::trace_io::read_traces;

use super::commands::{World, value};

/// Scores right and wrong traces in another program's format with the reward.
fn scored(world: &World) {
    world.write("flat.jsonl", &world.foreign());
    world.json("score --reward reward --traces flat.jsonl --out flat.out --json");
}

#[test]
fn a_stored_calibration_is_used() {
    let world = World::new();
    scored(&world);
    let command = "score --reward reward --traces flat.jsonl --calibrated --out p.out --json";
    let said = world.refused(command);
    assert!(said.contains("assay calibrate"), "{said}");
    assert!(!world.path("p.out").exists());
    let printed = world.json("calibrate --traces flat.out --reward reward --data ours --json");
    let stored = Calibration::read(&world.path("reward")).unwrap().unwrap();
    assert_eq!(printed, serde_json::to_value(&stored).unwrap());
    assert_eq!(
        (stored.data.as_str(), stored.traces, stored.problems),
        ("ours", 48, 6)
    );
    world.json(command);
    for trace in read_traces(&world.path("p.out")).unwrap() {
        let expected = stored.probability(&trace).unwrap() as f32;
        assert_eq!(trace.scores["p_correct"], expected);
        assert!((0.0..=1.0).contains(&expected));
    }
    let with = world.json("eval --traces flat.out --calibration reward --json");
    let named = world.json(&format!(
        "eval --traces flat.out --score {} --json",
        stored.score().name()
    ));
    assert_eq!(value(&with, "critic.auroc"), value(&named, "critic.auroc"));
    let said = world.refused("calibrate --traces flat.jsonl --reward reward");
    assert!(said.contains("flat.jsonl:1"), "{said}");
    let said = world.refused("calibrate --traces flat.out --reward absent");
    assert!(said.contains("absent"), "{said}");
    let unscored = world.sampled();
    assert!(
        unscored
            .iter()
            .all(|trace| trace.token_rewards.iter().all(Option::is_none))
    );
    let said = world.refused("calibrate --traces sampled.jsonl --reward reward");
    assert!(said.contains("assay score"), "{said}");
}

#[test]
fn traces_are_shown_in_the_terminal() {
    let world = World::new();
    scored(&world);
    let shown = |arguments: &str| {
        let output = world.assay(arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    // Without a terminal, digits replace colours.
    let plain = shown("show --traces flat.out --limit 2");
    assert!(
        !plain.contains('\x1b') && plain.contains("reward"),
        "{plain}"
    );
    let text = &read_traces(&world.path("flat.out")).unwrap()[0].question;
    assert_eq!(plain.matches(text.as_str()).count(), 2, "{plain}");
    let coloured = shown("show --traces flat.out --id 3 --color always");
    assert!(coloured.contains("\x1b[48;"), "{coloured:?}");
    let said = world.refused("show --traces flat.out --id nobody");
    assert!(said.contains("`nobody`"), "{said}");
    let said = world.refused("show --traces flat.jsonl");
    assert!(said.contains("flat.jsonl:1"), "{said}");
    world.sampled();
    let said = world.refused("show --traces sampled.jsonl");
    assert!(said.contains("assay score"), "{said}");
    let said = world.refused("show --traces flat.out --skip 900");
    assert!(said.contains("48") || said.contains("--skip"), "{said}");
}

#[test]
fn reports_stand_side_by_side_with_their_figures() {
    let world = World::new();
    scored(&world);
    fs::copy(world.path("flat.out"), world.path("other.out")).unwrap();
    let output =
        world.assay("report --traces flat.out --traces other.out --out r.html --figures figures");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let page = fs::read_to_string(world.path("r.html")).unwrap();
    assert!(page.contains("<h3>flat.out</h3>") && page.contains("<h3>other.out</h3>"));
    assert!(page.contains("48 of 48 traces"));
    let figure = fs::read_to_string(world.path("figures/reliability-flat_out.svg")).unwrap();
    assert!(
        figure.starts_with("<svg xmlns=")
            && figure.contains("<style>")
            && figure.trim_end().ends_with("</svg>")
    );
    let csv = fs::read_to_string(world.path("figures/key_figures.csv")).unwrap();
    let summary = world.json("eval --traces flat.out --json");
    let auroc = value(&summary, "critic.auroc");
    let line = csv.lines().find(|line| line.starts_with("AUROC,")).unwrap();
    assert_eq!(
        line.split(',').nth(1).unwrap().parse::<f64>().unwrap(),
        auroc
    );
    let latex = fs::read_to_string(world.path("figures/key_figures.tex")).unwrap();
    assert!(latex.contains("\\begin{tabular}{lrr}"), "{latex}");
}

const SETTINGS: &str = r#"
[model]
path = "model"
[data.train]
path = "train.jsonl"
[data.test]
path = "test.jsonl"
[prompt]
style = "plain"
[lora.policy]
rank = 2
alpha = 4.0
[lora.reward]
rank = 2
alpha = 4.0
[sampling]
samples = 2
max_prompt_tokens = 40
max_completion_tokens = 80
[policy.start]
kind = "base"
[run]
iterations = 2
prompts_per_iteration = 1
checkpoint_every = 0
eval_every = 0
eval_problems = 3
eval_samples = 2
"#;

#[test]
fn a_stopped_sweep_continues() {
    let world = World::new();
    let problems = fs::read_to_string(world.path("problems.jsonl")).unwrap();
    let lines: Vec<&str> = problems.lines().collect();
    fs::write(world.path("train.jsonl"), lines[..3].join("\n")).unwrap();
    fs::write(world.path("test.jsonl"), lines[3..].join("\n")).unwrap();
    fs::write(world.path("run.toml"), SETTINGS).unwrap();
    let grid = "seeds = [1, 2]\n[[arm]]\nname = 'dense'\n[[arm]]\nname = 'sparse'\n\
                set = ['reward.granularity=sparse']\n";
    fs::write(world.path("grid.toml"), grid).unwrap();
    let command = "sweep --config run.toml --grid grid.toml --out swept --json";
    let first = world.json(command);
    let arms: Vec<&String> = first["sweep"].as_object().unwrap().keys().collect();
    assert_eq!(arms, ["dense", "sparse"]);
    let pass = &first["sweep"]["dense"]["policy"]["policy"]["pass_at_k"]["1"];
    // Two seeds, three problems.
    assert_eq!(pass["n"], 6, "{first}");
    assert!(
        first["sweep_difference"]["sparse"]["critic"].is_object()
            || first["sweep_difference"]["sparse"]["policy"].is_object()
    );
    for file in [
        "sweep.json",
        "sweep.csv",
        "sweep.tex",
        "dense/seed-2/summary.json",
        "sparse/seed-1/traces.jsonl",
    ] {
        assert!(world.path("swept").join(file).exists(), "{file}");
    }
    // A run without its summary is measured again; nothing is trained again.
    let metrics = world.path("swept/dense/seed-1/metrics.jsonl");
    let before = fs::read(&metrics).unwrap();
    fs::remove_file(world.path("swept/dense/seed-1/summary.json")).unwrap();
    assert_eq!(world.json(command), first);
    assert_eq!(fs::read(&metrics).unwrap(), before);
    let said = world.refused(&command.replace("--json", "--set run.iterations=3 --json"));
    assert!(said.contains("swept/dense/seed-1"), "{said}");
    let mean = world.json(command)["sweep"]["dense"]["policy"]["policy"]["pass_at_k"]["1"]["value"]
        .clone();
    let of_seed = |seed: u32| {
        let text = fs::read_to_string(world.path(&format!("swept/dense/seed-{seed}/summary.json")))
            .unwrap();
        value(
            &serde_json::from_str(&text).unwrap(),
            "policy.policy.pass_at_k.1",
        )
    };
    assert!((mean.as_f64().unwrap() - (of_seed(1) + of_seed(2)) / 2.0).abs() < 1e-12);
}

#[test]
fn every_sweep_of_the_repository_resolves() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut names = Vec::new();
    let world = World::new();
    let config = root.join("configs/gsm8k/smollm2-135m.toml");
    for entry in fs::read_dir(root.join("configs/sweeps")).unwrap() {
        let grid = entry.unwrap().path();
        let command = format!(
            "sweep --config {} --grid {} --out out --dry-run",
            config.display(),
            grid.display()
        );
        let output = world.assay(&command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", grid.display());
        assert!(String::from_utf8(output.stdout).unwrap().lines().count() >= 6);
        names.push(grid);
    }
    assert!(names.len() >= 16, "{names:?}");
    assert!(!world.path("out").exists());
}
