#!/usr/bin/env python3
"""Load on a running `assay serve`: many clients that score texts for a while, or a flood to see the memory ceiling.

    python tools/serve/load.py http://127.0.0.1:8000 --clients 64 --seconds 60
    python tools/serve/load.py http://127.0.0.1:8000 --flood --pid PID

Standard library only. Prints one JSON object: answers by status, p50 and p99 of answered requests (s), answers and
scored texts a second, and with --pid the server's peak resident memory (MB, Linux).
"""

import argparse
import collections
import http.client
import json
import random
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

    def run(self):
        connection = None
        while time.monotonic() < self.end:
            connection = connection or http.client.HTTPConnection(self.address, timeout=330)
            text, count = self.make(self.stream)
            started = time.monotonic()
            try:
                connection.request("POST", "/v1/score", text, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except OSError as error:
                self.statuses[type(error).__name__] += 1
                connection = None
                time.sleep(0.1)
                continue
            self.statuses[str(answer.status)] += 1
            if answer.status == 200:
                self.times.append(time.monotonic() - started)
                self.texts += count
            elif answer.status == 429:
                time.sleep(min(float(answer.headers.get("Retry-After", 1)), max(0, self.end - time.monotonic())))


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
    print(json.dumps(result))


if __name__ == "__main__":
    main()
