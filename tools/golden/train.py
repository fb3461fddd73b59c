"""Reference numbers of losses, advantages, objectives and optimiser steps from torch autograd.

Run by hand: python tools/golden/train.py
Writes crates/assay-train/tests/golden/{loss,advantage,objective,optimiser}.json. Everything is f64 in torch from numbers
rounded to f32, on ragged groups; each case holds its settings as the crate's serde structs read them.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

OUT = Path(__file__).resolve().parents[2] / "crates/assay-train/tests/golden"
# Added to a standard deviation, as in assay-train/src/policy/advantage.rs.
EPSILON = 1e-4
GENERATOR = torch.Generator().manual_seed(20251001)


def normal(n, scale=1.0):
    """n numbers that are exact in f32."""
    return (scale * torch.randn(n, generator=GENERATOR)).to(torch.float32).double()


def uniform(n):
    return torch.rand(n, generator=GENERATOR).to(torch.float32).double()


def integer(low, high):
    return int(torch.randint(low, high, (1,), generator=GENERATOR))


def write(name, cases):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(cases, indent=None, separators=(",", ":")) + "\n")
    print(name, len(cases), (OUT / f"{name}.json").stat().st_size)


# ---------------------------------------------------------------- discriminator losses


def loss_update():
    """Three groups with one demonstration, 0-3 policy samples and 1-2 perturbed demonstrations each."""
    traces = []
    for group in range(3):
        length = integer(5, 12)

        def positions(n):
            kept = [t for t in range(n - 1) if float(uniform(1)) < 0.7]
            return kept + [n - 1]

        traces.append(dict(group=group, role="expert", n=length, positions=positions(length), weight=1.0))
        for _ in range(group + 1 if group else 0):
            n = integer(1, 14)
            diverges = None if float(uniform(1)) < 0.25 else integer(0, n)
            traces.append(dict(group=group, role="policy", n=n, positions=positions(n), weight=0.25, diverges_at=diverges))
        for _ in range(1 + group % 2):
            n = length + integer(-1, 3)
            start = integer(1, min(n, length))
            traces.append(dict(group=group, role="perturbed", n=n, positions=positions(n), weight=1.0,
                               corrupted_from=start, corrupted_until=start + integer(1, 4)))
    for trace in traces:
        trace["logits"] = normal(trace.pop("n"), 2.5).tolist()
    return traces


def class_of(trace, token, settings):
    if trace["role"] == "expert":
        return 1
    if trace["role"] == "perturbed":
        if token >= trace["corrupted_until"]:
            return {"positive": 1, "left_out": None, "negative": 0}[settings["suffix_labels"]]
        if token >= trace["corrupted_from"]:
            return 0
        return {"positive": 1, "left_out": None, "whole": 0}[settings["prefix_labels"]]
    if settings["policy_labels"] == "whole":
        return 0
    start = trace.get("diverges_at")
    return 0 if start is not None and token >= start else None


def weighted_mean(values, weights):
    weights = torch.tensor(weights, dtype=torch.float64)
    return (torch.stack(values) * weights).sum() / weights.sum() if values else torch.tensor(0.0).double()


def class_means(traces, z, settings, function):
    means = []
    for wanted in (1, 0):
        values, weights = [], []
        for trace, logits in zip(traces, z):
            own = [function(logits[t], wanted) for t in trace["positions"] if class_of(trace, t, settings) == wanted]
            values += own
            weights += [trace["weight"]] * len(own)
        means.append(weighted_mean(values, weights))
    return means


def trace_score(trace, logits, score):
    z = logits[trace["positions"]]
    if score["kind"] == "mean":
        return z.mean()
    if score["kind"] == "last":
        return z[-1]
    t = score["temperature"]
    return -t * (torch.logsumexp(-z / t, 0) - math.log(len(z)))


def pairs(traces):
    for i, expert in enumerate(traces):
        for j, other in enumerate(traces):
            if expert["role"] == "expert" and other["role"] != "expert" and expert["group"] == other["group"]:
                yield i, j


def loss_terms(traces, z, settings):
    bce = settings["bce"]
    eps = bce["smoothing"]

    def cross_entropy(logit, label):
        target = torch.tensor(1 - eps if label else eps, dtype=torch.float64)
        return F.binary_cross_entropy_with_logits(logit, target)

    positive, negative = class_means(traces, z, settings, cross_entropy)
    terms = {"bce": 0.5 * positive + 0.5 * negative}
    positive, negative = class_means(traces, z, settings, lambda logit, _: logit)
    terms["wgan"] = negative - positive
    whole, local, whole_weights, local_weights = [], [], [], []
    score = settings["relativistic"]["score"]
    for i, j in pairs(traces):
        weight = traces[i]["weight"] * traces[j]["weight"]
        equal = traces[j]["role"] == "policy" and traces[j].get("diverges_at") is None
        if not (equal and settings["policy_labels"] == "from_divergence"):
            margin = trace_score(traces[i], z[i], score) - trace_score(traces[j], z[j], score)
            whole.append(F.softplus(-settings["relativistic"]["scale"] * margin))
            whole_weights.append(weight)
        if traces[j]["role"] == "perturbed":
            start = traces[j]["corrupted_from"]
            p = [t for t in traces[i]["positions"] if t >= start][:1]
            q = [t for t in traces[j]["positions"] if t >= start][:1]
            if p and q:
                local.append(F.softplus(-(z[i][p[0]] - z[j][q[0]])))
                local_weights.append(weight)
    terms["relativistic"] = weighted_mean(whole, whole_weights)
    terms["contrast"] = weighted_mean(local, local_weights)
    return terms


def loss_settings(**changes):
    settings = dict(
        bce=dict(weight=1.0, smoothing=0.0),
        relativistic=dict(weight=0.0, scale=1.0, score=dict(kind="mean")), contrast=dict(weight=0.0), wgan=dict(weight=0.0),
        prefix_labels="positive", suffix_labels="negative", policy_labels="whole",
    )
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
    return settings


def off(**changes):
    return loss_settings(**{"bce": dict(weight=0.0), **changes})


def losses():
    variants = {
        "bce": loss_settings(),
        "bce_whole_smoothed": loss_settings(bce=dict(smoothing=0.1), prefix_labels="whole"),
        "bce_smoothed_left_out": loss_settings(bce=dict(smoothing=0.05), prefix_labels="left_out",
                                        suffix_labels="positive"),
        "relativistic_mean": off(relativistic=dict(weight=1.0), policy_labels="from_divergence"),
        "relativistic_soft_min": off(relativistic=dict(weight=0.8, scale=2.5, score=dict(kind="soft_min", temperature=0.5))),
        "relativistic_last": off(relativistic=dict(weight=1.0, score=dict(kind="last"))),
        "contrast": off(contrast=dict(weight=1.5)),
        "wgan": off(wgan=dict(weight=1.0), prefix_labels="left_out", suffix_labels="left_out"),
        "all": loss_settings(bce=dict(smoothing=0.05), relativistic=dict(weight=0.5), contrast=dict(weight=0.25),
                             wgan=dict(weight=0.125), policy_labels="from_divergence"),
    }
    cases = []
    for name, settings in variants.items():
        traces = loss_update()
        z = [torch.tensor(t["logits"], dtype=torch.float64, requires_grad=True) for t in traces]
        terms = loss_terms(traces, z, settings)
        total = sum(terms[k] * settings[k]["weight"] for k in terms)
        total.backward()
        grads = [(t.grad if t.grad is not None else torch.zeros_like(t)).tolist() for t in z]
        on = {k: v.item() for k, v in terms.items() if settings[k]["weight"]}
        cases.append(dict(name=name, settings=settings, traces=traces, loss=total.item(), terms=on, grads=grads))
    write("loss", cases)


# ---------------------------------------------------------------- advantages


def advantage(group, settings):
    rewards = [torch.tensor(row["rewards"], dtype=torch.float64) for row in group]
    samples = sum(row["role"] != "expert" for row in group)
    copies = {"off": 0, "single": 1, "balanced": samples}[settings["expert_in_group"]]
    counts = [copies if row["role"] == "expert" else 1 for row in group]
    estimator = settings["estimator"]
    kind = estimator["kind"]
    weights = [torch.softmax(-r / estimator["temperature"], 0) if kind == "soft_min" else None for r in rewards]

    def score(i):
        if kind in ("sparse", "dense", "potential"):
            return rewards[i][-1]
        return (weights[i] * rewards[i]).sum() if kind == "soft_min" else rewards[i].mean()

    def moments(values):
        values = torch.stack(values)
        mean = values.mean() if settings["centre"] else torch.tensor(0.0).double()
        if settings["scale"] == "none":
            return mean, torch.tensor(1.0).double()
        return mean, values.std(unbiased=settings["scale"] == "unbiased") + EPSILON

    members = [score(i) for i, count in enumerate(counts) for _ in range(count)]
    mu, sigma = moments(members)
    judged = [torch.tensor(float(row["outcome"])).double() for row, count in zip(group, counts)
              for _ in range(count) if row["outcome"] is not None]
    outcome_mu, outcome_sigma = moments(judged) if judged else (0.0, 1.0)
    out = []
    for i, row in enumerate(group):
        r = rewards[i]
        if counts[i] == 0:
            out.append(torch.zeros_like(r).tolist())
            continue
        gamma = estimator.get("gamma", 1.0)
        if kind in ("sparse", "average"):
            a, gamma = torch.full_like(r, (score(i) - mu) / sigma), 0.0
        elif kind == "dense":
            a = (r - mu) / sigma
        elif kind == "prime":
            others = list(members)
            others.pop(next(k for k, m in enumerate(members) if m == score(i)))
            baseline = torch.stack(others).mean() if settings["centre"] else 0.0
            a = (r - baseline) / sigma
        elif kind == "soft_min":
            a = weights[i] * (r - mu) / sigma
        else:
            phi = (r - mu) / sigma
            a = gamma * phi - torch.cat([torch.zeros(1).double(), phi[:-1]])
        n = len(r)
        discount = torch.tensor([[gamma ** (k - t) if k >= t else 0.0 for k in range(n)] for t in range(n)]).double()
        a = discount @ a
        share = settings["outcome_weight"]
        outcome = (row["outcome"] - outcome_mu) / outcome_sigma if row["outcome"] is not None else 0.0
        out.append(((1 - share) * a + share * outcome).tolist())
    return out


def advantages():
    base = dict(estimator=dict(kind="average"), centre=True, scale="unbiased", outcome_weight=0.0,
                expert_in_group="off")
    kinds = [dict(kind="sparse"), dict(kind="average"), dict(kind="dense", gamma=0.9), dict(kind="dense", gamma=0.0),
             dict(kind="prime", gamma=0.95), dict(kind="soft_min", temperature=0.7), dict(kind="potential", gamma=1.0),
             dict(kind="potential", gamma=0.8)]
    variants = [{**base, "estimator": kind} for kind in kinds]
    variants += [{**base, "estimator": kind, "expert_in_group": "single", "scale": "population"} for kind in kinds]
    variants += [{**base, "estimator": kind, "expert_in_group": "balanced"} for kind in kinds]
    variants += [{**base, "estimator": kind, "scale": "none", "centre": False} for kind in kinds]
    variants += [{**base, "estimator": kind, "outcome_weight": 0.3, "expert_in_group": "single"} for kind in kinds]
    variants.append({**base, "outcome_weight": 1.0})
    cases = []
    for settings in variants:
        groups = []
        for g in range(2):
            samples = [dict(role="policy", rewards=normal(integer(1, 9), 1.5).tolist(), outcome=float(integer(0, 2)))
                       for _ in range(3 + g)]
            samples[0]["outcome"], samples[1]["outcome"] = 1.0, 0.0
            expert = dict(role="expert", rewards=normal(integer(2, 7)).tolist(), outcome=None)
            groups.append([expert] + samples)
        cases.append(dict(settings=settings, groups=groups, advantages=[advantage(g, settings) for g in groups]))
    write("advantage", cases)


# ---------------------------------------------------------------- objective


def objective_case(settings):
    traces = []
    for i in range(5):
        n = integer(1, 9)
        logprobs = -uniform(n) * 3 - 0.05
        old = logprobs + normal(n, 0.3)
        traces.append(dict(
            role="expert" if i == 1 else "policy", logprobs=logprobs.tolist(),
            old=old.to(torch.float32).double().tolist(),
            reference=(logprobs + normal(n, 0.4)).to(torch.float32).double().tolist(),
            sampling=None if i == 1 else (old + normal(n, 0.5)).to(torch.float32).double().tolist(),
            advantages=normal(n, 1.2).tolist(), multiplicity=3.0 if i == 1 else 1.0,
            ending="truncated" if i == 3 else "stopped"))
        traces[-1]["logprobs"] = logprobs.to(torch.float32).double().tolist()
    x = [torch.tensor(t["logprobs"], dtype=torch.float64, requires_grad=True) for t in traces]
    rows, counts, lengths = [], [], []
    for trace, logp in zip(traces, x):
        if settings["mask_truncated"] and trace["ending"] == "truncated":
            continue
        tensor = lambda key: torch.tensor(trace[key], dtype=torch.float64)  # noqa: E731
        ratio = torch.exp(logp - tensor("old"))
        free = ratio.clamp(max=settings["delta"]) * tensor("advantages")
        clipped = ratio.clamp(1 - settings["clip_low"], 1 + settings["clip_high"]) * tensor("advantages")
        per_token = -torch.minimum(free, clipped)
        if trace["sampling"] is not None and settings["importance_cap"] > 0:
            per_token = per_token * torch.exp(tensor("old") - tensor("sampling")).clamp(max=settings["importance_cap"])
        difference = tensor("reference") - logp
        per_token = per_token + settings["kl_weight"] * (torch.exp(difference) - difference - 1)
        rows.append(per_token)
        counts.append(trace["multiplicity"])
        lengths.append(len(logp))
    total = sum(counts)
    kind = settings["reduction"]["kind"]
    if kind == "grpo":
        loss = sum(c * r.mean() for c, r in zip(counts, rows)) / total
    elif kind == "bnpo":
        loss = sum(c * r.sum() for c, r in zip(counts, rows)) / sum(c * n for c, n in zip(counts, lengths))
    else:
        loss = sum(c * r.sum() for c, r in zip(counts, rows)) / (total * settings["reduction"]["max_length"])
    loss.backward()
    grads = [(t.grad if t.grad is not None else torch.zeros_like(t)).tolist() for t in x]
    return dict(settings=settings, traces=traces, loss=loss.item(), grads=grads)


def objectives():
    base = dict(clip_low=0.2, clip_high=0.2, delta=1e30, kl_weight=0.0, reduction=dict(kind="grpo"),
                mask_truncated=False, importance_cap=0.0)
    variants = [base, {**base, "reduction": dict(kind="bnpo")}, {**base, "reduction": dict(kind="dr_grpo", max_length=16)}]
    variants += [{**v, "kl_weight": 0.05, "clip_high": 0.28, "mask_truncated": True} for v in variants[:3]]
    variants += [{**v, "delta": 1.35, "importance_cap": 1.2, "clip_low": 0.1} for v in variants[:3]]
    write("objective", [objective_case(v) for v in variants])


# ---------------------------------------------------------------- optimiser


def optimiser():
    """Ten AdamW steps on a quadratic, with warm-up, decay and clipping: learning rates, norms, parameters."""
    cases = []
    for decay in ("constant", "cosine", "linear"):
        settings = dict(learning_rate=0.05, beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.1, clip_norm=1.0,
                        decay=decay, warmup_share=0.25)
        total, warmup = 10, math.ceil(0.25 * 10)
        target = normal(6, 2.0)
        start = normal(6)
        p = start.clone().requires_grad_()
        adam = torch.optim.AdamW([p], lr=settings["learning_rate"], betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)

        def factor(k):
            if k < warmup:
                return (k + 1) / (warmup + 1)
            progress = (k - warmup) / (total - warmup)
            return {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress}[decay]

        scheduler = torch.optim.lr_scheduler.LambdaLR(adam, factor)
        steps = []
        for _ in range(total):
            adam.zero_grad()
            (0.5 * ((p - target) ** 2).sum()).backward()
            norm = torch.nn.utils.clip_grad_norm_([p], settings["clip_norm"])
            rate = scheduler.get_last_lr()[0]
            adam.step()
            scheduler.step()
            steps.append(dict(learning_rate=rate, norm=norm.item(), parameters=p.tolist()))
        cases.append(dict(settings=settings, target=target.tolist(), start=start.tolist(), steps=steps))
    write("optimiser", cases)


if __name__ == "__main__":
    losses()
    advantages()
    objectives()
    optimiser()
