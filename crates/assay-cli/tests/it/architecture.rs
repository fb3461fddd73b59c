//! The rules of ARCHITECTURE.md that a test can check: dependencies between crates, sizes, and
//! signatures.
//!
//! Dependencies come from `cargo metadata`, functions from the parsed source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Every crate and the workspace crates it may depend on, lowest layer first.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("assay-tasks", &[]),
    ("assay-ops", &[]),
    ("assay-evals", &["assay-tasks"]),
    ("assay-report", &["assay-tasks", "assay-evals"]),
    ("assay-lm", &["assay-tasks", "assay-ops"]),
    (
        "assay-critic",
        &["assay-tasks", "assay-ops", "assay-evals", "assay-lm"],
    ),
    (
        "assay-train",
        &[
            "assay-tasks",
            "assay-ops",
            "assay-evals",
            "assay-lm",
            "assay-critic",
        ],
    ),
    (
        "assay-serve",
        &["assay-tasks", "assay-evals", "assay-lm", "assay-critic"],
    ),
    (
        "assay-cli",
        &[
            "assay-tasks",
            "assay-ops",
            "assay-evals",
            "assay-report",
            "assay-lm",
            "assay-critic",
            "assay-train",
            "assay-serve",
        ],
    ),
    (
        "assay-testkit",
        &["assay-tasks", "assay-ops", "assay-lm", "assay-critic"],
    ),
];

/// Libraries that only some crates may depend on directly.
const ONLY_IN: &[(&str, &[&str])] = &[
    (
        "candle-core",
        &[
            "assay-ops",
            "assay-lm",
            "assay-critic",
            "assay-train",
            "assay-testkit",
        ],
    ),
    ("anyhow", &["assay-cli"]),
    ("clap", &["assay-cli"]),
    ("indicatif", &["assay-cli"]),
    ("axum", &["assay-serve"]),
    ("tokio", &["assay-serve"]),
];

/// Lines of code of a crate: without tests, comments and blank lines.
const MAX_CRATE_LINES: usize = 11_000;
const MAX_LINES_BEFORE_TESTS: usize = 600;
const MAX_FUNCTION_LINES: usize = 80;
const MAX_P99_FUNCTION_LINES: usize = 60;
const MAX_ARGUMENTS: usize = 7;
const MAX_WORDS_OF_A_TEST: usize = 8;
/// Faults of published trainers that docs/faults.md lists.
const FAULTS: usize = 21;

pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap().to_owned()
}

/// Direct dependencies of every workspace crate, without those of its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {message}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = |package: &Value| -> BTreeSet<String> {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let normal = dependencies.filter(|dependency| dependency["kind"].is_null());
        normal
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| (package["name"].as_str().unwrap().to_owned(), names(package)))
        .collect()
}

pub(crate) fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The directory of every crate.
pub(crate) fn crate_dirs() -> impl Iterator<Item = PathBuf> {
    let crates = MAY_DEPEND_ON.iter();
    crates.map(|(name, _)| root().join("crates").join(name))
}

/// Source files of every crate.
fn all_sources() -> Vec<PathBuf> {
    crate_dirs()
        .flat_map(|dir| sources(&dir.join("src")))
        .collect()
}

/// The text before the test module.
fn before_tests(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next();
    code.unwrap_or_default().to_owned()
}

