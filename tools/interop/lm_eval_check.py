"""Evaluates a merged policy with lm-evaluation-harness and with assay on the same problems, greedily, and compares them
problem by problem: the text, and whether the answer is right.

Usage: python tools/interop/lm_eval_check.py --model DIR --problems FILE [--limit N] [--max-tokens N] [--assay BINARY]
(pip install lm-eval; torch and transformers on CPU.) DIR comes from `assay export --format merged`; FILE is GSM8K's test.jsonl
or a file with the same columns. The harness gets the system prompt of assay's style `gsm8k` and its own `strict-match`
rule for `#### answer`.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import yaml
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

TASK = {
    "task": "gsm8k_local",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer.split('####')[-1].strip()}}",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True,
                     "regexes_to_ignore": [",", r"\$", r"\.$"]}],
    "filter_list": [{"name": "strict-match",
                     "filter": [{"function": "regex", "regex_pattern": r"#### (\-?[0-9\.\,]+)"}, {"function": "take_first"}]}],
}


def by_harness(args, folder, system):
    generation = {"do_sample": False, "max_gen_toks": args.max_tokens, "until": []}
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(args.problems)}}, "generation_kwargs": generation}
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    result = evaluator.simple_evaluate(
        model="hf", model_args=f"pretrained={args.model},dtype=float32", tasks=["gsm8k_local"], limit=args.limit, device="cpu",
        batch_size=1, apply_chat_template=True, system_instruction=system, log_samples=True,
        task_manager=TaskManager(include_path=str(folder)))
    samples = sorted(result["samples"]["gsm8k_local"], key=lambda sample: sample["doc_id"])
    return [(sample["resps"][0][0].strip(), bool(sample["exact_match"])) for sample in samples]


def by_assay(args, folder):
    out = folder / "traces.jsonl"
    subprocess.run([args.assay, "sample", "--model", args.model, "--problems", args.problems, "--limit", str(args.limit),
                    "--samples", "1", "--top-k", "1", "--max-tokens", str(args.max_tokens), "--style", "gsm8k", "--dtype", "f32",
                    "--out", out], check=True)
    traces = [json.loads(line) for line in out.read_text().splitlines()]
    return [(trace["text"].strip(), trace["correct"]) for trace in traces], traces[0]["prompt_token_ids"]


def system_prompt(args, prompt_ids):
    """The system prompt of assay's style, read from a prompt that assay rendered."""
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(args.model).decode(prompt_ids)
    return text.split("system\n", 1)[1].split("<|im_end|>", 1)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--problems", required=True, type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--assay", default="target/release/assay")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own, prompt = by_assay(args, pathlib.Path(folder))
        theirs = by_harness(args, pathlib.Path(folder), system_prompt(args, prompt))
    same_text = sum(a[0] == b[0] for a, b in zip(own, theirs))
    same_verdict = sum(a[1] == b[1] for a, b in zip(own, theirs))
    for number, (a, b) in enumerate(zip(own, theirs)):
        print(f"problem {number}: text {'equal' if a[0] == b[0] else 'differs'}, right: assay {a[1]}, harness {b[1]}")
    print(f"{len(own)} problems: {same_text} equal texts, {same_verdict} equal verdicts, right: assay {sum(a[1] for a in own)}, "
          f"harness {sum(b[1] for b in theirs)}")
    return 0 if same_verdict == len(own) else 1


if __name__ == "__main__":
    sys.exit(main())
