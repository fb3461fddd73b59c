"""Token rewards of an exported reward directory in transformers: the numbers that `assay score` gives.

    python examples/token_rewards.py EXPORT/reward BASE_MODEL

Needs: pip install torch transformers peft
"""

import sys
import tomllib
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification


def load(directory, base):
    """The adapted model, its head's description, and the head's tensors (empty inside a token classifier)."""
    head = tomllib.loads((Path(directory) / "reward_head.toml").read_text())
    if head["head"]["kind"] == "linear":
        model = AutoModelForTokenClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    weights = Path(directory) / "reward_head.safetensors"
    tensors = load_file(weights) if weights.exists() else {}
    tensors = {name.removeprefix("base_model.model.score."): tensor for name, tensor in tensors.items()}
    return PeftModel.from_pretrained(model, directory).eval(), head, tensors


@torch.no_grad()
def token_rewards(model, head, tensors, prompt, completion):
    """r_t of every completion token, [len(completion)]; ids in, dense granularity."""
    ids, n = torch.tensor([prompt + completion]), len(prompt)

    def run():
        out = model(ids, output_hidden_states=True)
        logprobs = out.logits[0, n - 1 : -1].log_softmax(-1).gather(1, ids[0, n:, None])[:, 0]
        return logprobs, out.hidden_states[-1][0, n:]

    if head["head"]["kind"] == "linear":
        z = model(ids).logits[0, n:, 0]
    else:
        logprobs, hidden = run()
        with model.disable_adapter():
            reference, _ = run()
        ratio = logprobs - head["head"]["reference_weight"] * reference
        z = head["head"]["beta"] * ratio + tensors["bias"]
        if head["head"]["kind"] == "hybrid":
            z = z + hidden @ tensors["weight"][0]
    to = head["scoring"]["transform"]
    return (z / to["temperature"]).clamp(to["lower"], to["upper"])


if __name__ == "__main__":
    from transformers import AutoTokenizer

    loaded = load(sys.argv[1], sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
    question = [{"role": "user", "content": "A box holds 12 eggs. How many eggs are in 7 boxes?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
    completion = tokenizer("7 boxes hold 7 * 12 = 74 eggs.\n#### 74", add_special_tokens=False)["input_ids"]
    for token, reward in zip(completion, token_rewards(*loaded, prompt, completion)):
        print(f"{reward:+8.3f}  {tokenizer.decode([token])!r}")
