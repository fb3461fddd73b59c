#!/usr/bin/env python3
"""Metrics of rollouts from a server, one line an iteration: tokens, gap of log-probabilities, importance weights, seconds."""
import json
import sys

KEYS = (
    "iteration", "rollout/tokens", "rollout/discarded_answers", "policy/sampling_gap_mean", "policy/sampling_gap_max",
    "policy/importance_mean", "policy/importance_capped", "seconds",
)
with open(sys.argv[1], encoding="utf-8") as lines:
    for row in map(json.loads, lines):
        if "rollout/tokens" in row:
            print({key: row[key] for key in KEYS})
