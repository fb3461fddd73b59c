"""Matrices of less than 16 bits per weight in safetensors files, and the values that the programs that define the formats
read from them.

Run by hand: python tools/golden/packed_weights.py AUTO_GPTQ AUTO_AWQ
(torch on CPU, transformers 5, bitsandbytes 0.50; the two arguments are directories with the unpacked wheels auto_gptq 0.7.1
and autoawq 0.2.7.post3, of which one file each is imported.)
Writes crates/assay-lm/tests/golden/packed/<name>/{config.json,model.safetensors} and expected/<name>.safetensors.
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.backends.utils import _get_4bit_code
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).resolve().parents[2] / "crates/assay-lm/tests/golden/packed"
SHAPE = dict(vocab_size=40, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5)
LAYER = "model.layers.0.mlp.up_proj"
INPUTS, OUTPUTS, GROUP = 64, 96, 32


def load_module(root, path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(root) / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(name, tensors, settings, expected):
    folder = OUT / name
    folder.mkdir(parents=True)
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", quantization_config=settings, **SHAPE)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    save_file({key: value.float().contiguous() for key, value in expected.items()}, OUT / "expected" / f"{name}.safetensors")


def unpacked(packed, state):
    """The values by the general implementation of bitsandbytes. Its faster one for CPUs starts a new block with every row,
    so it differs where the length of a row is no multiple of the block size."""
    scales = state.absmax
    if state.nested:
        scales = bnb.dequantize_blockwise(scales, state.state2) + state.offset
    code = _get_4bit_code(state.quant_type, packed.device)
    shape = tuple(state.shape)
    return _dequantize_4bit_compute(packed.reshape(-1), scales, code, state.blocksize, shape, state.dtype).float()


def bits_and_bytes():
    """A whole model saved by transformers, and one matrix without nested scales."""
    torch.manual_seed(3)
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                      bnb_4bit_compute_dtype=torch.bfloat16)
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, device_map="cpu",
                                                     dtype=torch.bfloat16)
        target = OUT / "nf4"
        model.save_pretrained(target)
        for other in target.glob("generation_config.json"):
            other.unlink()
        expected = {}
        for name, module in model.named_modules():
            if hasattr(module, "weight") and hasattr(module.weight, "quant_state"):
                expected[f"{name}.weight"] = unpacked(module.weight.data, module.weight.quant_state)
        save_file(expected, OUT / "expected/nf4.safetensors")
    weight = torch.randn(OUTPUTS, INPUTS)
    packed, state = bnb.quantize_4bit(weight, quant_type="fp4", blocksize=128, compress_statistics=False)
    tensors = {f"{LAYER}.weight": packed}
    tensors |= {f"{LAYER}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    write("fp4", tensors, dict(quant_method="bitsandbytes", load_in_4bit=True),
          {f"{LAYER}.weight": unpacked(packed, state)})


def random_words(rows, columns, high=2**31):
    return torch.randint(-high, high, (rows, columns), dtype=torch.int64).to(torch.int32)


def gptq(root):
    module = load_module(root, "auto_gptq/nn_modules/qlinear/qlinear_cuda.py")
    for bits in (4, 8):
        layer = module.QuantLinear(bits, GROUP, INPUTS, OUTPUTS, bias=False)
        layer.qweight = random_words(INPUTS * bits // 32, OUTPUTS)
        # No zero point of all ones, which version 2 of the format stores as a larger number.
        layer.qzeros = random_words(INPUTS // GROUP, OUTPUTS * bits // 32) & ~(0x11111111 if bits == 4 else 0x01010101)
        layer.scales = torch.rand(INPUTS // GROUP, OUTPUTS, dtype=torch.float16) / 8
        layer.g_idx = layer.g_idx[torch.randperm(INPUTS)].contiguous()
        expected = {f"{LAYER}.weight": layer(torch.eye(INPUTS, dtype=torch.float16)).T}
        tensors = {f"{LAYER}.{part}": getattr(layer, part) for part in ("qweight", "qzeros", "scales", "g_idx")}
        settings = dict(quant_method="gptq", bits=bits, group_size=GROUP, desc_act=True, sym=False)
        write(f"gptq-{bits}", tensors, settings, expected)
        if bits == 4:
            tensors[f"{LAYER}.qzeros"] = layer.qzeros + 0x11111111
            write("gptq-v2", tensors, settings | dict(checkpoint_format="gptq_v2"), expected)


def awq(root):
    dequantise = load_module(root, "awq/utils/packing_utils.py").dequantize_gemm
    words, zeros = random_words(INPUTS, OUTPUTS // 8), random_words(INPUTS // GROUP, OUTPUTS // 8)
    scales = torch.rand(INPUTS // GROUP, OUTPUTS, dtype=torch.float16) / 8
    tensors = {f"{LAYER}.qweight": words, f"{LAYER}.qzeros": zeros, f"{LAYER}.scales": scales}
    settings = dict(quant_method="awq", bits=4, group_size=GROUP, version="gemm", zero_point=True)
    write("awq", tensors, settings, {f"{LAYER}.weight": dequantise(words, zeros, scales, 4, GROUP).T})


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "expected").mkdir(parents=True)
    torch.manual_seed(7)
    bits_and_bytes()
    gptq(sys.argv[1])
    awq(sys.argv[2])
    for file in sorted((OUT / "expected").iterdir()):
        print(file.name, {name: tuple(value.shape) for name, value in load_file(file).items()})


if __name__ == "__main__":
    main()
