//! `summary.json`: named estimates as a tree.
//!
//! A dotted name such as `select.majority.at_4` is a path of nested objects; every leaf is
//! `{"value", "low", "high", "n"}` with finite numbers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::EvalError;
use crate::statistics::Estimate;

/// Estimates by dotted name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    entries: BTreeMap<String, Estimate>,
}

/// A name (of a model, of a perturbation) as one segment of a dotted name: dots, slashes and white
/// space become `_`.
pub fn segment(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(|c| {
            if c == '.' || c == '/' || c.is_whitespace() {
                '_'
            } else {
                c
            }
        })
        .collect();
    if clean.is_empty() {
        "_".to_owned()
    } else {
        clean
    }
}

impl Summary {
    /// Adds or replaces an entry. An estimate with a number that is not finite is dropped: the file
    /// holds no NaN. Negative zero becomes zero.
    pub fn insert(&mut self, name: &str, estimate: Estimate) {
        if estimate.is_finite() {
            let unsigned = Estimate {
                value: estimate.value + 0.0,
                low: estimate.low + 0.0,
                high: estimate.high + 0.0,
                n: estimate.n,
            };
            self.entries.insert(name.to_owned(), unsigned);
        }
    }

    /// Adds an entry unless it is `None`: a statistic that is not defined has no entry.
    pub fn insert_some(&mut self, name: &str, estimate: Option<Estimate>) {
        if let Some(estimate) = estimate {
            self.insert(name, estimate);
        }
    }

    /// The entry of that dotted name.
    pub fn get(&self, name: &str) -> Option<&Estimate> {
        self.entries.get(name)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Estimate)> {
        self.entries
            .iter()
            .map(|(name, estimate)| (name.as_str(), estimate))
    }

    /// Adds or replaces every entry of another summary.
    pub fn extend(&mut self, other: Summary) {
        self.entries.extend(other.entries);
    }

    /// The nested tree.
    ///
    /// # Errors
    /// [`EvalError::Summary`] if one name is both a leaf and the prefix of another.
    pub fn to_value(&self) -> Result<Value, EvalError> {
        let mut root = Map::new();
        for (name, estimate) in &self.entries {
            let conflict = |problem: &str| EvalError::Summary {
                entry: name.clone(),
                problem: problem.to_owned(),
            };
            let (path, leaf) = name.rsplit_once('.').unwrap_or(("", name));
            let mut node = &mut root;
            for part in path.split('.').filter(|part| !part.is_empty()) {
                let child = node
                    .entry(part)
                    .or_insert_with(|| Value::Object(Map::new()));
                node = child
                    .as_object_mut()
                    .ok_or_else(|| conflict("its parent is not an object"))?;
                if is_leaf(node) {
                    return Err(conflict("its parent is itself an estimate"));
                }
            }
            node.insert(leaf.to_owned(), leaf_value(estimate));
        }
        Ok(Value::Object(root))
    }

    /// Reads a tree back.
    ///
    /// # Errors
    /// [`EvalError::Summary`] if a branch does not end in an estimate.
    pub fn from_value(value: &Value) -> Result<Self, EvalError> {
        let mut summary = Self::default();
        collect(value, String::new(), &mut summary)?;
        Ok(summary)
    }

    /// Writes `summary.json`, indented. The file is replaced atomically.
    ///
    /// # Errors
    /// [`EvalError::File`], [`EvalError::Summary`] as [`Summary::to_value`].
    pub fn write(&self, path: &Path) -> Result<(), EvalError> {
        let text = format!("{:#}\n", self.to_value()?);
        let failed = |source| EvalError::File {
            action: "write",
            path: path.to_owned(),
            source,
        };
        let temporary = path.with_extension("json.partial");
        let mut file = std::fs::File::create(&temporary).map_err(failed)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        std::fs::rename(&temporary, path).map_err(failed)
    }

    /// Reads `summary.json`.
    ///
    /// # Errors
    /// [`EvalError::File`], [`EvalError::Json`], [`EvalError::Summary`].
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let text = std::fs::read_to_string(path).map_err(|source| EvalError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let value = serde_json::from_str(&text).map_err(|source| EvalError::Json {
            file: path.display().to_string(),
            line: source.line(),
            source,
        })?;
        Self::from_value(&value)
    }
}

