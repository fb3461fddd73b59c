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
