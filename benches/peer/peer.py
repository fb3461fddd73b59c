"""One stage of an iteration in PyTorch + transformers + peft, at the shapes of `assay bench`; prints one JSON line.

The configuration of a TRL user without a separate rollout engine: right-padded batches (none needed here, all lengths are equal), each prompt
repeated for every sample, LoRA on all linear layers, SDPA attention, no gradient checkpointing. In bf16 the base is bf16 and
the adapter f32, as peft makes it.
Install: pip install torch transformers peft
"""
import argparse
import json
import resource
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

SHAPES = {
    "135m": (576, 1536, 30, 9, 3, 49152),
    "0.5b": (896, 4864, 24, 14, 2, 151936),
    "1.5b": (1536, 8960, 28, 12, 2, 151936),
}

parser = argparse.ArgumentParser()
parser.add_argument("--shape", choices=SHAPES, default="135m")
parser.add_argument("--stage", choices=["sample", "score", "update-policy"], required=True)
parser.add_argument("--prompts", type=int, default=8)
parser.add_argument("--samples", type=int, default=8)
parser.add_argument("--prompt-tokens", type=int, default=150)
parser.add_argument("--new-tokens", type=int, default=150)
parser.add_argument("--rank", type=int, default=64)
parser.add_argument("--micro-batch", type=int, default=16)
parser.add_argument("--repeats", type=int, default=1)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU, float32 on the CPU")
parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
args = parser.parse_args()

if args.threads:
    torch.set_num_threads(args.threads)
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = getattr(torch, args.dtype or ("bfloat16" if device == "cuda" else "float32"))
torch.manual_seed(0)
hidden, inner, layers, heads, kv_heads, vocabulary = SHAPES[args.shape]
config = Qwen2Config(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                     num_key_value_heads=kv_heads, vocab_size=vocabulary, tie_word_embeddings=True,
                     max_position_embeddings=4096)
model = Qwen2ForCausalLM(config).to(device, dtype)
model = get_peft_model(model, LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear"))
sequences = args.prompts * args.samples
prompt = torch.randint(0, 40000, (sequences, args.prompt_tokens), device=device)
full = torch.randint(0, 40000, (sequences, args.prompt_tokens + args.new_tokens), device=device)
advantages = torch.randn(sequences, args.new_tokens, device=device)
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)


def sample(sequences=sequences, new_tokens=args.new_tokens):
    model.eval()
    with torch.no_grad():
        rows = prompt[:sequences]
        model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), do_sample=True, top_k=0, temperature=1.0,
                       max_new_tokens=new_tokens, min_new_tokens=new_tokens, pad_token_id=0)


def score(sequences=sequences):
    model.eval()
    with torch.no_grad():
        for first in range(0, sequences, args.micro_batch):
            model.model(full[first:min(first + args.micro_batch, sequences)])


def update_policy(sequences=sequences):
    model.train()
    optimiser.zero_grad(set_to_none=True)
    for first in range(0, sequences, args.micro_batch):
        rows = slice(first, min(first + args.micro_batch, sequences))
        logits = model(full[rows], logits_to_keep=args.new_tokens + 1).logits[:, :-1].float()
        targets = full[rows, args.prompt_tokens:].unsqueeze(-1)
        logprobs = torch.gather(logits.log_softmax(-1), 2, targets).squeeze(-1)
        ratio = torch.exp(logprobs - logprobs.detach())
        (-(ratio * advantages[rows]).sum() / (sequences * args.new_tokens)).backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimiser.step()


stage = {"sample": sample, "score": score, "update-policy": update_policy}[args.stage]
# A small pass warms up kernels and pages without the cost of a whole one.
stage(min(2, sequences), 4) if args.stage == "sample" else stage(min(2, sequences))
seconds = []
for _ in range(args.repeats):
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    stage()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds.append(time.perf_counter() - started)
peak = torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"stage": args.stage, "seconds": seconds, "peak_bytes": peak, "torch": torch.__version__, "device": device,
                  "dtype": str(dtype).removeprefix("torch.")}))