fn leaf_value(estimate: &Estimate) -> Value {
    let fields = [
        ("value", estimate.value),
        ("low", estimate.low),
        ("high", estimate.high),
    ];
    let mut leaf: Map<String, Value> = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    leaf.insert("n".to_owned(), estimate.n.into());
    Value::Object(leaf)
}

fn is_leaf(node: &Map<String, Value>) -> bool {
    node.get("value").is_some_and(Value::is_number)
}

fn collect(value: &Value, name: String, summary: &mut Summary) -> Result<(), EvalError> {
    let failed = |problem: String| EvalError::Summary {
        entry: name.clone(),
        problem,
    };
    let node = value
        .as_object()
        .ok_or_else(|| failed("expected an object".to_owned()))?;
    if is_leaf(node) {
        let estimate =
            serde_json::from_value(value.clone()).map_err(|error| failed(error.to_string()))?;
        summary.insert(&name, estimate);
        return Ok(());
    }
    for (key, child) in node {
        let full = if name.is_empty() {
            key.clone()
        } else {
            format!("{name}.{key}")
        };
        collect(child, full, summary)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Summary {
        let mut summary = Summary::default();
        summary.insert(
            "select.majority.at_4",
            Estimate {
                value: 0.5,
                low: 0.25,
                high: 0.1 + 0.2,
                n: 8,
            },
        );
        summary.insert(
            "select.random.at_4",
            Estimate {
                value: 1.0 / 3.0,
                low: 0.25,
                high: 0.75,
                n: 8,
            },
        );
        summary.insert("seconds", Estimate::exact(12.5));
        summary
    }

    #[test]
    fn zero_has_no_sign() {
        let mut summary = Summary::default();
        summary.insert("none", Estimate::exact(-0.0));
        let none = summary.get("none").unwrap();
        for value in [none.value, none.low, none.high] {
            assert!(value == 0.0 && value.is_sign_positive());
        }
    }

    #[test]
    fn names_nest() {
        let value = example().to_value().unwrap();
        assert_eq!(value["select"]["majority"]["at_4"]["n"], 8);
        assert_eq!(value["seconds"]["value"], 12.5);
        assert_eq!(Summary::from_value(&value).unwrap(), example());
    }

    #[test]
    fn files_read_back_to_the_same_bits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.json");
        example().write(&path).unwrap();
        assert_eq!(Summary::read(&path).unwrap(), example());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        std::fs::write(&path, "{\n\"a\": }").unwrap();
        assert!(
            Summary::read(&path)
                .unwrap_err()
                .to_string()
                .contains("line 2")
        );
        assert!(
            Summary::read(&directory.path().join("absent"))
                .unwrap_err()
                .to_string()
                .starts_with("cannot read")
        );
    }

    #[test]
    fn conflicts_and_malformed_leaves_are_errors() {
        let mut summary = example();
        summary.insert("seconds.sample", Estimate::exact(1.0));
        assert!(
            summary
                .to_value()
                .unwrap_err()
                .to_string()
                .contains("`seconds.sample`")
        );
        let malformed = serde_json::json!({"a": {"b": {"value": 1.0, "low": 0.5}}});
        assert!(
            Summary::from_value(&malformed)
                .unwrap_err()
                .to_string()
                .contains("`a.b`")
        );
        assert!(
            Summary::from_value(&serde_json::json!({"a": 3}))
                .unwrap_err()
                .to_string()
                .contains("expected an object")
        );
    }

    #[test]
    fn entries_that_are_not_finite_are_dropped() {
        let mut summary = Summary::default();
        summary.insert("x", Estimate::exact(f64::NAN));
        summary.insert_some("y", None);
        assert!(summary.is_empty());
        assert_eq!(segment("Qwen2.5/0.5B chat"), "Qwen2_5_0_5B_chat");
        assert_eq!(segment(""), "_");
    }
}
