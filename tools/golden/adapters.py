"""Adapters of every kind that PEFT writes, and the log-probabilities that PEFT computes with them.

Run by hand: python tools/golden/adapters.py   (transformers 5, peft, torch on CPU)
Writes crates/assay-lm/tests/golden/adapters/: two tiny random Llama models (`tied`, `untied`), a PEFT directory a case,
and expected.json with the log-probability of every token of one completion.
"""

import json
import re
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).resolve().parents[2] / "crates/assay-lm/tests/golden/adapters"
VOCAB = 48
SHAPE = dict(
    vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
PROMPT = [1, 7, 30, 11]
COMPLETION = [5, 41, 8, 8, 19, 2]
QV = ["q_proj", "v_proj"]

# name: (base, LoraConfig fields)
CASES = {
    "plain": ("tied", dict(target_modules=QV)),
    "rslora": ("tied", dict(target_modules=QV, use_rslora=True)),
    "all_linear": ("untied", dict(target_modules="all-linear")),
    "exclude": ("tied", dict(target_modules=["q_proj", "up_proj"], exclude_modules=["layers.1.mlp.up_proj"])),
    "exclude_pattern": ("tied", dict(target_modules=["q_proj", "up_proj"], exclude_modules=r".*\.0\.mlp\..*")),
    "layers": ("tied", dict(target_modules=QV, layers_to_transform=[1], layers_pattern="layers")),
    "one_layer": ("tied", dict(target_modules=QV, layers_to_transform=0)),
    "ranks": ("tied", dict(target_modules=QV + ["down_proj"], rank_pattern={"q_proj": 5, r"layers\.1\.mlp\.down_proj": 2},
                           alpha_pattern={"v_proj": 1, "model.layers.0.mlp.down_proj": 9})),
    "rank_rslora": ("tied", dict(target_modules=QV, rank_pattern={"q_proj": 6}, use_rslora=True)),
    "dora": ("tied", dict(target_modules=QV + ["gate_proj", "down_proj"], use_dora=True)),
    "dora_head": ("untied", dict(target_modules=["lm_head", "o_proj"], use_dora=True)),
    "lora_bias": ("tied", dict(target_modules=QV + ["o_proj"], lora_bias=True)),
    "head": ("untied", dict(target_modules=["q_proj", "lm_head"])),
    "head_tied": ("tied", dict(target_modules=["q_proj", "lm_head"])),
    "embedding": ("untied", dict(target_modules=["q_proj", "embed_tokens"])),
    "embedding_tied": ("tied", dict(target_modules=["q_proj", "embed_tokens"])),
    "saved_embedding": ("tied", dict(target_modules=QV, modules_to_save=["embed_tokens"])),
    "saved_both": ("untied", dict(target_modules=QV, modules_to_save=["embed_tokens", "lm_head"])),
    "saved_norms": ("tied", dict(target_modules=QV, modules_to_save=["norm", "input_layernorm"])),
    "saved_projection": ("tied", dict(target_modules=QV, modules_to_save=["up_proj"])),
}


def base_model(tied):
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied)).float().eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.1 * noise if "norm" in name else 0.3 * noise)
    if tied:
        model.tie_weights()
    return model


def logprobs(model):
    with torch.no_grad():
        lp = model(torch.tensor([PROMPT + COMPLETION])).logits[0].float().log_softmax(-1)
    first = len(PROMPT) - 1
    return [lp[first + t, token].item() for t, token in enumerate(COMPLETION)]


def scrub(path):
    (path / "README.md").unlink(missing_ok=True)
    config = json.loads((path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "base"
    for key in ["target_modules", "exclude_modules", "modules_to_save"]:
        if isinstance(config.get(key), list):
            config[key] = sorted(set(config[key]))
    (path / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    expected = {"prompt": PROMPT, "completion": COMPLETION, "cases": {}}
    for tied in [True, False]:
        base_model(tied).save_pretrained(OUT / ("tied" if tied else "untied"))
    for name, (base, fields) in CASES.items():
        model = base_model(base == "tied")
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        lora = LoraConfig(r=3, lora_alpha=4, task_type=TaskType.CAUSAL_LM, **fields)
        model = get_peft_model(model, lora).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                if p.requires_grad:
                    noise = 0.2 * torch.randn(p.shape, generator=generator)
                    p.copy_(p + noise if "modules_to_save" in key or "magnitude" in key else noise)
        model.save_pretrained(OUT / name)
        expected["cases"][name] = {"base": base, "logprobs": logprobs(model)}
        scrub(OUT / name)
    # Keys as other tools write them: with the adapter's name, and without PEFT's prefix.
    for name, rename in [
        ("named_keys", lambda key: re.sub(r"\.lora_([AB])\.", r".lora_\1.default.", key)),
        ("bare_keys", lambda key: key.removeprefix("base_model.model.")),
    ]:
        shutil.copytree(OUT / "plain", OUT / name)
        file = OUT / name / "adapter_model.safetensors"
        save_file({rename(key): t for key, t in load_file(file).items()}, file)
        expected["cases"][name] = expected["cases"]["plain"]
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
