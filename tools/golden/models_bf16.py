"""How far transformers and peft in bf16 are from themselves in f32, on the models that tools/golden/models.py wrote.

Run by hand: python tools/golden/models_bf16.py   (transformers 5, peft, torch on CPU)
Writes crates/assay-train/tests/golden/models/bf16.json. The base is bf16 and the adapter f32, as peft loads them.
"""

import json

import torch
from models import MODELS, OUT, each, lora_gradients, logprobs, sft_loss
from peft import PeftModel
from safetensors.torch import load_file


def policy(name):
    base = MODELS[name][1].from_pretrained(OUT / name / "model", dtype=torch.bfloat16)
    return PeftModel.from_pretrained(base, OUT / name / "policy", is_trainable=True).eval()


def rms(values):
    flat = torch.cat([value.double().flatten() for value in values])
    return flat.square().mean().sqrt().item()


def measured(name):
    golden = json.loads((OUT / name / "golden.json").read_text())
    data, model = golden["groups"], policy(name)
    with torch.no_grad():
        own = [logprobs(model, p, c)[0] for p, c in each(data)]
    reference = [torch.tensor(row) for row in golden["policy_logprobs"]]
    result = {"logprobs": rms([a - b for a, b in zip(own, reference)])}
    sft_loss(model, data).backward()
    gradients, reference = lora_gradients(model), load_file(OUT / name / "grad_sft.safetensors")
    difference = rms([gradients[key].float() - reference[key] for key in reference])
    result["gradients"] = difference / rms(list(reference.values()))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    losses = []
    for step in golden["trajectory"]:
        for group in optimiser.param_groups:
            group["lr"] = step["lr"]
        loss = sft_loss(model, data)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(loss.item() - step["loss"])
    result["losses"] = rms([torch.tensor(losses)])
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = {name: measured(name) for name in MODELS}
    (OUT / "bf16.json").write_text(json.dumps(table, indent=1) + "\n")
    for name, row in table.items():
        print(name, {key: f"{value:.2e}" for key, value in row.items()})
