//! Names of tensors in an adapter file.
//!
//! PEFT writes `base_model.model.<module>.lora_A.weight`. Other tools insert the adapter's name
//! (`lora_A.default`) or omit the prefix; both are read as PEFT's own.

/// The role of a tensor of an adapter file in its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Down map of a pair, `[rank, in]`; of an embedding `[rank, vocab]`.
    A,
    /// Up map of a pair, `[out, rank]`; of an embedding `[hidden, rank]`.
    B,
    /// Bias of the up map, `[out]`.
    UpBias,
    /// DoRA's magnitude of each output row, `[out]`.
    Magnitude,
    /// A whole tensor that replaces the base model's.
    Whole,
    /// A tensor of the base model, saved because the vocabulary was resized.
    Base,
}

/// A tensor's module, by its path in the base model, and its role in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// For example `model.layers.0.self_attn.q_proj`.
    pub(super) module: String,
    pub(super) kind: Kind,
    /// `weight` or `bias` of a whole tensor.
    pub(super) part: &'static str,
}

/// Components of a name, and the roles that they mean.
const MARKS: [(&str, Kind); 5] = [
    ("lora_A", Kind::A),
    ("lora_B", Kind::B),
    ("lora_embedding_A", Kind::A),
    ("lora_embedding_B", Kind::B),
    ("lora_magnitude_vector", Kind::Magnitude),
];

impl Key {
    /// Parses a name; `None` if it is not a tensor of an adapter.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut path = name;
        for prefix in ["base_model.model.", "base_model."] {
            if let Some(rest) = path.strip_prefix(prefix) {
                path = rest;
                break;
            }
        }
        let parts: Vec<&str> = path.split('.').collect();
        let part = match parts.last() {
            Some(&"bias") => "bias",
            _ => "weight",
        };
        let marked = parts.iter().enumerate().find_map(|(at, part)| {
            let (_, kind) = MARKS.iter().find(|(mark, _)| mark == part)?;
            Some((at, *kind))
        });
        if let Some((at, kind)) = marked {
            let kind = match (kind, part) {
                (Kind::B, "bias") => Kind::UpBias,
                (_, "bias") => return None,
                (kind, _) => kind,
            };
            let module = parts[..at].join(".");
            return Some(Self { module, kind, part });
        }
        if !["weight", "bias"].contains(parts.last()?) {
            return None;
        }
        let mut module = &parts[..parts.len() - 1];
        let mut kind = Kind::Whole;
        if let Some(at) = module.iter().position(|part| *part == "modules_to_save") {
            module = &module[..at];
        } else if let Some((&"base_layer", rest)) = module.split_last() {
            (module, kind) = (rest, Kind::Base);
        }
        let module = module.join(".");
        Some(Self { module, kind, part })
    }

    /// The name of the base model's tensor that a whole tensor replaces.
    pub(super) fn base_tensor(&self) -> String {
        format!("{}.{}", self.module, self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> (String, Kind) {
        let key = Key::parse(name).unwrap();
        (key.module, key.kind)
    }

    #[test]
    fn an_adapter_name_in_a_key_is_ignored() {
        let q = "model.layers.0.self_attn.q_proj".to_owned();
        for (tail, kind) in [
            ("lora_A.weight", Kind::A),
            ("lora_A.default.weight", Kind::A),
            ("lora_B.my_adapter.weight", Kind::B),
            ("lora_B.bias", Kind::UpBias),
            ("lora_B.default.bias", Kind::UpBias),
            ("lora_magnitude_vector", Kind::Magnitude),
            ("lora_magnitude_vector.default.weight", Kind::Magnitude),
        ] {
            for prefix in ["base_model.model.", ""] {
                let name = format!("{prefix}{q}.{tail}");
                assert_eq!(parsed(&name), (q.clone(), kind), "{name}");
            }
        }
    }

    #[test]
    fn whole_tensors_name_the_base_tensor() {
        for (name, expected, kind) in [
            (
                "base_model.model.lm_head.weight",
                "lm_head.weight",
                Kind::Whole,
            ),
            (
                "base_model.model.model.embed_tokens.modules_to_save.default.weight",
                "model.embed_tokens.weight",
                Kind::Whole,
            ),
            (
                "base_model.model.model.embed_tokens.base_layer.weight",
                "model.embed_tokens.weight",
                Kind::Base,
            ),
            ("base_model.model.score.bias", "score.bias", Kind::Whole),
        ] {
            let key = Key::parse(name).unwrap();
            assert_eq!((key.base_tensor().as_str(), key.kind), (expected, kind));
        }
        assert_eq!(
            parsed("base_model.model.model.embed_tokens.lora_embedding_A"),
            ("model.embed_tokens".to_owned(), Kind::A)
        );
        assert_eq!(Key::parse("base_model.model.prompt_embeddings"), None);
    }
}
