"""Writes a large traces.jsonl for measuring `assay eval` and `assay report`.

    python tools/looking/make_traces.py big.jsonl --traces 100000 --tokens 300
    /usr/bin/time -v assay eval --traces big.jsonl > /dev/null
    /usr/bin/time -v assay report --traces big.jsonl --out big.html

16 traces a problem, 300 tokens each with rewards, both log-probabilities and offsets. Correctness follows the mean reward, so
that every statistic is defined.
"""

import argparse
import json
import random

WORDS = "the sum of so we have then and add take times each day costs pays left total is are 12 3 48 7 = + * - .".split()


def numbers(values):
    return "[" + ",".join(f"{value:.6g}" for value in values) + "]"


def body(rng, tokens):
    """Text, ids and offsets of one trace: shared by many, for a fast generator."""
    ids, offsets, text = [], [], ""
    for _ in range(tokens - 1):
        word = rng.randrange(len(WORDS))
        start = len(text)
        text += WORDS[word] + " "
        ids.append(word)
        offsets.append([start, len(text)])
    ids.append(999)
    offsets.append([len(text), len(text)])
    return json.dumps(text), json.dumps(ids, separators=(",", ":")), json.dumps(offsets, separators=(",", ":"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=300)
    args = parser.parse_args()
    rng = random.Random(7)
    bodies = [body(rng, args.tokens) for _ in range(257)]
    noise = [rng.gauss(0, 1) for _ in range(1 << 14)]
    surprise = [numbers(-abs(rng.gauss(0, 0.5)) for _ in range(args.tokens)) for _ in range(131)]
    prompt = list(range(20, 60))
    with open(args.out, "w") as out:
        for i in range(args.traces):
            problem = i // 16
            level = rng.gauss(0, 0.4)
            right = rng.random() < 1 / (1 + 2.7 ** (-3 * level))
            start = rng.randrange(len(noise) - args.tokens)
            rewards = numbers(level + x for x in noise[start : start + args.tokens])
            text, ids, offsets = bodies[i % len(bodies)]
            answer = 7 if right else rng.randrange(8, 14)
            logprobs = surprise[i % len(surprise)]
            out.write(
                f'{{"id":"p{problem}","question":"How many are left of {problem}?","generator":"policy","prompt_token_ids":{prompt},'
                f'"text":{text},"token_ids":{ids},"token_offsets":{offsets},"token_rewards":{rewards},'
                f'"policy_logprobs":{logprobs},"sampling_logprobs":{logprobs},"scores":{{}},"answer":"7",'
                f'"predicted_answer":"{answer}","correct":{str(right).lower()},"finish_reason":"stop"}}\n'
            )


if __name__ == "__main__":
    main()
