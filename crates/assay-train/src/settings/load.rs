//! Reads settings from files and `--set` options.
//!
//! A file may extend others: `extends = ["base.toml"]`, with paths relative to the file. They are
//! applied first and in order, then later files, then `--set key=value` options. Later values
//! override earlier ones. Tables merge key by key; other values are replaced. A table with another
//! `kind` replaces the whole table, and a plain string is short for `{ kind = "..." }`. Every key
//! must exist; errors name the dotted key, its file and the nearest existing key.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Settings, retired};
use crate::TrainError;

/// Largest settings file in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Maximum number of files of one run's settings. A file that is named twice counts twice.
const MAX_FILES: usize = 64;
/// Maximum number of parts of a dotted key.
const MAX_DEPTH: usize = 16;
/// The key that names the files that a file extends.
const EXTENDS: &str = "extends";
/// The key that names the variant of a table.
const KIND: &str = "kind";

impl Settings {
    /// Reads files in order and applies `--set` options (`a.b=c`), then validates.
    ///
    /// A value of an option is read as TOML; if it is not TOML, it is a string.
    ///
    /// # Errors
    /// [`TrainError::UnknownSetting`], [`TrainError::SettingType`], [`TrainError::SettingsSyntax`],
    /// [`TrainError::File`] or [`TrainError::InvalidSetting`], each naming the key and the file or
    /// option.
    pub fn load(files: &[PathBuf], overrides: &[String]) -> Result<Self, TrainError> {
        let mut tree = Tree::default()?;
        for file in files {
            tree.add_file(file)?;
        }
        for option in overrides {
            tree.add_override(option)?;
        }
        let settings = tree.settings()?;
        settings.validate()?;
        Ok(settings)
    }

    /// Reads settings from a TOML text that extends no file, such as the one saved with a run.
    ///
    /// # Errors
    /// As [`Settings::load`]; `origin` is named as the file.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, TrainError> {
        let mut tree = Tree::default()?;
        tree.merge(parse(text, origin)?, origin);
        let settings = tree.settings()?;
        settings.validate()?;
        Ok(settings)
    }

    /// Reads TOML texts (each with its name in errors), then `key=value` options. Later values
    /// override earlier ones.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn from_texts(texts: &[(String, &str)], overrides: &[String]) -> Result<Self, TrainError> {
        let mut tree = Tree::default()?;
        for (text, origin) in texts {
            tree.merge(parse(text, origin)?, origin);
        }
        for option in overrides {
            tree.add_override(option)?;
        }
        let settings = tree.settings()?;
        settings.validate()?;
        Ok(settings)
    }

    /// Every setting as TOML, including defaults. Reading it returns the same settings.
    ///
    /// # Errors
    /// [`TrainError::SettingsSyntax`] if a value cannot be written, such as a path that is not
    /// UTF-8.
    pub fn resolved_toml(&self) -> Result<String, TrainError> {
        toml::to_string_pretty(&table(self)?).map_err(|error| unwritable(&error))
    }
}

/// Settings during reading, with the origin of every key.
struct Tree {
    table: Table,
    origins: BTreeMap<String, String>,
    /// Files read so far.
    files: usize,
}

impl Tree {
    fn default() -> Result<Self, TrainError> {
        Ok(Self {
            table: table(&Settings::default())?,
            origins: BTreeMap::new(),
            files: 0,
        })
    }

    fn add_file(&mut self, file: &Path) -> Result<(), TrainError> {
        let canonical = canonical(file)?;
        let directory = canonical.parent().unwrap_or(&canonical);
        let root = directory.parent().unwrap_or(directory).to_owned();
        self.add_with_bases(&canonical, file, &root, &mut Vec::new())
    }