/// Lines that are neither blank nor a comment.
fn code_lines(text: &str) -> usize {
    let lines = text.lines().map(str::trim_start);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

/// A function in a file.
struct Function {
    name: String,
    lines: usize,
    arguments: usize,
    has_tuple: bool,
}

/// Collects functions, without those of test modules.
#[derive(Default)]
struct Functions {
    found: Vec<Function>,
}

impl Functions {
    fn of(path: &Path) -> Vec<Function> {
        let text = fs::read_to_string(path).unwrap();
        let file = syn::parse_file(&text).unwrap();
        let mut functions = Self::default();
        functions.visit_file(&file);
        functions.found
    }

    fn add(&mut self, signature: &syn::Signature, whole: impl Spanned) {
        let span = whole.span();
        let inputs = signature.inputs.iter();
        self.found.push(Function {
            name: signature.ident.to_string(),
            lines: span.end().line + 1 - span.start().line,
            arguments: inputs.clone().count(),
            has_tuple: inputs.clone().any(is_tuple),
        });
    }
}

/// Whether an argument is a tuple, or a reference to one.
fn is_tuple(argument: &syn::FnArg) -> bool {
    let syn::FnArg::Typed(typed) = argument else {
        return false;
    };
    let inner = match &*typed.ty {
        syn::Type::Reference(reference) => &reference.elem,
        other => other,
    };
    matches!(inner, syn::Type::Tuple(tuple) if tuple.elems.len() > 1)
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let is_test = module.attrs.iter().any(|a| a.path().is_ident("cfg"));
        if !(is_test && module.ident.to_string().contains("test")) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

pub(crate) fn is_test_file(path: &Path) -> bool {
    let is_test = |part: &std::ffi::OsStr| {
        let name = part.to_string_lossy();
        name == "tests" || name == "tests.rs" || name.ends_with("_tests.rs")
    };
    path.iter().any(is_test)
}

/// The functions of all crates and their files, without tests.
fn all_functions() -> Vec<(PathBuf, Function)> {
    let files = all_sources().into_iter().filter(|path| !is_test_file(path));
    let of_file = |path: PathBuf| {
        let functions = Functions::of(&path).into_iter();
        functions.map(move |function| (path.clone(), function))
    };
    files.flat_map(of_file).collect()
}

#[test]
fn crates_depend_only_on_lower_layers() {
    let dependencies = dependencies();
    let known: BTreeSet<&str> = MAY_DEPEND_ON.iter().map(|(name, _)| *name).collect();
    for (name, found) in &dependencies {
        let allowed = MAY_DEPEND_ON.iter().find(|(listed, _)| listed == name);
        let Some((_, allowed)) = allowed else {
            panic!("{name} is missing from the table of layers");
        };
        for dependency in found.iter().filter(|found| known.contains(found.as_str())) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn libraries_stay_in_their_layer() {
    for (name, found) in dependencies() {
        for (library, allowed) in ONLY_IN {
            assert!(
                !found.contains(*library) || allowed.contains(&name.as_str()),
                "{name} must not depend on {library}"
            );
        }
    }
}

/// The mathematics of the two players depends on numbers only.
#[test]
fn losses_import_no_model() {
    let train = root().join("crates/assay-train/src");
    for part in ["reward", "policy"] {
        for path in sources(&train.join(part)) {
            let text = fs::read_to_string(&path).unwrap();
            let imports = text.lines().filter(|line| line.starts_with("use "));
            for line in imports {
                for forbidden in ["assay_lm", "candle_core", "std::fs", "std::path"] {
                    assert!(!line.contains(forbidden), "{}: {line}", path.display());
                }
            }
        }
    }
}

/// SECURITY.md lists every file that may hold `unsafe`, with the reason; the compiler denies it
/// elsewhere.
#[test]
fn security_lists_where_unsafe_stands() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let listed: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `crates/")?.split_once('`'))
        .map(|(path, _)| format!("crates/{path}"))
        .collect();
    let allows = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        text.contains("allow(unsafe_code)")
    };
    let mut found: Vec<String> = all_sources()
        .into_iter()
        .filter(allows)
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    found.sort();
    assert_eq!(listed, found);
}

#[test]
fn files_and_crates_stay_small() {
    for (name, _) in MAY_DEPEND_ON {
        let files = sources(&root().join("crates").join(name).join("src"));
        let mut total = 0;
        for path in files {
            if is_test_file(&path) {
                continue;
            }
            let text = before_tests(&path);
            let lines = text.lines().count();
            assert!(
                lines <= MAX_LINES_BEFORE_TESTS,
                "{} has {lines} lines before its tests",
                path.display()
            );
            total += code_lines(&text);
        }
        assert!(total <= MAX_CRATE_LINES, "{name} has {total} lines");
    }
}

#[test]
fn functions_stay_short() {
    let functions = all_functions();
    let mut lengths: Vec<usize> = functions.iter().map(|(_, f)| f.lines).collect();
    lengths.sort_unstable();
    let p99 = lengths[lengths.len() * 99 / 100];
    assert!(p99 <= MAX_P99_FUNCTION_LINES, "p99 is {p99} lines");
    for (path, function) in functions {
        assert!(
            function.lines <= MAX_FUNCTION_LINES,
            "{}: {} has {} lines",
            path.display(),
            function.name,
            function.lines
        );
    }
}

#[test]
fn arguments_are_few_and_named() {
    let functions = all_functions();
    let wrong = functions
        .iter()
        .filter(|(_, function)| function.has_tuple || function.arguments > MAX_ARGUMENTS);
    let wrong: Vec<String> = wrong
        .map(|(path, function)| format!("{}: {}", path.display(), function.name))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} functions take a tuple or more than {MAX_ARGUMENTS} arguments:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let clippy = fs::read_to_string(root().join("clippy.toml")).unwrap();
    assert!(
        !clippy.contains("too-many-arguments-threshold"),
        "clippy's own limit of {MAX_ARGUMENTS} holds"
    );
}

/// Names of the tests in a text, including those inside `proptest!`, which `syn` does not parse.
fn tests_in(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let name = line.strip_prefix("async ").unwrap_or(line);
        if let Some(name) = name.strip_prefix("fn ").filter(|_| is_test) {
            names.extend(name.split('(').next());
            is_test = false;
        }
    }
    names
}

