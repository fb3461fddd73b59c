"""Reference numbers for reading GGUF files and rotary frequencies.

    python tools/golden/gguf_files.py MODELS_DIR crates/assay-lm/tests/golden

    python tools/golden/gguf_files.py --four-bit crates/assay-lm/tests/golden

Writes blocks.gguf (a few rows in every block format, written by the `gguf` package), and gguf.json: their values as
`gguf` dequantises them, the same for some tensors of the real models in MODELS_DIR, and rotary frequencies as
transformers computes them. The second form writes split-0000N-of-00003.gguf, which holds the formats that are expanded
when they are read, their values in four_bit.json, and gguf_names.json, the names that the `gguf` package gives to the
tensors of every family. Rows of Llama queries and keys are in Hugging Face's order, by transformers' own function.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

WRITTEN = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
PACKED = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K]
# Byte positions of half-precision scales inside a block of 256.
SCALES = {Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}
HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 256, 2, 1, 4

# general.architecture: model_type
FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3", "smollm3": "smollm3",
            "gemma3": "gemma3_text"}
TINY = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=4, pad_token_id=0, bos_token_id=1, eos_token_id=2)

REAL = {
    "smollm2-135m-instruct-q4_1.gguf": [
        ("blk.3.attn_q.weight", "model.layers.3.self_attn.q_proj.weight", 9),
        ("blk.3.attn_k.weight", "model.layers.3.self_attn.k_proj.weight", 3),
        ("blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight", None),
        ("token_embd.weight", "model.embed_tokens.weight", None),
    ],
    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf": [
        ("blk.2.attn_q.weight", "model.layers.2.self_attn.q_proj.weight", None),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", None),
        ("blk.9.ffn_down.weight", "model.layers.9.mlp.down_proj.weight", None),
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", None),
        ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias", None),
        ("output.weight", "lm_head.weight", None),
    ],
}


def summary(values):
    """Sums in double precision and samples over the whole tensor: enough to see any wrong value, scale or order."""
    flat = values.astype(np.float64).reshape(-1)
    weight = np.arange(flat.size) % 97 + 1.0
    step = max(1, flat.size // 48)
    return {
        "shape": list(values.shape),
        "sum": float(flat.sum()),
        "weighted": float((flat * weight).sum()),
        "squares": float((flat * flat).sum()),
        "step": step,
        "samples": [float(v) for v in values.reshape(-1)[::step]],
    }


def packed_rows(kind, rows, generator):
    block, size = GGML_QUANT_SIZES[kind]
    data = generator.integers(0, 256, (rows * HIDDEN // block, size), dtype=np.uint8)
    for position in SCALES[kind]:
        scale = (generator.uniform(0.001, 0.02, len(data)) * generator.choice([-1, 1], len(data))).astype(np.float16)
        data[:, position : position + 2] = scale.view(np.uint8).reshape(-1, 2)
    return data.reshape(rows, -1)


def unpermuted(values, heads):
    """Hugging Face's row order from a Llama file's."""
    processor = LlamaTensorProcessor()
    return processor._reverse_permute_weights(values, heads, heads)


def blocks(out):
    generator = np.random.default_rng(7)
    writer = gguf.GGUFWriter(out / "blocks.gguf", "llama")
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    golden = {}

    def add(name, published, kind, rows, heads=None):
        if kind in PACKED:
            data = packed_rows(kind, rows, generator)
        else:
            data = gguf.quants.quantize(generator.standard_normal((rows, HIDDEN)).astype(np.float32), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        values = gguf.quants.dequantize(data, kind).reshape(rows, HIDDEN)
        golden[published] = summary(unpermuted(values, heads) if heads else values)

    add("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", Type.Q6_K, HEADS * HEAD_DIM, HEADS)
    add("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", Type.F32, KV_HEADS * HEAD_DIM, KV_HEADS)
    for index, kind in enumerate(WRITTEN + PACKED):
        add(f"blk.{index}.ffn_up.weight", f"model.layers.{index}.mlp.up_proj.weight", kind, 2)
    norm = generator.standard_normal(HIDDEN).astype(np.float32)
    writer.add_tensor("output_norm.weight", norm)
    golden["model.norm.weight"] = summary(norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return golden


def four_bit(out):
    generator = np.random.default_rng(5)
    golden = {}
    writer = gguf.GGUFWriter(out / "split.gguf", "llama", split_max_tensors=2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)

    def add(name, published, kind, rows, heads=None):
        block, size = GGML_QUANT_SIZES[kind]
        data = generator.integers(0, 256, (rows * HIDDEN // block, size), dtype=np.uint8)
        if kind == Type.MXFP4:
            data[:, 0] = generator.integers(118, 130, len(data))
            data[0, 0], data[1, 0] = 0, 1
        else:
            data[:, :2] = generator.uniform(-0.02, 0.02, (len(data), 1)).astype(np.float16).view(np.uint8)
        data = data.reshape(rows, -1)
        writer.add_tensor(name, data, raw_dtype=kind)
        values = gguf.quants.dequantize(data, kind).reshape(rows, HIDDEN)
        golden[published] = summary(unpermuted(values, heads) if heads else values)

    add("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", Type.IQ4_NL, HEADS * HEAD_DIM, HEADS)
    for index, kind in enumerate([Type.IQ4_NL, Type.IQ4_XS, Type.MXFP4]):
        add(f"blk.{index}.ffn_up.weight", f"model.layers.{index}.mlp.up_proj.weight", kind, 2)
    norm = generator.standard_normal(HIDDEN).astype(np.float32)
    writer.add_tensor("output_norm.weight", norm)
    golden["model.norm.weight"] = summary(norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (out / "four_bit.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


def names(out):
    """For each family: Hugging Face's names of a model's tensors, and what the `gguf` package calls them."""
    golden = {}
    for family in FAMILIES:
        arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
        table = gguf.get_tensor_name_map(arch, 2)
        config = AutoConfig.for_model(FAMILIES[family], **TINY)
        config.tie_word_embeddings = False
        tensors = AutoModelForCausalLM.from_config(config).state_dict()
        golden[family] = {n: table.get_name(n, try_suffixes=(".weight", ".bias")) for n in tensors}
        assert all(golden[family].values()), golden[family]
    (out / "gguf_names.json").write_text(json.dumps(golden, indent=1) + "\n")


def real(path, wanted):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    golden = {}
    for name, published, heads in wanted:
        tensor = tensors[name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        golden[published] = summary(unpermuted(values, heads) if heads else values)
    return golden


def frequencies():
    cases = []
    llama3 = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    for head_dim, rope in [
        (64, dict(rope_type="default", rope_theta=10000.0)),
        (64, dict(rope_type="default", rope_theta=100000.0)),
        (128, dict(rope_type="default", rope_theta=1000000.0)),
        (64, dict(llama3, rope_theta=500000.0, factor=32.0)),
        (128, dict(llama3, rope_theta=500000.0, factor=8.0)),
        (64, dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
    ]:
        config = LlamaConfig(
            hidden_size=head_dim * 4, num_attention_heads=4, head_dim=head_dim, intermediate_size=64, vocab_size=32,
            num_hidden_layers=1, max_position_embeddings=131072, rope_parameters=rope,
        )
        values = LlamaRotaryEmbedding(config).inv_freq
        assert values.dtype == torch.float32
        cases.append({"config": json.loads(config.to_json_string(use_diff=False)), "head_dim": head_dim, "values": values.tolist()})
    assert "llama3" in ROPE_INIT_FUNCTIONS
    return cases


def main(models_dir, out):
    golden = {"blocks.gguf": blocks(out)}
    for name, wanted in REAL.items():
        found = next(iter(sorted(models_dir.glob(name)) + sorted(models_dir.glob(f"*/{name}"))), None)
        if found is None:
            raise SystemExit(f"{name} is not in {models_dir}")
        golden[name] = real(found, wanted)
    (out / "gguf.json").write_text(json.dumps({"tensors": golden, "rope": frequencies()}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--four-bit":
        four_bit(Path(sys.argv[2]))
        names(Path(sys.argv[2]))
        sys.exit()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
