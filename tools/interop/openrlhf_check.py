"""OpenRLHF's own executor asks the server of assay.trainers.openrlhf: tools/interop/trainers runs it.

    python tools/interop/openrlhf_check.py QUICKSTART TOKENIZER

An engine that replays quickstart's samples stands in for vLLM; the request and the reading of its answer are OpenRLHF's.
"""

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace

import torch
from openrlhf.utils.agent import SingleTurnAgentExecutor
from transformers import AutoTokenizer

import assay

run, tokenizer = sys.argv[1], AutoTokenizer.from_pretrained(sys.argv[2])
with open(f"{run}/traces.jsonl") as file:
    records = [json.loads(line) for _, line in zip(range(16), file)]


class Engine:
    """Returns the sample of a record."""

    def __init__(self, record):
        self.record = record

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=self.record["token_ids"], finish_reason="stop", logprobs=None)])


async def rewards(url):
    executor = SingleTurnAgentExecutor(url)
    sampling = SimpleNamespace(max_tokens=64, logprobs=None)
    calls = [
        executor.execute(record["question"], record["answer"], sampling, 256, tokenizer, Engine(record))
        for record in records
    ]
    return await asyncio.gather(*calls)


server = subprocess.Popen(
    [sys.executable, "-m", "assay.trainers.openrlhf", "--reward", f"{run}/airl", "--port", "0"],
    stdout=subprocess.PIPE,
    text=True,
)
try:
    url = server.stdout.readline().split()[-1] + "/get_reward"
    found = asyncio.run(rewards(url))
finally:
    server.terminate()
    server.wait()
critic = assay.Critic.load(f"{run}/airl")
expected = critic.score([record["question"] for record in records], [record["text"] for record in records])
for answer, score in zip(found, expected, strict=True):
    assert answer["reward"] == [score.score], (answer["reward"], score.score)
    assert answer["scores"] == [score.probability]
    # How OpenRLHF makes a tensor of it (trainer/ppo_utils/samples_generator.py).
    assert torch.tensor([answer["reward"]]).numel() == 1
print(f"{len(found)} responses: OpenRLHF's rewards are those of assay, from {found[0]['reward'][0]:.3f} on")
