"""GGUF files of tiny random models of every family, and the log-probabilities of the models they were made from.

Run by hand: python tools/golden/family_gguf.py   (transformers 5, gguf, torch on CPU)
Writes crates/assay-lm/tests/golden/families/<name>.gguf and families.json. Names come from the `gguf` package; rows of
queries and keys are interleaved and norms stored with their offset as llama.cpp's converter does. Depths are those at
which the layers that GGUF files leave unsaid (Gemma 3's global ones, SmolLM 3's unrotated ones) appear.
"""

import json
import shutil
from pathlib import Path

import gguf
import torch
from transformers import AutoConfig, AutoModelForCausalLM

OUT = Path(__file__).resolve().parents[2] / "crates/assay-lm/tests/golden/families"
VOCAB = 40
SHAPE = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, sliding_window=None,
             rms_norm_eps=1e-5)
PROMPT = [1, 7, 30, 11, 3]
COMPLETION = [5, 31, 8, 8, 19, 2]
GEMMA_ROPE = dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                  sliding_attention=dict(rope_type="default", rope_theta=1e4))
# name: (model_type, general.architecture, fields)
FAMILIES = {
    "llama": ("llama", "llama", dict(num_hidden_layers=2)),
    "qwen2": ("qwen2", "qwen2", dict(num_hidden_layers=2)),
    "qwen3": ("qwen3", "qwen3", dict(num_hidden_layers=2, head_dim=8)),
    "mistral": ("mistral", "llama", dict(num_hidden_layers=2, head_dim=8)),
    "phi3": ("phi3", "phi3", dict(num_hidden_layers=2)),
    "smollm3": ("smollm3", "smollm3", dict(num_hidden_layers=4, tie_word_embeddings=True)),
    "gemma3": ("gemma3_text", "gemma3", dict(num_hidden_layers=6, head_dim=8, query_pre_attn_scalar=8,
                                             sliding_window=32, rope_parameters=GEMMA_ROPE)),
}


def random_model(kind, fields):
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, **{**SHAPE, **fields})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(5)
    center = 0.0 if kind == "gemma3_text" else 1.0
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(center + 0.1 * noise if "norm" in name else 0.4 * noise)
    model.tie_weights()
    return model


def logprobs(model):
    with torch.no_grad():
        lp = model(torch.tensor([PROMPT + COMPLETION])).logits[0].log_softmax(-1)
    return [lp[len(PROMPT) - 1 + i, token].item() for i, token in enumerate(COMPLETION)]


def write(name, architecture, model):
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)
    table = gguf.get_tensor_name_map(
        next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == architecture), config.num_hidden_layers)
    for published, tensor in model.state_dict().items():
        if published == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture == "gemma3" and "norm" in published:
            tensor = tensor + 1
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for module, count in heads.items():
            if architecture in ("llama", "smollm3") and f"{module}.weight" in published:
                rows = tensor.reshape(count, 2, head_dim // 2, -1).swapaxes(1, 2)
                tensor = rows.reshape(tensor.shape)
        writer.add_tensor(table.get_name(published, try_suffixes=(".weight", ".bias")), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    golden = {"prompt": PROMPT, "completion": COMPLETION, "logprobs": {}}
    for name, (kind, architecture, fields) in FAMILIES.items():
        model = random_model(kind, fields)
        golden["logprobs"][name] = logprobs(model)
        write(name, architecture, model)
    (OUT / "families.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
