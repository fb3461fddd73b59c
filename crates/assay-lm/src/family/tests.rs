use std::collections::BTreeMap;

use super::*;

#[test]
fn each_architecture_has_one_row() {
    for family in FAMILIES {
        assert_eq!(family.architecture.family().model_type, family.model_type);
        let found = Family::of_hugging_face(family.model_type).unwrap();
        assert_eq!(found.architecture, family.architecture);
        assert!(Family::supported().contains(family.causal_lm_class));
    }
}

#[test]
fn names_go_both_ways() {
    let family = Architecture::Qwen2.family();
    for (gguf, published) in [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        (
            "blk.17.attn_q.bias",
            "model.layers.17.self_attn.q_proj.bias",
        ),
        (
            "blk.0.ffn_down.weight",
            "model.layers.0.mlp.down_proj.weight",
        ),
        (
            "blk.3.ffn_norm.weight",
            "model.layers.3.post_attention_layernorm.weight",
        ),
    ] {
        assert_eq!(family.hugging_face_name(gguf).as_deref(), Some(published));
        assert_eq!(family.gguf_name(published).as_deref(), Some(gguf));
    }
    assert_eq!(
        family.gguf_name("model.layers.0.self_attn.q_norm.weight"),
        None
    );
}

#[test]
fn targets_mean_the_fused_projection() {
    let all = &Projection::ALL;
    let phi3 = Architecture::Phi3.family().present(all);
    let expected = [
        Projection::QueryKeyValue,
        Projection::Output,
        Projection::GateUp,
        Projection::Down,
    ];
    assert_eq!(phi3, expected);
    assert_eq!(Architecture::Llama.family().present(all), *all);
    let one = Architecture::Phi3.family().present(&[Projection::Up]);
    assert_eq!(one, [Projection::GateUp]);
}

/// transformers' names of every tensor of two layers, and the names of the `gguf` package.
#[test]
fn names_are_those_of_the_gguf_package() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gguf_names.json");
    type Names = BTreeMap<String, BTreeMap<String, String>>;
    let golden: Names = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for family in FAMILIES {
        let names = &golden[family.gguf];
        for (published, gguf) in names {
            assert_eq!(family.gguf_name(published).as_deref(), Some(gguf.as_str()));
            let back = family.hugging_face_name(gguf);
            assert_eq!(back.as_deref(), Some(published.as_str()));
        }
        let with_bias = family
            .layer
            .iter()
            .filter(|spec| matches!(spec.role, Role::Projection(_, Bias::WhereConfigured)));
        let expected = OUTER.len() + 2 * (family.layer.len() + with_bias.count());
        let name = family.model_type;
        assert_eq!(names.len(), expected, "{name}: a tensor is not in both");
    }
}
