//! Which modules an adapter changes, and the rank and scale of each pair: PEFT's rules for
//! `target_modules`, `exclude_modules`, `layers_to_transform`, `rank_pattern` and `alpha_pattern`.

use std::fmt;

use regex::Regex;
use serde::Deserialize;

/// A list of module names or paths, or one regular expression.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a list of module names or one pattern")]
pub(super) enum Modules {
    /// A module matches if its path equals an entry or ends with it.
    List(Vec<String>),
    /// A module matches if the expression matches its whole path.
    Pattern(String),
}

/// The rules of `adapter_config.json` about the pairs.
pub(super) struct Rules {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    /// The scale is alpha / sqrt(rank) instead of alpha / rank.
    pub(super) is_rank_stabilised: bool,
    pub(super) targets: Option<Modules>,
    pub(super) excluded: Option<Modules>,
    /// The layers with pairs; all if absent.
    pub(super) layers: Option<Vec<usize>>,
    /// Ranks by regular expressions over the end of a path; the first match applies.
    pub(super) ranks: Vec<(String, u64)>,
    /// Alphas by regular expressions over the end of a path; the first match applies.
    pub(super) alphas: Vec<(String, f64)>,
}

impl Modules {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::List(names) => names.is_empty(),
            Self::Pattern(pattern) => pattern.is_empty(),
        }
    }

    /// Whether a name is the pattern or in the list, literally.
    pub(super) fn names(&self, name: &str) -> bool {
        match self {
            Self::List(names) => names.iter().any(|listed| listed == name),
            Self::Pattern(pattern) => pattern == name,
        }
    }

    /// Whether a list holds a module; `None` for a pattern.
    fn lists(&self, module: &str) -> Option<bool> {
        let Self::List(names) = self else {
            return None;
        };
        let ends_with = |name: &String| {
            let before = module.strip_suffix(name.as_str());
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        Some(names.iter().any(ends_with))
    }
}

impl fmt::Display for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(names) => write!(f, "{names:?}"),
            Self::Pattern(pattern) => write!(f, "{pattern:?}"),
        }
    }
}

impl Rules {
    /// The reason why these rules cannot be applied; `None` if they can.
    pub(super) fn fault(&self) -> Option<String> {
        let patterns = self.ranks.iter().map(|(pattern, _)| pattern);
        for pattern in patterns.chain(self.alphas.iter().map(|(pattern, _)| pattern)) {
            if let Err(reason) = end_of_path(pattern) {
                return Some(format!(
                    "rank_pattern, alpha_pattern: {pattern:?} is not read: {reason}"
                ));
            }
        }
        let rank = self.ranks.iter().find(|(_, rank)| *rank == 0);
        if let Some((pattern, _)) = rank {
            return Some(format!(
                "rank_pattern: {pattern:?} has no rank of at least 1"
            ));
        }
        let alpha = self.alphas.iter().find(|(_, alpha)| !alpha.is_finite());
        alpha.map(|(pattern, alpha)| format!("alpha_pattern: {pattern:?} has alpha {alpha}"))
    }

    /// Whether a module must have a pair; `None` with a pattern, in which case modules with tensors
    /// have one.
    pub(super) fn expects(&self, module: &str) -> Option<bool> {
        if self.excluded.as_ref().and_then(|list| list.lists(module)) == Some(true) {
            return Some(false);
        }
        if let (Some(layers), Some(layer)) = (&self.layers, layer_of(module))
            && !layers.contains(&layer)
        {
            return Some(false);
        }
        let is_listed = self.targets.as_ref().and_then(|list| list.lists(module))?;
        match &self.excluded {
            Some(Modules::Pattern(pattern)) if is_listed && !pattern.is_empty() => None,
            _ => Some(is_listed),
        }
    }

    /// The rank of a module's pair.
    pub(super) fn rank(&self, module: &str) -> usize {
        let rank = by_pattern(&self.ranks, module).and_then(|rank| usize::try_from(rank).ok());
        rank.unwrap_or(self.rank)
    }

    /// The factor of a module's pair.
    pub(super) fn scale(&self, module: &str) -> f64 {
        let alpha = by_pattern(&self.alphas, module).unwrap_or(self.alpha);
        let rank = self.rank(module) as f64;
        match self.is_rank_stabilised {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        }
    }
}

/// The index after `layers.` in a path.
fn layer_of(module: &str) -> Option<usize> {
    let (_, rest) = module.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

fn by_pattern<T: Copy>(patterns: &[(String, T)], module: &str) -> Option<T> {
    let matching = patterns
        .iter()
        .find(|(pattern, _)| end_of_path(pattern).is_ok_and(|pattern| pattern.is_match(module)));
    matching.map(|(_, value)| *value)
}

/// PEFT's meaning of a key of `rank_pattern`: a regular expression for the last parts of a path.
fn end_of_path(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let list = |names: &[&str]| {
            Some(Modules::List(
                names.iter().map(|&name| name.to_owned()).collect(),
            ))
        };
        Rules {
            rank: 4,
            alpha: 8.0,
            is_rank_stabilised: false,
            targets: list(&["q_proj", "model.layers.1.mlp.up_proj"]),
            excluded: list(&["layers.2.self_attn.q_proj"]),
            layers: Some(vec![0, 1, 2]),
            ranks: [("layers\\.0\\.self_attn\\.q_proj".to_owned(), 16)].into(),
            alphas: [("q_proj".to_owned(), 2.0)].into(),
        }
    }

    #[test]
    fn names_match_the_end_of_a_path() {
        let rules = rules();
        for (module, expected) in [
            ("model.layers.0.self_attn.q_proj", true),
            ("model.layers.1.mlp.up_proj", true),
            ("model.layers.0.mlp.up_proj", false),
            ("model.layers.2.self_attn.q_proj", false),
            ("model.layers.3.self_attn.q_proj", false),
            ("model.layers.0.self_attn.xq_proj", false),
        ] {
            assert_eq!(rules.expects(module), Some(expected), "{module}");
        }
        let by_pattern = Rules {
            targets: Some(Modules::Pattern(".*q_proj".to_owned())),
            ..rules
        };
        assert_eq!(by_pattern.expects("model.layers.0.self_attn.q_proj"), None);
    }

    /// 2 / 16 where the rank is 16, 2 / 4 elsewhere on q, 8 / 4 on others; rsLoRA divides by the
    /// root.
    #[test]
    fn patterns_change_rank_and_scale() {
        let mut rules = rules();
        assert_eq!(rules.scale("model.layers.0.self_attn.q_proj"), 0.125);
        assert_eq!(rules.scale("model.layers.10.self_attn.q_proj"), 0.5);
        assert_eq!(rules.scale("model.layers.1.mlp.up_proj"), 2.0);
        rules.is_rank_stabilised = true;
        assert_eq!(rules.scale("model.layers.0.self_attn.q_proj"), 0.5);
        rules.alphas = [("(".to_owned(), 1.0)].into();
        assert!(rules.fault().unwrap().contains("\"(\""));
    }
}
