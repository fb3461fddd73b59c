//! Which modules name each other: a module is public only if code outside its crate names it, and no
//! two files of the trainer import each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use super::architecture::{crate_dirs, is_test_file, root, sources};

/// Paths of modules and items as a file writes them, such as `assay_lm::packed::PackedBatch`.
#[derive(Default)]
struct NamedPaths(BTreeSet<String>);

impl NamedPaths {
    fn add<'a>(&mut self, segments: impl Iterator<Item = &'a syn::Ident>) {
        let names: Vec<String> = segments.map(ToString::to_string).collect();
        self.0.insert(names.join("::"));
    }

    /// Adds what a `use` item imports; `before` is the path in front of `tree`.
    fn add_tree(&mut self, before: &mut Vec<syn::Ident>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.clone());
                self.add_tree(before, &path.tree);
                before.pop();
            }
            syn::UseTree::Name(name) => self.add(before.iter().chain([&name.ident])),
            syn::UseTree::Rename(rename) => self.add(before.iter().chain([&rename.ident])),
            syn::UseTree::Glob(_) => self.add(before.iter()),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(before, tree);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for NamedPaths {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.ident != "tests" {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&mut Vec::new(), &item.tree);
    }

    /// `pub(super)` is no import.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(path.segments.iter().map(|segment| &segment.ident));
        visit::visit_path(self, path);
    }
}

/// Whether one of the paths is `path` or goes through it.
fn names(paths: &BTreeSet<String>, path: &str) -> bool {
    let mut rests = paths.iter().filter_map(|named| named.strip_prefix(path));
    rests.any(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn named_in(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap();
    let mut named = NamedPaths::default();
    named.visit_file(&syn::parse_file(&text).unwrap());
    named.0
}

/// The path of a source file as a module: `assay_lm::sampling` for `assay-lm/src/sampling.rs`.
fn module_path(crate_name: &str, src: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(src).unwrap().with_extension("");
    let names = inside
        .iter()
        .map(|part| part.to_string_lossy().into_owned());
    let names = names.filter(|name| name != "lib" && name != "mod");
    let all: Vec<String> = std::iter::once(crate_name.to_owned())
        .chain(names)
        .collect();
    all.join("::")
}

/// The file's module that a path names, among `modules`: the longest beginning of the path that is
/// one. `own` is the module that the path stands in.
fn resolve<'m>(path: &str, own: &str, modules: &'m BTreeSet<String>) -> Option<&'m String> {
    let (first, rest) = path.split_once("::").unwrap_or((path, ""));
    let parent = own.rsplit_once("::").map_or(own, |(parent, _)| parent);
    let root = own.split("::").next()?;
    let mut whole = match first {
        "crate" => format!("{root}::{rest}"),
        "super" => format!("{parent}::{rest}"),
        "self" => format!("{own}::{rest}"),
        _ => format!("{own}::{path}"),
    };
    let is_relative = !matches!(first, "crate" | "super" | "self");
    loop {
        if is_relative && whole == own {
            return None;
        }
        if let Some(found) = modules.get(&whole) {
            return Some(found).filter(|found| *found != own && *found != root);
        }
        whole.truncate(whole.rfind("::")?);
    }
}

/// The modules that each module of a crate names, from its files without their tests.
fn imports(crate_name: &str, src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let files: Vec<PathBuf> = sources(src)
        .into_iter()
        .filter(|file| !is_test_file(file))
        .collect();
    let modules: BTreeSet<String> = files
        .iter()
        .map(|file| module_path(crate_name, src, file))
        .collect();
    let of_file = |file: &PathBuf| {
        let own = module_path(crate_name, src, file);
        let named = named_in(file);
        let targets = named
            .iter()
            .filter_map(|path| resolve(path, &own, &modules));
        let targets = targets.cloned().collect();
        (own, targets)
    };
    files.iter().map(of_file).collect()
}

/// Everything that can be reached from `start` along imports.
fn reachable<'g>(
    start: &'g str,
    graph: &'g BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<&'g str> {
    let (mut found, mut open) = (BTreeSet::new(), vec![start]);
    while let Some(module) = open.pop() {
        for next in graph.get(module).into_iter().flatten() {
            if found.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    found
}

#[test]
fn trainer_has_no_import_cycles() {
    let graph = imports("assay_train", &root().join("crates/assay-train/src"));
    let edges: usize = graph.values().map(BTreeSet::len).sum();
    assert!(edges > 100, "only {edges} imports were found");
    let closes_cycle = |from: &str, to: &str| reachable(to, &graph).contains(from);
    let mut closing = Vec::new();
    for (from, targets) in &graph {
        let back = targets.iter().filter(|to| closes_cycle(from, to));
        closing.extend(back.map(|to| format!("{from} -> {to}")));
    }
    assert!(
        closing.is_empty(),
        "these imports are part of a cycle:\n{}",
        closing.join("\n")
    );
}

#[test]
fn paths_resolve_to_files() {
    let modules = ["a", "a::b", "a::b::c", "a::d"].map(str::to_owned).into();
    let found = |path| resolve(path, "a::b", &modules).map(String::as_str);
    assert_eq!(found("crate::d::Thing"), Some("a::d"));
    assert_eq!(found("super::d::Thing"), Some("a::d"));
    assert_eq!(found("c::call"), Some("a::b::c"));
    assert_eq!(found("crate::Error"), None);
    assert_eq!(found("std::fs"), None);
}

fn public_modules(file: &Path) -> Vec<String> {
    let parsed = syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap();
    let modules = parsed.items.into_iter().filter_map(|item| match item {
        syn::Item::Mod(module) if matches!(module.vis, syn::Visibility::Public(_)) => Some(module),
        _ => None,
    });
    modules.map(|module| module.ident.to_string()).collect()
}

/// Rust files that may use the crates (the crates themselves, the Python module, the fuzz targets),
/// each with what it names.
fn files_with_names() -> Vec<(PathBuf, BTreeSet<String>)> {
    let dirs = ["crates", "python/src", "fuzz"].map(|dir| root().join(dir));
    let present = dirs.iter().filter(|dir| dir.is_dir());
    let files = present.flat_map(|dir| sources(dir));
    files
        .filter(|file| !file.iter().any(|part| part == "target"))
        .map(|file| (file.clone(), named_in(&file)))
        .collect()
}

#[test]
fn public_modules_are_used_elsewhere() {
    let files = files_with_names();
    let mut public = 0;
    for dir in crate_dirs() {
        let src = dir.join("src");
        let name = dir.file_name().unwrap().to_string_lossy().replace('-', "_");
        for file in sources(&src) {
            for module in public_modules(&file) {
                let path = format!("{}::{module}", module_path(&name, &src, &file));
                let mut others = files.iter().filter(|(file, _)| !file.starts_with(&src));
                assert!(
                    others.any(|(_, named)| names(named, &path)),
                    "{path} is public, and no other crate names it"
                );
                public += 1;
            }
        }
    }
    assert!(public > 30, "only {public} public modules were found");
}

#[test]
fn imports_name_every_module_on_the_way() {
    let file = syn::parse_file("use a::b::{c::D, e};\nfn f() { g::h::i(); }").unwrap();
    let mut named = NamedPaths::default();
    named.visit_file(&file);
    for path in ["a", "a::b", "a::b::c", "a::b::c::D", "a::b::e", "g::h"] {
        assert!(names(&named.0, path), "{path}");
    }
    assert!(!names(&named.0, "a::b::D") && !names(&named.0, "a::b::c::DD"));
}
