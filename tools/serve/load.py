#!/usr/bin/env python3
"""Load test of a running `assay serve`: many clients that score texts, or a flood that measures the peak memory.

    python tools/serve/load.py http://127.0.0.1:8000 --clients 64 --seconds 60
    python tools/serve/load.py http://127.0.0.1:8000 --flood --pid PID
    python tools/serve/load.py http://127.0.0.1:8000 --reward DIR --assay target/release/assay

Standard library only. Prints one JSON object: answers by status, p50 and p99 of answered requests (s), answers and
scored texts a second, and with --pid the server's peak resident memory (MB, Linux). With --reward, the directory that is served,
every scored text is scored again by `assay score` afterwards: `unequal` counts those with a score that differs in any bit.
Requests in progress at the end of the time are awaited.
"""

import argparse
import collections
import http.client
import json
import pathlib
import random
import struct
import subprocess
import tempfile
import threading
import time
import urllib.parse

QUESTION = "Natalia sold clips to {a} of her friends in April, and then she sold half as many clips in May. How many in all?"
TEXT = "In May she sold {a} / 2 = {b} clips.\nTogether that is {a} + {b} = {c} clips.\n#### {c}"


def body(stream):
    a = 2 * stream.randrange(1, 500)
    texts = [TEXT.format(a=a, b=a // 2, c=a + a // 2 + wrong) for wrong in range(stream.randrange(1, 5))]
    return json.dumps({"question": QUESTION.format(a=a), "text": texts}), len(texts)


def flood_body(stream):
    """As large as is taken: many long texts of one question."""
    texts = ["".join(f"{n} + {n} = {2 * n}\n" for n in range(40))[:480] + str(stream.random()) for _ in range(100)]
    return json.dumps({"question": "1", "text": texts}), len(texts)


class Client(threading.Thread):
    def __init__(self, address, end, make, seed):
        super().__init__(daemon=True)
        self.address, self.end, self.make, self.stream = address, end, make, random.Random(seed)
        self.statuses, self.times, self.texts = collections.Counter(), [], 0
        self.scored = {}
        self.contradictions = 0

    def run(self):
        connection = None
        while time.monotonic() < self.end:
            connection = connection or http.client.HTTPConnection(self.address, timeout=330)
            text, count = self.make(self.stream)
            started = time.monotonic()
            try:
                connection.request("POST", "/v1/score", text, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                read = answer.read()
            except OSError as error:
                self.statuses[type(error).__name__] += 1
                connection = None
                time.sleep(0.1)
                continue
            self.statuses[str(answer.status)] += 1
            if answer.status == 200:
                self.times.append(time.monotonic() - started)
                self.texts += count
                self.remember(json.loads(text), json.loads(read))
            elif answer.status == 429:
                time.sleep(min(float(answer.headers.get("Retry-After", 1)), max(0, self.end - time.monotonic())))

    def remember(self, asked, answered):
        """The scores of each text; one that is asked for again must have them again."""
        for text, item in zip(asked["text"], answered["data"], strict=True):
            scores = bits(item["scores"])
            self.contradictions += self.scored.setdefault((asked["question"], text), scores) != scores


def bits(scores):
    """Scores by name as the 32 bits that they are, however many digits they were written with."""
    return {name: struct.pack("<f", score) for name, score in scores.items()}


def offline(command, scored):
    """How many texts `command`, an `assay score`, gives other scores."""
    keys = list(scored)
    with tempfile.TemporaryDirectory() as place:
        traces, out = pathlib.Path(place, "traces.jsonl"), pathlib.Path(place, "scored.jsonl")
        rows = [{"id": number, "question": question, "text": text} for number, (question, text) in enumerate(keys)]
        traces.write_text("".join(json.dumps(row) + "\n" for row in rows))
        subprocess.run([*command, "--traces", traces, "--out", out], check=True, stdout=subprocess.DEVNULL)
        again = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(again) == len(keys), (len(again), len(keys))
    return sum(scored[key] != bits(trace["scores"]) for key, trace in zip(keys, again))


def memory(pid):
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: int(fields[key].split()[0]) // 1024 for name, key in [("peak_mb", "VmHWM"), ("now_mb", "VmRSS")]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--flood", action="store_true")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--reward")
    parser.add_argument("--model", help="base model of the reward, where not the one that it names")
    parser.add_argument("--assay", default="target/release/assay")
    arguments = parser.parse_args()
    address = urllib.parse.urlparse(arguments.server).netloc
    before = memory(arguments.pid) if arguments.pid else None
    started = time.monotonic()
    make = flood_body if arguments.flood else body
    clients = [Client(address, started + arguments.seconds, make, seed) for seed in range(arguments.clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    seconds = time.monotonic() - started
    statuses, times = collections.Counter(), sorted(t for client in clients for t in client.times)
    for client in clients:
        statuses.update(client.statuses)
    at = lambda share: round(times[min(len(times) - 1, int(share * len(times)))], 3) if times else None
    result = {
        "clients": arguments.clients, "seconds": round(seconds, 1), "answers": dict(statuses), "p50_s": at(0.5), "p99_s": at(0.99),
        "answers_per_s": round(len(times) / seconds, 2), "texts_per_s": round(sum(c.texts for c in clients) / seconds, 2),
    }
    if arguments.pid:
        result["memory"] = {"before": before, "after": memory(arguments.pid)}
    if arguments.reward:
        scored, contradictions = {}, sum(client.contradictions for client in clients)
        for client in clients:
            contradictions += sum(scored.get(key, scores) != scores for key, scores in client.scored.items())
            scored.update(client.scored)
        result["texts"], result["contradictions"] = len(scored), contradictions
        base = ["--model", arguments.model] if arguments.model else []
        result["unequal"] = offline([arguments.assay, "score", "--reward", arguments.reward, *base], scored)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
