"""Reference numbers of tiny random models from transformers and peft.

Run by hand: python tools/golden/models.py [NAME...]   (transformers 5, peft, torch on CPU)
Writes crates/assay-train/tests/golden/models/<name>/: the model as a Hugging Face directory, a PEFT adapter with a
token-classification head, and golden.json / *.safetensors with logits, log-probabilities, gradients of the SFT, GRPO,
BCE and implicit-head losses, and ten AdamW steps.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import save_file
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    MistralConfig,
    MistralForCausalLM,
    MistralForTokenClassification,
    Phi3Config,
    Phi3ForCausalLM,
    Phi3ForTokenClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForTokenClassification,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    SmolLM3ForTokenClassification,
)
from transformers.modeling_layers import GenericForTokenClassification
from transformers.models.gemma3.modeling_gemma3 import Gemma3PreTrainedModel

OUT = Path(__file__).resolve().parents[2] / "crates/assay-train/tests/golden/models"
VOCAB = 96
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPE = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)


class Gemma3ForTokenClassification(GenericForTokenClassification, Gemma3PreTrainedModel):
    """transformers publishes no such class; this is what its others are made of."""

    config: Gemma3TextConfig
    config_class = Gemma3TextConfig


FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
LOCAL = dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
             sliding_attention=dict(rope_type="default", rope_theta=10000.0))
PLAIN = dict(rope_type="default", rope_theta=1000000.0)
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification,
              dict(head_dim=16, rope_parameters=LLAMA3, tie_word_embeddings=False), "5MB"),
    "llama-tied": (LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification,
                   dict(rope_parameters=LLAMA3, tie_word_embeddings=True), "5MB"),
    "qwen2-tied": (Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification,
                   dict(rope_parameters=PLAIN, tie_word_embeddings=True), "5MB"),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification,
              dict(rope_parameters=PLAIN, tie_word_embeddings=False), "30KB"),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, Qwen3ForTokenClassification,
              dict(head_dim=16, rope_parameters=PLAIN, tie_word_embeddings=True), "5MB"),
    "mistral": (MistralConfig, MistralForCausalLM, MistralForTokenClassification,
                dict(head_dim=16, rope_parameters=PLAIN, tie_word_embeddings=False, sliding_window=200), "5MB"),
    "phi3": (Phi3Config, Phi3ForCausalLM, Phi3ForTokenClassification,
             dict(rope_parameters=PLAIN, tie_word_embeddings=False, sliding_window=200), "5MB"),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM, SmolLM3ForTokenClassification,
                dict(rope_parameters=PLAIN, tie_word_embeddings=True, no_rope_layers=[1, 0]), "5MB"),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, Gemma3ForTokenClassification,
               dict(head_dim=16, rope_parameters=LOCAL, tie_word_embeddings=True, sliding_window=128,
                    layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=24), "5MB"),
}
RANK, ALPHA, BETA, HEAD_BIAS = 4, 6, 0.7, 0.25


def groups(generator):
    def ids(n):
        return torch.randint(3, VOCAB, (n,), generator=generator).tolist()

    return [
        {"prompt": ids(7), "completions": [ids(9), ids(4), ids(12)]},
        {"prompt": ids(3), "completions": [ids(1), ids(20)]},
        {"prompt": ids(90), "completions": [ids(6)]},
    ]


def each(data):
    for group in data:
        for completion in group["completions"]:
            yield group["prompt"], completion


def logprobs(model, prompt, completion):
    ids = torch.tensor([prompt + completion])
    logits = model(ids).logits[0].float()
    lp = logits.log_softmax(-1)
    first = len(prompt) - 1
    return torch.stack([lp[first + t, token] for t, token in enumerate(completion)]), logits[first:-1]


def randomise(model, generator, scale=0.3):
    center = 0.0 if model.config.model_type == "gemma3_text" else 1.0
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(center + 0.1 * noise if "norm" in name else noise * (0.5 if p.dim() == 1 else scale))


def lora_gradients(model):
    out = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            out[name.replace(".default", "").replace(".modules_to_save", "")] = p.grad.clone().contiguous()
    model.zero_grad(set_to_none=True)
    return out


def losses(data, generator):
    """Fixed advantages, old log-probabilities and labels for every completion."""
    extra = []
    for _, completion in each(data):
        n = len(completion)
        extra.append({
            "advantages": torch.randn(n, generator=generator).tolist(),
            "old_offset": (0.3 * torch.randn(n, generator=generator)).tolist(),
            "label": int(torch.randint(0, 2, (1,), generator=generator)),
        })
    extra[0]["label"], extra[1]["label"] = 1, 0
    return extra


def sft_loss(model, data):
    parts = [logprobs(model, p, c)[0] for p, c in each(data)]
    return -torch.cat(parts).mean()


def grpo_loss(model, data, extra, old):
    total = 0.0
    for (p, c), e, o in zip(each(data), extra, old):
        lp = logprobs(model, p, c)[0]
        ratio = torch.exp(lp - torch.tensor(o))
        adv = torch.tensor(e["advantages"])
        surrogate = torch.minimum(ratio * adv, ratio.clamp(0.8, 1.2) * adv)
        total = total - surrogate.mean() / len(extra)
    return total


def bce(token_logits, extra):
    """Class-balanced: half the mean over positive tokens plus half the mean over negative tokens."""
    pos = torch.cat([z for z, e in zip(token_logits, extra) if e["label"] == 1])
    neg = torch.cat([z for z, e in zip(token_logits, extra) if e["label"] == 0])
    smooth = 0.1
    f = torch.nn.functional.binary_cross_entropy_with_logits
    return 0.5 * f(pos, torch.full_like(pos, 1 - smooth)) + 0.5 * f(neg, torch.full_like(neg, smooth))


def scrub(out):
    """No machine's path in a committed file; modules_to_save without PEFT's repetitions."""
    for path in out.rglob("README.md"):
        path.unlink()
    for path in out.rglob("adapter_config.json"):
        config = json.loads(path.read_text())
        config["base_model_name_or_path"] = "model"
        if config["modules_to_save"]:
            config["modules_to_save"] = ["score"]
        config["target_modules"] = sorted(config["target_modules"])
        path.write_text(json.dumps(config, indent=2) + "\n")


def build(name, spec):
    config_class, lm_class, cls_class, extra_config, shard = spec
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    config = config_class(**SHAPE, **extra_config)
    config._attn_implementation = "eager"
    base = lm_class(config).float().eval()
    randomise(base, generator)
    if config.tie_word_embeddings:
        base.tie_weights()
    base.save_pretrained(out / "model", max_shard_size=shard)
    data = groups(generator)
    extra = losses(data, generator)
    golden = {"groups": data, "extra": extra, "rank": RANK, "alpha": ALPHA, "beta": BETA, "head_bias": HEAD_BIAS}

    # Base model: logits, log-probabilities, gradients of all weights.
    with torch.no_grad():
        pairs = [logprobs(base, p, c) for p, c in each(data)]
    golden["base_logprobs"] = [lp.tolist() for lp, _ in pairs]
    golden["base_logits"] = [logits.tolist() for _, logits in pairs[:2]]
    base_logprobs = [lp.detach() for lp, _ in pairs]
    loss = sft_loss(base, data)
    loss.backward()
    golden["full_sft_loss"] = loss.item()
    save_file({n: p.grad.clone().contiguous() for n, p in base.named_parameters()}, out / "grad_full_sft.safetensors")
    base.zero_grad(set_to_none=True)

    # Policy adapter.
    targets = FUSED if name == "phi3" else TARGETS
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type=TaskType.CAUSAL_LM)
    policy = get_peft_model(base, lora).eval()
    with torch.no_grad():
        for n, p in policy.named_parameters():
            if "lora_" in n:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    policy.save_pretrained(out / "policy")
    with torch.no_grad():
        golden["policy_logprobs"] = [logprobs(policy, p, c)[0].tolist() for p, c in each(data)]
    old = [(torch.tensor(lp) + torch.tensor(e["old_offset"])).tolist()
           for lp, e in zip(golden["policy_logprobs"], extra)]
    golden["old_logprobs"] = old
    for key, loss in [("sft", sft_loss(policy, data)), ("grpo", grpo_loss(policy, data, extra, old))]:
        loss.backward()
        golden[f"{key}_loss"] = loss.item()
        save_file(lora_gradients(policy), out / f"grad_{key}.safetensors")

    # Implicit head: z = beta (log pi_D - log pi_ref) + b on the same adapter.
    bias = torch.tensor(HEAD_BIAS, requires_grad=True)
    token_logits = [BETA * (logprobs(policy, p, c)[0] - ref) + bias
                    for (p, c), ref in zip(each(data), base_logprobs)]
    loss = bce(token_logits, extra)
    loss.backward()
    golden["implicit_logits"] = [z.tolist() for z in token_logits]
    golden["implicit_loss"] = loss.item()
    grads = lora_gradients(policy)
    grads["head.bias"] = bias.grad.reshape(1)
    save_file(grads, out / "grad_implicit.safetensors")

    # Ten AdamW steps on the SFT loss: warm-up, cosine, clipping.
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    trajectory = []
    for step in range(10):
        share = (step + 1) / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 8))
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * share
        loss = sft_loss(policy, data)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        trajectory.append({"loss": loss.item(), "norm": norm.item(), "lr": 1e-2 * share})
    golden["trajectory"] = trajectory
    final = {n.replace(".default", ""): p.detach().clone().contiguous()
             for n, p in policy.named_parameters() if p.requires_grad}
    save_file(final, out / "adamw_final.safetensors")

    # Reward adapter with a linear head, as PEFT saves a token classifier.
    config.num_labels = 1
    cls = cls_class.from_pretrained(out / "model", config=config, dtype=torch.float32).eval()
    cls.dropout.p = 0.0
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type=TaskType.TOKEN_CLS,
                      modules_to_save=["score"])
    reward = get_peft_model(cls, lora).eval()
    with torch.no_grad():
        for n, p in reward.named_parameters():
            if p.requires_grad:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    reward.save_pretrained(out / "reward")
    token_logits = [reward(torch.tensor([p + c])).logits[0, len(p):, 0].float() for p, c in each(data)]
    loss = bce(token_logits, extra)
    loss.backward()
    golden["reward_logits"] = [z.tolist() for z in token_logits]
    golden["reward_loss"] = loss.item()
    grads = lora_gradients(reward)
    save_file(grads, out / "grad_reward.safetensors")
    (out / "golden.json").write_text(json.dumps(golden))
    scrub(out)
    print(name, {k: v for k, v in golden.items() if k.endswith("_loss")})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        build(name, MODELS[name])
