#!/usr/bin/env python3
"""Tests a running `assay serve --reward ... --policy ...` with widely used clients.

    python -m venv venv && venv/bin/pip install openai cohere httpx
    venv/bin/python tools/interop/serve_clients.py http://127.0.0.1:8000

Prints one line for each check and fails if a check fails. The server needs a policy and no token.
"""

import math
import sys

import cohere
import httpx
import openai

QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"
RIGHT = "It takes 2 / 2 = 1 bolt of white fiber.\nSo the total is 2 + 1 = 3 bolts.\n#### 3"
WRONG = "It takes 2 * 2 = 4 bolts of white fiber.\nSo the total is 2 + 4 = 6 bolts.\n#### 6"
SAMPLES = 3


def check(name, ok, detail=""):
    print(f"{'ok  ' if ok else 'FAIL'} {name}{': ' if detail else ''}{detail}")
    if not ok:
        sys.exit(1)


def openai_checks(base):
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0, timeout=300)
    names = [model.id for model in client.models.list()]
    check("openai models.list", "policy" in names, ", ".join(names))

    asked = dict(model="policy", messages=[{"role": "user", "content": QUESTION}], max_tokens=48, seed=1)
    chosen = {"assay": {"n": SAMPLES, "selector": "best_of_n"}}
    answer = client.chat.completions.create(**asked, extra_body=chosen)
    told = answer.model_extra["assay"]
    scores = [candidate["score"] for candidate in told["candidates"]]
    check("openai chat, best of n", told["chosen"] == scores.index(max(scores)), f"scores {scores}")
    check("openai chat, usage over all samples", answer.usage.completion_tokens >= SAMPLES, str(answer.usage.completion_tokens))

    text, usage = "", None
    for chunk in client.chat.completions.create(**asked, extra_body=chosen, stream=True, stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    check("openai chat, stream equals whole", text == answer.choices[0].message.content)
    check("openai chat, stream usage", usage is not None and usage.total_tokens == answer.usage.total_tokens)

    completion = client.completions.create(model="policy", prompt=QUESTION, max_tokens=16, seed=1, best_of=2)
    check("openai completions, best_of", completion.object == "text_completion")

    try:
        client.chat.completions.create(**asked, n=2)
        check("openai error", False)
    except openai.BadRequestError as error:
        check("openai error is typed", error.param == "n" and error.code == "invalid_value", str(error.body["message"]))
    try:
        client.chat.completions.create(**{**asked, "model": "gpt-4"})
        check("openai unknown model", False)
    except openai.NotFoundError as error:
        check("openai unknown model", error.code == "model_not_found")


def cohere_checks(base):
    for name, client in [("v2", cohere.ClientV2("unused", base_url=base)), ("v1", cohere.Client("unused", base_url=base))]:
        answer = client.rerank(model="reward", query=QUESTION, documents=[WRONG, RIGHT, WRONG], top_n=2)
        places = [(result.index, round(result.relevance_score, 4)) for result in answer.results]
        ordered = all(a[1] >= b[1] for a, b in zip(places, places[1:]))
        check(f"cohere {name} rerank", len(places) == 2 and ordered, str(places))


def plain_checks(base):
    body = {"model": "reward", "query": QUESTION, "documents": [{"text": WRONG}, RIGHT], "return_documents": True}
    answer = httpx.post(f"{base}/v1/rerank", json=body, timeout=60).raise_for_status().json()
    check("jina-shaped rerank", answer["results"][0]["document"]["text"] in (WRONG, RIGHT))
    scored = httpx.post(f"{base}/v1/score", json={"text_1": QUESTION, "text_2": [WRONG, RIGHT]}, timeout=60).json()
    scores = [entry["score"] for entry in scored["data"]]
    ranked = {result["index"]: result["relevance_score"] for result in answer["results"]}
    same = all(math.isclose(ranked[i], 1 / (1 + math.exp(-s)), rel_tol=1e-12) for i, s in enumerate(scores))
    check("vllm-shaped score agrees with rerank", same, str(scores))
    rewards = httpx.post(f"{base}/v1/rewards", json={"question": QUESTION, "text": WRONG}, timeout=60).json()["data"][0]
    check("token rewards", "".join(rewards["tokens"]) == rewards["text"], str(rewards["predicted_error"]))


if __name__ == "__main__":
    server = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    openai_checks(server)
    cohere_checks(server)
    plain_checks(server)
