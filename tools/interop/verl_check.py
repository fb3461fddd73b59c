"""verl's own loader and reward manager with assay's reward function: tools/interop/trainers runs it.

    python tools/interop/verl_check.py QUICKSTART TOKENIZER

The samples of quickstart are the responses. Nothing is trained, because verl's rollout needs a GPU.
"""

import asyncio
import json
import sys

import numpy as np
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager

import assay

run, tokenizer = sys.argv[1], AutoTokenizer.from_pretrained(sys.argv[2])
with open(f"{run}/traces.jsonl") as file:
    records = [json.loads(line) for _, line in zip(range(16), file)]
config = OmegaConf.create(
    {
        "reward": {
            "custom_reward_function": {
                "path": "pkg://assay.trainers.verl",
                "name": "compute_score",
                "reward_kwargs": {"reward": f"{run}/airl"},
            },
            "reward_manager": {"source": "register", "name": "naive"},
        }
    }
)
async def scored(records):
    """What the manager returns for each record, one sample a batch as verl's workers ask."""
    manager = load_reward_manager(config, tokenizer)
    answers = []
    for record in records:
        prompt, response = record["prompt_token_ids"], record["token_ids"]
        batch = TensorDict(
            {
                "prompts": torch.tensor([prompt]),
                "responses": torch.tensor([response]),
                "attention_mask": torch.ones(1, len(prompt) + len(response), dtype=torch.long),
            },
            batch_size=1,
        )
        columns = {
            "data_source": "arithmetic",
            "reward_model": {"ground_truth": record["answer"]},
            "extra_info": {"question": record["question"]},
        }
        other = {name: np.array([value], dtype=object) for name, value in columns.items()}
        answers.append(await manager.run_single(DataProto(batch=batch, non_tensor_batch=other)))
    return answers


answers = asyncio.run(scored(records))
critic = assay.Critic.load(f"{run}/airl")
expected = critic.score([record["question"] for record in records], [record["text"] for record in records])
for answer, score in zip(answers, expected, strict=True):
    assert answer["reward_score"] == score.score, (answer, score)
    assert answer["reward_extra_info"]["p_correct"] == score.probability
print(f"{len(answers)} responses: verl's rewards are those of assay, from {answers[0]['reward_score']:.3f} on")