#[test]
fn names_of_tests_are_short() {
    let mut long = Vec::new();
    for path in sources(&root().join("crates")) {
        let text = fs::read_to_string(&path).unwrap();
        let names = tests_in(&text).into_iter();
        let too_long = names.filter(|name| name.split('_').count() > MAX_WORDS_OF_A_TEST);
        long.extend(too_long.map(|name| format!("{}: {name}", path.display())));
    }
    assert!(
        long.is_empty(),
        "of more than 8 words:\n{}",
        long.join("\n")
    );
    let text = "#[test]\n#[ignore]\nfn a_b() {\nfn c() {\n    #[test]\n    fn d(x in 0..3) {\n";
    assert_eq!(tests_in(text), ["a_b", "d"]);
}

/// Every test that docs/faults.md names exists, and every fault names one.
#[test]
fn every_fault_has_its_tests() {
    let text = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let mut faults = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let Ok(number) = row[2..].split(' ').next().unwrap().parse::<usize>() else {
            continue;
        };
        faults.push(number);
        let named: Vec<&str> = row.split('`').filter(|part| part.contains("::")).collect();
        assert!(!named.is_empty(), "fault {number} names no test");
        for test in named {
            let (file, name) = test.split_once("::").unwrap();
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            assert!(tests_in(&text).contains(&name), "there is no test {test}");
        }
    }
    assert_eq!(faults, (1..=FAULTS).collect::<Vec<_>>());
}

/// Every random stream is created from a `StreamKey`.
#[test]
fn random_streams_come_from_their_keys() {
    for path in all_sources() {
        let is_list = path.ends_with("assay-tasks/src/random.rs");
        if is_list || is_test_file(&path) {
            continue;
        }
        let text = before_tests(&path);
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let own = code.filter(|line| line.contains(" Stream::new(")).count();
        assert_eq!(own, 0, "{}: take the stream from StreamKey", path.display());
    }
}

#[test]
fn the_parser_finds_tuples_and_lengths() {
    let source = "fn long(a: u8) {\n\n}\nfn pair((a, b): (u8, u8)) {}\nfn by_reference(p: &(u8, u8)) {}\n\
                  fn list(p: &[(u8, u8)]) {}\n#[cfg(test)]\nmod tests { fn ignored(p: (u8, u8)) {} }\n";
    let mut functions = Functions::default();
    functions.visit_file(&syn::parse_file(source).unwrap());
    let found: Vec<(&str, usize, bool)> = functions
        .found
        .iter()
        .map(|f| (f.name.as_str(), f.lines, f.has_tuple))
        .collect();
    assert_eq!(
        found,
        [
            ("long", 3, false),
            ("pair", 1, true),
            ("by_reference", 1, true),
            ("list", 1, false)
        ]
    );
}
