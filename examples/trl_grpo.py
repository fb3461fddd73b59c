"""GRPO with TRL on quickstart's small model, rewarded by the reward that assay learned. No answers are used.

    assay quickstart --out runs/quickstart
    assay export --run runs/quickstart/sft --format merged --out sft
    python examples/trl_grpo.py --run runs/quickstart --policy sft --steps 20 [--token-rewards]

Needs: pip install assay trl. Prints the mean reward and the accuracy of each step's samples. The
accuracy is for the reader only: the trainer sees the reward.
"""

import argparse
import json
import tempfile

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import assay
from assay.trainers.trl import CriticReward, token_reward_trainer


def problems(path):
    """The questions of quickstart's test problems with their answers, once each."""
    found = {}
    with open(path) as file:
        for line in file:
            record = json.loads(line)
            found[record["question"]] = record["answer"]
    rows = found.items()
    return Dataset.from_list([{"prompt": [{"role": "user", "content": q}], "gold": a} for q, a in rows])


class Counted(CriticReward):
    """The reward, which also tells TRL's log how many answers are right."""

    def __call__(self, prompts, completions, completion_ids=None, **columns):
        rewards = super().__call__(prompts, completions, completion_ids, **columns)
        right = [found.predicted_answer == gold for found, gold in zip(self.last, columns["gold"])]
        columns["log_metric"]("accuracy", sum(right) / len(right))
        return rewards


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="directory of assay quickstart")
    parser.add_argument("--policy", required=True, help="the SFT model as a Hugging Face directory")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--token-rewards", action="store_true", help="an advantage for each token")
    arguments = parser.parse_args()

    reward = Counted(assay.Critic.load(f"{arguments.run}/airl"), score="soft_min", same_tokenizer=True)
    trainer = token_reward_trainer(reward) if arguments.token_rewards else GRPOTrainer
    with tempfile.TemporaryDirectory() as out:
        settings = GRPOConfig(
            output_dir=out,
            max_steps=arguments.steps,
            per_device_train_batch_size=128,
            num_generations=8,
            max_completion_length=64,
            learning_rate=6e-4,
            lr_scheduler_type="constant",
            beta=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=arguments.seed,
            disable_tqdm=True,
        )
        trainer = trainer(
            model=AutoModelForCausalLM.from_pretrained(arguments.policy),
            processing_class=AutoTokenizer.from_pretrained(arguments.policy),
            reward_funcs=reward,
            args=settings,
            train_dataset=problems(f"{arguments.run}/traces.jsonl"),
        )
        trainer.train()
    rows = [row for row in trainer.state.log_history if "reward" in row]
    for row in rows:
        print(f"step {row['step']:3d}  reward {row['reward']:7.3f}  accuracy {row['accuracy']:.3f}")
    first, last = rows[:5], rows[-5:]
    mean = lambda some, name: sum(row[name] for row in some) / len(some)  # noqa: E731
    for name in ("reward", "accuracy"):
        print(f"{name}: {mean(first, name):.3f} in the first five steps, {mean(last, name):.3f} in the last five")
    if mean(last, "reward") <= mean(first, "reward"):
        raise SystemExit("the reward did not rise")


if __name__ == "__main__":
    main()
