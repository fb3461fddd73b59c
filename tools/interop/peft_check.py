"""Compares assay with transformers and peft in both directions: each number is computed by both.

    python -m venv venv && venv/bin/pip install torch transformers peft gguf tensorboard
    cargo build --release -p assay-cli
    venv/bin/python tools/interop/peft_check.py --assay target/release/assay [--gguf smollm2.gguf]

Prints a Markdown table of largest absolute differences and fails when one exceeds 1e-4 (f32).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
from token_rewards import load, token_rewards  # noqa: E402

LIMIT = 1e-4
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROBLEMS = [
    {"question": f"Tom has {a} apples and buys {b} more. How many?", "answer": f"{a} + {b} = {a + b}.\n#### {a + b}"}
    for a, b in [(3, 4), (12, 5), (7, 7), (20, 1), (9, 13), (6, 8)]
]
SETTINGS = """
[model]
path = "base"
[data.train]
path = "problems.jsonl"
[prompt]
style = "gsm8k"
[lora.policy]
rank = 4
[lora.reward]
rank = 4
[sft]
epochs = 2
demonstrations_per_update = 3
[optimiser.sft]
learning_rate = 1e-2
[optimiser.reward]
learning_rate = 1e-2
[sampling]
samples = 2
max_completion_tokens = 40
[run]
iterations = 2
prompts_per_iteration = 2
eval_every = 0
"""
rows = []


def assay(*arguments):
    done = subprocess.run([ASSAY, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"assay {' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout


def read_traces(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@torch.no_grad()
def logprobs(model, trace):
    prompt, completion = trace["prompt_token_ids"], trace["token_ids"]
    ids = torch.tensor([prompt + completion])
    rows = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return rows.gather(1, ids[0, len(prompt) :, None])[:, 0]


def report(what, pairs):
    worst = max((torch.tensor(a) - b.float()).abs().max().item() for a, b in pairs)
    tokens = sum(len(a) for a, _ in pairs)
    rows.append((what, tokens, worst))
    print(f"| {what} | {tokens} | {worst:.1e} |", flush=True)


def tiny(kind, directory):
    """A random model with a byte-level tokenizer and a chat template."""
    torch.manual_seed(7)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator((p["question"] + p["answer"] for p in PROBLEMS), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    shape = dict(
        vocab_size=len(fast), hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=2, bos_token_id=None, initializer_range=0.3,
    )
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](**shape, tie_word_embeddings=kind == "qwen2")
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    fast.save_pretrained(directory)


def causal(base):
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def score(reward, policy, name):
    """Token rewards and log-probabilities of the sampled traces, by assay."""
    assay("score", "--reward", reward, "--model", "base", "--policy", "base", "--adapter", policy,
          "--traces", "sampled.jsonl", "--out", name)
    return read_traces(name)


@torch.no_grad()
def classified(model, trace):
    ids = torch.tensor([trace["prompt_token_ids"] + trace["token_ids"]])
    return model(ids).logits[0, len(trace["prompt_token_ids"]) :, 0]


def exported(kind, head):
    """What assay trained and exported, computed here."""
    run, out = f"run-{head}", f"export-{head}"
    extra = [] if head == "linear" else ["--set", f"reward.head={{kind='{head}',beta=0.5,reference_weight=0.3}}"]
    assay("train", "airl", "--config", "settings.toml", "--out", run, *extra)
    assay("export", "--run", run, "--format", "peft", "--out", out)
    assay("sample", "--model", "base", "--adapter", f"{out}/policy", "--problems", "problems.jsonl", "--samples", 3,
          "--max-tokens", 40, "--style", "gsm8k", "--out", "sampled.jsonl")
    traces = score(f"{out}/reward", f"{out}/policy", f"scored-{head}.jsonl")
    reward = load(f"{out}/reward", "base")
    ids = lambda trace: (trace["prompt_token_ids"], trace["token_ids"])
    pairs = [(trace["token_rewards"], token_rewards(*reward, *ids(trace))) for trace in traces]
    report(f"{kind}: assay's {head} reward in peft, token rewards", pairs)
    if head == "linear":
        assay("export", "--run", run, "--format", "merged-reward", "--out", "classifier")
        classifier = AutoModelForTokenClassification.from_pretrained("classifier", dtype=torch.float32).eval()
        report(f"{kind}: assay's merged linear reward in transformers, token rewards",
               [(trace["token_rewards"], classified(classifier, trace)) for trace in traces])
    policy = PeftModel.from_pretrained(causal("base"), f"{out}/policy").eval()
    pairs = [(trace["policy_logprobs"], logprobs(policy, trace)) for trace in traces]
    report(f"{kind}: assay's policy adapter in peft, log-probabilities", pairs)
    assay("export", "--run", run, "--format", "merged", "--out", f"merged-{head}")
    merged = causal(f"merged-{head}")
    pairs = [(trace["policy_logprobs"], logprobs(merged, trace)) for trace in traces]
    report(f"{kind}: assay's merged policy in transformers, log-probabilities", pairs)


def shake(model):
    """A few optimiser steps: every pair and the head leave their start."""
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    ids = torch.arange(3, 40)[None]
    for _ in range(3):
        optimiser.zero_grad()
        model(ids).logits.pow(2).mean().backward()
        optimiser.step()


def imported(kind):
    """What peft trained and saved, computed by assay."""
    common = dict(r=4, lora_alpha=8, lora_dropout=0.1, bias="none")
    policy = get_peft_model(
        causal("base"), LoraConfig(task_type="CAUSAL_LM", use_rslora=True, target_modules="all-linear", **common)
    )
    shake(policy)
    policy.save_pretrained("peft-policy")
    classifier = AutoModelForTokenClassification.from_pretrained("base", num_labels=1, dtype=torch.float32)
    targets = ["q_proj", "v_proj", "down_proj"]
    reward = get_peft_model(classifier, LoraConfig(task_type="TOKEN_CLS", target_modules=targets, **common))
    shake(reward)
    reward.save_pretrained("peft-reward")
    traces = score("peft-reward", "peft-policy", "scored-peft.jsonl")
    policy.eval(), reward.eval()
    pairs = [(trace["policy_logprobs"], logprobs(policy, trace)) for trace in traces]
    report(f"{kind}: peft's rsLoRA policy in assay, log-probabilities", pairs)

    report(f"{kind}: peft's token classifier in assay, token rewards",
           [(trace["token_rewards"], classified(reward, trace)) for trace in traces])


def from_gguf(gguf):
    """A GGUF base, fine-tuned and merged by assay, in transformers."""
    settings = SETTINGS.replace('"base"', json.dumps(str(gguf))).replace("max_completion_tokens = 40",
                                                                          "max_completion_tokens = 60")
    Path("gguf.toml").write_text(settings)
    assay("train", "airl", "--config", "gguf.toml", "--out", "run-gguf", "--set", "sft.epochs=1",
          "--set", "optimiser.sft.learning_rate=1e-3", "--set", "run.iterations=3",
          "--set", "run.prompts_per_iteration=1")
    assay("export", "--run", "run-gguf", "--format", "merged", "--out", "merged-gguf")
    assay("export", "--run", "run-gguf", "--format", "peft", "--out", "peft-gguf")
    assay("sample", "--model", gguf, "--adapter", "peft-gguf/policy", "--problems", "problems.jsonl", "--limit", 3,
          "--samples", 1, "--max-tokens", 40, "--style", "gsm8k", "--out", "sampled-gguf.jsonl")
    assay("score", "--reward", "peft-gguf/reward", "--policy", gguf, "--adapter", "peft-gguf/policy",
          "--traces", "sampled-gguf.jsonl", "--out", "scored-gguf.jsonl")
    traces = read_traces("scored-gguf.jsonl")
    merged = causal("merged-gguf")
    report(f"{Path(gguf).name}: merged by assay, in transformers, log-probabilities",
           [(trace["policy_logprobs"], logprobs(merged, trace)) for trace in traces])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("merged-gguf")
    for trace in traces:
        text = tokenizer.decode(trace["token_ids"], skip_special_tokens=True)
        assert text == trace["text"], (text, trace["text"])


def events(run):
    """TensorBoard reads the numbers of metrics.jsonl."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assay("export", "--run", run, "--format", "tensorboard", "--out", "events")
    read = EventAccumulator("events")
    read.Reload()
    metrics = read_traces(f"{run}/metrics.jsonl")
    count = 0
    for row in metrics:
        for tag, value in row.items():
            if tag in ("iteration", "phase"):
                continue
            found = [e.value for e in read.Scalars(tag) if e.step == row["iteration"]]
            assert len(found) == 1 and abs(found[0] - value) <= 1e-6 * max(1, abs(value)), (tag, row, found)
            count += 1
    print(f"| tensorboard reads metrics.jsonl: {count} scalars, all equal to f32 | | |")


def main():
    global ASSAY
    parser = argparse.ArgumentParser()
    parser.add_argument("--assay", required=True, type=Path)
    parser.add_argument("--gguf", type=Path)
    arguments = parser.parse_args()
    ASSAY = arguments.assay.resolve()
    gguf = arguments.gguf and arguments.gguf.resolve()
    print("| what | tokens | largest difference |\n|---|---|---|")
    for kind in ("llama", "qwen2"):
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            tiny(kind, "base")
            Path("problems.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROBLEMS))
            Path("settings.toml").write_text(SETTINGS)
            for head in ("linear", "implicit", "hybrid"):
                exported(kind, head)
            imported(kind)
            if kind == "llama":
                events("run-linear")
            if kind == "llama" and gguf:
                from_gguf(gguf)
            os.chdir("/")
    bad = [what for what, _, worst in rows if not worst <= LIMIT]
    if bad:
        sys.exit(f"beyond {LIMIT}: {bad}")


if __name__ == "__main__":
    main()
