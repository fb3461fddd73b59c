"""The exported policy and reward in transformers: sample n answers, keep the one with the highest mean token reward.

    python examples/best_of_n.py EXPORT BASE_MODEL "How many legs have 3 cats and 2 hens?"

EXPORT is what `assay export --format peft` wrote. Needs: pip install torch transformers peft
"""

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from token_rewards import load, token_rewards

SYSTEM = (
    "You solve problems step by step, one step a line. On the last line write #### and the final answer."
)  # style = "gsm8k"


def main(export, base, question, n=8):
    tokenizer = AutoTokenizer.from_pretrained(base)
    policy = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    policy = PeftModel.from_pretrained(policy, f"{export}/policy").eval()
    reward = load(f"{export}/reward", base)
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    drawn = policy.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=True,
        num_return_sequences=n,
        max_new_tokens=200,
    )
    ranked = []
    for row in drawn[:, len(prompt) :].tolist():
        end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
        completion = row[:end]
        score = token_rewards(*reward, prompt, completion).mean().item()
        ranked.append((score, tokenizer.decode(completion, skip_special_tokens=True)))
    for score, text in sorted(ranked, reverse=True):
        print(f"--- mean token reward {score:+.3f}\n{text}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
