//! The rules of ARCHITECTURE.md that a machine can check: who imports whom, how large files may grow and how long functions.

use std::fs;
use std::path::{Path, PathBuf};

/// Crate and the workspace crates it may import. Anything else is a violation.
const MAY_IMPORT: [(&str, &[&str]); 8] = [
    ("assay-tasks", &[]),
    ("assay-evals", &["assay-tasks"]),
    ("assay-report", &["assay-evals", "assay-tasks"]),
    ("assay-ops", &[]),
    ("assay-lm", &["assay-ops", "assay-tasks"]),
    (
        "assay-irl",
        &["assay-lm", "assay-ops", "assay-evals", "assay-tasks"],
    ),
    (
        "assay-serve",
        &["assay-irl", "assay-lm", "assay-evals", "assay-tasks"],
    ),
    (
        "assay-cli",
        &[
            "assay-serve",
            "assay-irl",
            "assay-lm",
            "assay-ops",
            "assay-report",
            "assay-evals",
            "assay-tasks",
        ],
    ),
];

/// Crate and words its sources must not contain.
const NEVER: [(&str, &[&str]); 7] = [
    ("assay-tasks", &["candle", "println!", "anyhow"]),
    (
        "assay-evals",
        &["candle", "println!", "anyhow", "<svg", "<html"],
    ),
    ("assay-report", &["candle", "println!", "anyhow", "std::fs"]),
    ("assay-ops", &["println!", "anyhow", "assay_lm"]),
    (
        "assay-lm",
        &["println!", "anyhow", "assay_irl", "assay_evals", "reward"],
    ),
    (
        "assay-irl",
        &[
            "println!",
            "anyhow",
            "stdout",
            "process::exit",
            "SystemTime",
        ],
    ),
    (
        "assay-serve",
        &["println!", "anyhow", "clap", "std::fs", "trainer::"],
    ),
];

const MAX_LINES_BEFORE_TESTS: usize = 600;
const MAX_LINES_OF_A_FUNCTION: usize = 80;

fn crates_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Code above the test module, comments left out.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let before_tests = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default()
        .to_owned();
    before_tests
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn crates_import_only_what_the_architecture_allows() {
    for (name, allowed) in MAY_IMPORT {
        let manifest = fs::read_to_string(crates_dir().join(name).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies
            .lines()
            .filter(|line| line.starts_with("assay-"))
        {
            let imported = line.split(['.', ' ', '=']).next().unwrap();
            assert!(
                allowed.contains(&imported),
                "{name} must not depend on {imported}"
            );
        }
    }
}

#[test]
fn crates_do_not_contain_what_belongs_elsewhere() {
    for (name, words) in NEVER {
        for path in sources(&crates_dir().join(name).join("src")) {
            for (number, line) in code(&path).iter().enumerate() {
                for word in words {
                    assert!(
                        !line.contains(word),
                        "{}:{}: {word}",
                        path.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

#[test]
fn the_maths_of_the_method_sees_no_model_and_no_files() {
    let irl = crates_dir().join("assay-irl/src");
    for part in ["reward", "policy"] {
        for path in sources(&irl.join(part))
            .into_iter()
            .chain([irl.join(format!("{part}.rs"))])
        {
            if !path.exists() {
                continue;
            }
            for (number, line) in code(&path).iter().enumerate() {
                for word in ["assay_lm", "candle", "std::fs", "std::path", "tracing"] {
                    assert!(
                        !line.contains(word),
                        "{}:{}: {word}",
                        path.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

/// Two exceptions, each with its reason: weight files are mapped, and the allocator of the binary is told to keep its pages.
#[test]
fn unsafe_code_stays_in_assay_ops() {
    for (name, _) in MAY_IMPORT.iter().filter(|(name, _)| *name != "assay-ops") {
        let allocator = |path: &PathBuf| path.ends_with("assay-cli/src/allocator.rs");
        for path in sources(&crates_dir().join(name).join("src")) {
            if allocator(&path) {
                continue;
            }
            let lines = code(&path);
            let found = lines
                .iter()
                .position(|line| line.contains("unsafe ") && !line.contains("Mmap::map"));
            assert!(
                found.is_none(),
                "{}:{}",
                path.display(),
                found.unwrap_or(0) + 1
            );
        }
    }
}

/// SECURITY.md lists every file that may hold `unsafe`, with the reason.
#[test]
fn security_lists_where_unsafe_stands() {
    let root = crates_dir().parent().unwrap().to_owned();
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let listed: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `crates/")?.split_once('`'))
        .map(|(path, _)| format!("crates/{path}"))
        .collect();
    let mut found: Vec<String> = MAY_IMPORT
        .iter()
        .flat_map(|(name, _)| sources(&crates_dir().join(name).join("src")))
        .filter(|path| {
            fs::read_to_string(path)
                .unwrap()
                .contains("allow(unsafe_code)")
        })
        .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
        .collect();
    found.sort();
    assert_eq!(listed, found);
}

#[test]
fn files_stay_small() {
    for (name, _) in MAY_IMPORT {
        for path in sources(&crates_dir().join(name).join("src")) {
            let lines = code(&path).len();
            assert!(
                lines <= MAX_LINES_BEFORE_TESTS,
                "{} has {lines} lines before its tests",
                path.display()
            );
        }
    }
}

/// Functions that are longer than allowed, as `name: lines`. rustfmt puts a function's last brace under its first letter.
fn long_functions(lines: &[String], most: usize) -> Vec<String> {
    let mut open: Vec<(usize, usize, String)> = Vec::new();
    let mut long = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        let mut words = bare.split([' ', '(', '<']);
        if bare.ends_with([',', '(', '{', '>']) && words.any(|word| word == "fn") {
            let name = words.next().unwrap_or_default().to_owned();
            open.push((number, indent, name));
        }
        if bare == "}" && open.last().is_some_and(|(_, own, _)| *own == indent) {
            let (first, _, name) = open.pop().unwrap();
            let length = number + 1 - first;
            if length > most {
                long.push(format!("{name}: {length}"));
            }
        }
        // What is left open belongs to signatures without a body.
        open.retain(|(_, own, _)| bare.is_empty() || *own <= indent);
    }
    long
}

#[test]
fn functions_stay_short() {
    for (name, _) in MAY_IMPORT {
        for path in sources(&crates_dir().join(name).join("src")) {
            let is_test = path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
            if is_test {
                continue;
            }
            let long = long_functions(&code(&path), MAX_LINES_OF_A_FUNCTION);
            assert!(long.is_empty(), "{}: {long:?}", path.display());
        }
    }
    let text = "impl A {\n    fn two(&self) {\n        1\n    }\n    fn four(\n        x: u8,\n    ) {\n    }\n}\n";
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(long_functions(&lines, 3), ["four: 4"]);
    assert!(long_functions(&lines, 4).is_empty());
}