    /// Adds a file after the files that it extends. `open` are the files being read; all files must
    /// be inside of `root`.
    fn add_with_bases(
        &mut self,
        canonical_file: &Path,
        named: &Path,
        root: &Path,
        open: &mut Vec<PathBuf>,
    ) -> Result<(), TrainError> {
        let origin = named.display().to_string();
        let refuse = |reason: String| TrainError::SettingsSyntax {
            origin: origin.clone(),
            reason,
        };
        if open.iter().any(|file| file == canonical_file) {
            return Err(refuse(
                "extends itself, directly or through others".to_owned(),
            ));
        }
        self.files += 1;
        if self.files > MAX_FILES {
            let reason = format!("more than {MAX_FILES} files build on each other");
            return Err(refuse(reason));
        }
        let mut own = parse(&read(canonical_file)?, &origin)?;
        let bases = match own.remove(EXTENDS) {
            None => Vec::new(),
            Some(value) => base_names(value)
                .ok_or_else(|| refuse(format!("`{EXTENDS}` must be a list of files")))?,
        };
        open.push(canonical_file.to_owned());
        for base in bases {
            let path = named.parent().unwrap_or(Path::new("")).join(&base);
            let base_file = canonical(&path)?;
            if Path::new(&base).is_absolute() || !base_file.starts_with(root) {
                return Err(refuse(format!("`{base}` lies outside {}", root.display())));
            }
            self.add_with_bases(&base_file, &path, root, open)?;
        }
        open.pop();
        self.merge(own, &origin);
        Ok(())
    }

    fn add_override(&mut self, option: &str) -> Result<(), TrainError> {
        let origin = format!("--set {option}");
        let refuse = |reason: &str| TrainError::SettingsSyntax {
            origin: origin.clone(),
            reason: reason.to_owned(),
        };
        let (key, text) = option
            .split_once('=')
            .ok_or_else(|| refuse("expected key=value"))?;
        let segments: Vec<&str> = key.trim().split('.').collect();
        if segments.iter().any(|segment| segment.is_empty()) {
            return Err(refuse("a part of the key is empty"));
        }
        if segments.len() > MAX_DEPTH {
            return Err(refuse("the key has too many parts"));
        }
        let mut value =
            option_value(text.trim()).ok_or_else(|| refuse("the value is not complete TOML"))?;
        let mut names = segments.iter().rev();
        let mut own = Table::new();
        if let Some(last) = names.next() {
            own.insert((*last).to_owned(), value);
        }
        for name in names {
            value = Value::Table(std::mem::take(&mut own));
            own.insert((*name).to_owned(), value);
        }
        self.merge(own, &origin);
        Ok(())
    }

    fn merge(&mut self, overlay: Table, origin: &str) {
        merge_table(
            &mut self.table,
            overlay,
            &mut |key| {
                self.origins.insert(key.to_owned(), origin.to_owned());
            },
            "",
        );
    }

    fn settings(mut self) -> Result<Settings, TrainError> {
        retired::leave_out(&mut self.table)?;
        let settings: Settings = self
            .table
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| self.explain(&error))?;
        match first_surplus(&self.table, &table(&settings)?, "") {
            Some((key, known)) => Err(self.unknown(key, known)),
            None => Ok(settings),
        }
    }

    /// Converts an error of deserialisation. `error` has a message and a line "in `a.b`".
    fn explain(&self, error: &toml::de::Error) -> TrainError {
        let text = error.to_string();
        let path = text
            .lines()
            .find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'))
            .unwrap_or("");
        let reason = error.message().to_owned();
        if let Some(rest) = reason.strip_prefix("unknown field `")
            && let Some((field, expected)) = rest.split_once('`')
        {
            let known = expected
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect();
            return self.unknown(join(path, field), known);
        }
        TrainError::SettingType {
            key: path.to_owned(),
            origin: self.origin(path),
            reason,
        }
    }

    fn unknown(&self, key: String, siblings: Vec<String>) -> TrainError {
        let origin = self.origin(&key);
        let nearest = nearest(&key, &siblings);
        TrainError::UnknownSetting {
            key,
            origin,
            nearest,
        }
    }

    /// The origin of a key, of a part of it, or of the table that contains it.
    fn origin(&self, key: &str) -> String {
        let inside = |outer: &str, inner: &str| {
            outer.is_empty()
                || inner == outer
                || inner
                    .strip_prefix(outer)
                    .is_some_and(|rest| rest.starts_with('.'))
        };
        let within = self.origins.iter().find(|(set, _)| inside(key, set));
        let around = self.origins.iter().rev().find(|(set, _)| inside(set, key));
        within
            .or(around)
            .map_or_else(|| "the defaults".to_owned(), |(_, origin)| origin.clone())
    }
}

fn table(settings: &Settings) -> Result<Table, TrainError> {
    Table::try_from(settings).map_err(|error| unwritable(&error))
}

