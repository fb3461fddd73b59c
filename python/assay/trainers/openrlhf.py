"""OpenRLHF: a server for its remote reward URL, and a reward function for a Python file.

    python -m assay.trainers.openrlhf --reward runs/mine --port 5000
    # in the training command: --reward.remote_url http://127.0.0.1:5000/get_reward

OpenRLHF posts `{"query": [...], "prompts": [...], "labels": [...]}`, where a query is a prompt and
its response, and reads `rewards`, `scores` and `extra_logs`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .. import AssayError, Critic, TextScore
from .._critic import sigmoid

END = re.compile(r"(?:<\|[^<>|]*\|>|</s>|<eos>|<pad>|\s)+$")
"""Control tokens and spaces at the end of a decoded response; OpenRLHF does not remove them."""
LARGEST_REQUEST = 16 << 20


class RemoteReward:
    """Answers OpenRLHF's requests.

    `question` is a pattern with a group of the same name that finds the question in a prompt, for
    prompts that a chat template has rendered; without it the whole prompt is the question.
    """

    def __init__(self, critic: Critic, *, score: str | None = None, question: str | None = None) -> None:
        self.critic = critic
        self.score = score
        self.pattern = None if question is None else re.compile(question, re.DOTALL)
        if self.pattern is not None and "question" not in self.pattern.groupindex:
            raise ValueError("the pattern has no group `question`: write (?P<question>...)")

    def __call__(self, query: Sequence[str], prompts: Sequence[str], labels: Sequence[Any] = ()) -> dict[str, Any]:
        """Returns rewards of queries, and scores in (0, 1) for OpenRLHF's filter; 0 for empty responses."""
        if len(query) != len(prompts):
            raise ValueError(f"{len(query)} queries do not go with {len(prompts)} prompts")
        questions = [self._question(prompt) for prompt in prompts]
        texts = [_response(whole, prompt) for whole, prompt in zip(query, prompts)]
        found = self.critic.score(questions, texts, score=self.score)
        lowest = [item.scores.get("min", 0.0) for item in found]
        return {
            "rewards": [0.0 if item.score is None else item.score for item in found],
            "scores": [_share(item) for item in found],
            "extra_logs": {"assay_lowest_reward": lowest},
        }

    def _question(self, prompt: str) -> str:
        if self.pattern is None:
            return prompt
        found = self.pattern.search(prompt)
        if found is None:
            raise ValueError(f"the pattern finds no question in the prompt {prompt[:200]!r}")
        return found["question"]


def _share(item: TextScore) -> float:
    """P(correct), or the score as a number in (0, 1) for a reward without calibration; 0 for an empty response."""
    if item.score is None:
        return 0.0
    return sigmoid(item.score) if item.probability is None else item.probability


def _response(query: str, prompt: str) -> str:
    if not query.startswith(prompt):
        raise ValueError(f"a query does not begin with its prompt {prompt[:200]!r}")
    return END.sub("", query[len(prompt) :])


def reward_func(answer: RemoteReward) -> Any:
    """The function that a file for `--reward.remote_url FILE.py` defines as `reward_func`."""

    def call(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
        return answer(queries, prompts, labels)

    return call


def server(answer: RemoteReward, host: str, port: int) -> ThreadingHTTPServer:
    """Returns a server that answers every POST; `serve_forever` starts it. Port 0 picks a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                length = int(self.headers.get("Content-Length") or 0)
                if not 0 < length <= LARGEST_REQUEST:
                    raise ValueError(f"a body of {length} bytes: expected 1 to {LARGEST_REQUEST}")
                body = json.loads(self.rfile.read(length))
                if not isinstance(body, dict):
                    raise ValueError("the body is not a JSON object")
                self.reply(200, answer(body["query"], body["prompts"], body.get("labels") or ()))
            except KeyError as error:
                self.reply(400, {"error": f"the body has no field {error}"})
            except (ValueError, TypeError, AssayError) as error:
                self.reply(400, {"error": str(error)})

        def reply(self, status: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return ThreadingHTTPServer((host, port), Handler)


def main() -> int:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", required=True, help="run, checkpoint, reward directory or hub name")
    parser.add_argument("--model", help="another base model than the reward names")
    parser.add_argument("--score", help="trace score; that of the reward's calibration otherwise")
    parser.add_argument("--question", help="pattern with a group (?P<question>...) that is searched in a prompt")
    parser.add_argument("--host", default="127.0.0.1", help="address; anyone who reaches it can ask")
    parser.add_argument("--port", type=int, default=5000)
    arguments = parser.parse_args()
    try:
        critic = Critic.load(arguments.reward, model=arguments.model)
        answer = RemoteReward(critic, score=arguments.score, question=arguments.question)
    except (AssayError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with server(answer, arguments.host, arguments.port) as listening:
        print(f"answering on http://{arguments.host}:{listening.server_address[1]}", flush=True)
        try:
            listening.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
