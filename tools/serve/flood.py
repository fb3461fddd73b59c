#!/usr/bin/env python3
"""Floods a running `assay serve` with large, broken, slow and abandoned requests, and watches its memory.

    python tools/serve/flood.py http://127.0.0.1:8000 --pid PID --clients 32 --seconds 60

Standard library only; Linux. Prints one JSON object: connections and answers by kind of request and status, resident
memory before, at its peak and after (MB), and whether a valid request is answered afterwards. Exit 1 if it is not.
"""

import argparse
import collections
import json
import random
import socket
import sys
import threading
import time
import urllib.parse

from load import body, flood_body, memory

HEAD = "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"


class Flood:
    """One way of each kind to talk to the server; each returns the status of the answer, or what became of the connection."""

    def __init__(self, address):
        self.address, self.host = address, f"{address[0]}:{address[1]}"

    def kinds(self):
        return [name for name in dir(self) if name.startswith("send_")]

    def connect(self):
        return socket.create_connection(self.address, timeout=330)

    def head(self, path="/v1/score", *more):
        return (HEAD.format(path=path, host=self.host) + "".join(line + "\r\n" for line in more) + "\r\n").encode()

    def post(self, content, path="/v1/score"):
        content = content if isinstance(content, bytes) else content.encode()
        return self.ask(self.head(path, f"Content-Length: {len(content)}") + content)

    def ask(self, request):
        with self.connect() as connection:
            try:
                connection.sendall(request)
            except OSError:
                pass  # refused before all of it was read: the answer may be there
            return self.status(connection)

    @staticmethod
    def status(connection):
        answer = connection.recv(64)
        while connection.recv(1 << 16):
            pass
        return answer.split(b" ")[1].decode() if answer.startswith(b"HTTP/") else "closed"

    def send_scores(self, stream):
        return self.post(body(stream)[0])

    def send_largest(self, stream):
        return self.post(flood_body(stream)[0])

    def send_deep_json(self, stream):
        return self.post("[" * 500_000)

    def send_broken_utf8(self, stream):
        return self.post(b'{"question": "' + bytes([0xff]) * 1000 + b'"}')

    def send_broken_json(self, stream):
        text = body(stream)[0]
        return self.post(text[: stream.randrange(len(text))])

    def send_huge_body(self, stream):
        return self.post(b" " * (64 << 20))

    def send_huge_chunks(self, stream):
        with self.connect() as connection:
            try:
                connection.sendall(self.head("/v1/score", "Transfer-Encoding: chunked"))
                for _ in range(64):
                    connection.sendall(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
            except OSError:
                pass
            return self.status(connection)

    def send_huge_counts(self, stream):
        count = 10 ** stream.randrange(6, 18)
        request = {"model": "m", "messages": [{"role": "user", "content": "1"}], "n": count, "max_tokens": count}
        return self.post(json.dumps(request), "/v1/chat/completions")

    def send_many_headers(self, stream):
        return self.ask(self.head("/v1/score", *(f"X-{n}: {n}" for n in range(5000))))

    def send_long_header(self, stream):
        return self.ask(self.head("/v1/score", "X: " + "x" * (8 << 20)))

    def send_half_a_header(self, stream):
        with self.connect() as connection:
            connection.sendall(b"POST /v1/score HTT")
            time.sleep(stream.random())
            return "left"

    def send_and_leave(self, stream):
        content = flood_body(stream)[0].encode()
        with self.connect() as connection:
            connection.sendall(self.head("/v1/score", f"Content-Length: {len(content)}") + content)
            return "left"


def client(flood, end, seed, answers):
    stream = random.Random(seed)
    while time.monotonic() < end:
        kind = stream.choice(flood.kinds())
        try:
            outcome = getattr(flood, kind)(stream)
        except OSError as error:
            outcome = type(error).__name__
        answers[kind.removeprefix("send_"), outcome] += 1
        if outcome == "429":
            time.sleep(0.2)


def answers_again(flood):
    """Whether a proper request is answered once the queue that the flood left has been worked off."""
    for _ in range(30):
        if flood.send_scores(random.Random(0)) == "200":
            return True
        time.sleep(2)
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    address = urllib.parse.urlparse(arguments.server)
    flood = Flood((address.hostname, address.port))
    before, started = memory(arguments.pid), time.monotonic()
    tallies = [collections.Counter() for _ in range(arguments.clients)]
    threads = [
        threading.Thread(target=client, args=(flood, started + arguments.seconds, seed, tally), daemon=True)
        for seed, tally in enumerate(tallies)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = round(time.monotonic() - started, 1)
    alive = answers_again(flood)
    after, kinds = memory(arguments.pid), collections.defaultdict(dict)
    for (kind, outcome), count in sorted(sum(tallies, collections.Counter()).items()):
        kinds[kind][outcome] = count
    print(json.dumps({
        "clients": arguments.clients, "seconds": seconds, "requests": sum(sum(tally.values()) for tally in tallies),
        "answers": kinds, "before_mb": before["now_mb"], "peak_mb": after["peak_mb"], "after_mb": after["now_mb"], "alive": alive,
    }))
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main())