fn unwritable(error: &toml::ser::Error) -> TrainError {
    TrainError::SettingsSyntax {
        origin: "writing settings".to_owned(),
        reason: error.to_string(),
    }
}

fn canonical(file: &Path) -> Result<PathBuf, TrainError> {
    file.canonicalize()
        .map_err(|source| TrainError::io("opening the settings file", file, source))
}

fn read(file: &Path) -> Result<String, TrainError> {
    let doing = "reading the settings file";
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(MAX_FILE + 1).read_to_string(&mut text))
        .map_err(|source| TrainError::io(doing, file, source))?;
    if text.len() as u64 > MAX_FILE {
        let reason = format!("no settings file is longer than {MAX_FILE} bytes");
        return Err(TrainError::malformed(file, reason));
    }
    Ok(text)
}

fn parse(text: &str, origin: &str) -> Result<Table, TrainError> {
    text.parse()
        .map_err(|error: toml::de::Error| TrainError::SettingsSyntax {
            origin: origin.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })
}

fn base_names(value: Value) -> Option<Vec<String>> {
    let Value::Array(items) = value else {
        return None;
    };
    items
        .into_iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect()
}

/// An option's value as TOML, or as a string if it does not look like TOML; `None` for invalid
/// TOML.
fn option_value(text: &str) -> Option<Value> {
    match format!("value = {text}").parse::<Table>() {
        Ok(mut table) if table.len() == 1 => table.remove("value"),
        _ if text.starts_with(['"', '\'', '[', '{']) => None,
        _ => Some(Value::String(text.to_owned())),
    }
}

/// Merges `overlay` into `base`. Calls `set` with the dotted path of every value that is set.
fn merge_table(base: &mut Table, overlay: Table, set: &mut impl FnMut(&str), path: &str) {
    for (key, value) in overlay {
        let path = join(path, &key);
        let value = match (base.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) if same_kind(old, &new) => {
                merge_table(old, new, set, &path);
                continue;
            }
            (Some(Value::Table(old)), Value::String(kind)) if old.contains_key(KIND) => {
                if old.get(KIND).and_then(Value::as_str) == Some(&kind) {
                    continue;
                }
                Value::Table(Table::from_iter([(KIND.to_owned(), Value::String(kind))]))
            }
            (_, value) => value,
        };
        set_leaves(&value, set, &path);
        base.insert(key, value);
    }
}

/// Whether `new` has the same kind as `old`, or names none.
fn same_kind(old: &Table, new: &Table) -> bool {
    new.get(KIND).is_none_or(|kind| old.get(KIND) == Some(kind))
}

fn set_leaves(value: &Value, set: &mut impl FnMut(&str), path: &str) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                set_leaves(value, set, &join(path, key));
            }
        }
        _ => set(path),
    }
}

/// The first key of `given` that is not in `known`, with the known keys of the same table.
fn first_surplus(given: &Table, known: &Table, path: &str) -> Option<(String, Vec<String>)> {
    given
        .iter()
        .find_map(|(key, value)| match (value, known.get(key)) {
            (_, None) => Some((join(path, key), known.keys().cloned().collect())),
            (Value::Table(inner), Some(Value::Table(known))) => {
                first_surplus(inner, known, &join(path, key))
            }
            _ => None,
        })
}

/// The existing key nearest to an unknown one: one of the same table, or else any key with a
/// similar name.
fn nearest(key: &str, siblings: &[String]) -> Option<String> {
    let (parent, name) = key.rsplit_once('.').unwrap_or(("", key));
    let like = |candidate: &str| strsim::jaro_winkler(name, candidate);
    let beside = siblings
        .iter()
        .map(|sibling| (like(sibling), join(parent, sibling)));
    let mut everywhere = Vec::new();
    if let Ok(defaults) = table(&Settings::default()) {
        all_keys(&defaults, "", &mut everywhere);
    }
    // A key of the same table is more likely meant than a key of the same name elsewhere.
    let elsewhere = everywhere
        .into_iter()
        .map(|key| (like(key.rsplit('.').next().unwrap_or(&key)) - 0.05, key));
    let best = beside.chain(elsewhere).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.7).then_some(best.1)
}

fn all_keys(table: &Table, path: &str, keys: &mut Vec<String>) {
    for (key, value) in table {
        let path = join(path, key);
        if let Value::Table(inner) = value {
            all_keys(inner, &path, keys);
        }
        keys.push(path);
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests;
