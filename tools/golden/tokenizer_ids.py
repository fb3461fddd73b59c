"""Reference token ids and rendered templates of the real models, and of every splitting rule on a tiny vocabulary.

    python tools/golden/tokenizer_ids.py MODELS_DIR crates/assay-lm/tests/golden

MODELS_DIR holds the files that tools/fetch_model.sh makes, directly or one level deep. Vocabulary, merges and template
come from the GGUF metadata; normaliser and splitting rule are those of the published tokenizer.json files, because the
metadata has only their names. Encoded by Hugging Face `tokenizers`, rendered by `transformers`.
"""

import json
import sys
from pathlib import Path

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", " \n \n", "\t\tx", "a", " a", "a ", "Hello, world!", "hello  world   again    end",
    "line one\nline two\r\nline three\r\n\r\n", "trailing spaces   \n   leading", "1", "12", "123", "1234", "1234567890",
    "3.14159", "1,000,000.50", "$1,234.56", "50 %", "3/4", "x=12+34*56-78/9", "2024-07-26", "٣٤٥ १२३ ①②③ ½ Ⅷ",
    "café", "cafe\u0301", "Å ångström A\u030angstro\u0308m", "가각힣", "\u1100\u1161\u11a8", "e\u0323\u0302",
    "日本語のテキスト。", "中文，标点！", "Привет, мир", "مرحبا بالعالم", "שלום עולם", "สวัสดีชาวโลก", "हिन्दी पाठ",
    "🦀", "👩‍👩‍👧‍👦 family", "🇩🇪🇯🇵", "😀😀😀 12 😀", "I'm you're WE'VE don't 'tis they'LL", "it's ’curly’ “quotes” — dash…",
    "def f(x):\n    if x > 0:\n        return x ** 2\n    return None\n", "for (int i=0;i<10;++i) { a[i] += 1; }",
    "<html><body class=\"x\">&amp;</body></html>", "http://example.com/a?b=c&d=%20#e", "```python\nprint('hi')\n```",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case", "\\frac{1}{2} \\boxed{42} $x^2$", "#### 72",
    "<think>\n48/2 = 24\n</think>\n<answer>\n24\n</answer>", "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>x<|endoftext|>",
    "<|im_end|><|im_end|>", "<|im_start", "|im_end|>", "<tool_call>{}</tool_call>", "<file_sep><repo_name>a/b",
    "\u00a0non\u00a0breaking\u2003em\u200bzero", "\u0000null\u0001\u007f", "\ufeffbom", "\ufffd\ufffd", "ﬁ ﬂ ﬀ Ⅳ ｆｕｌｌ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ſ İ ı ß ẞ ǅ", "a\u0300\u0301\u0302\u0303b",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛", "                                                  fifty spaces", "x\n\n\n\n\n\ny\n", "-3 - -3 −3 ÷ × ·",
]

CONVERSATIONS = [
    [("user", "What is 2 + 2?")],
    [("system", "Answer briefly."), ("user", "What is 2 + 2?")],
    [("user", "Hi"), ("assistant", "Hello! How can I help?"), ("user", "  spaces and\nlines  ")],
    [("system", ""), ("user", "cafe\u0301 ٣ 123"), ("assistant", "<think>\n1\n</think>")],
]

MODELS = {
    "smollm2-135m-instruct-q4_1.gguf": "smollm",
    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf": "qwen2",
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf": "qwen2",
}


def with_rules(tokenizer, pre):
    byte_level = lambda use_regex: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = {
        "gpt-2": byte_level(True),
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
        "qwen2": pre_tokenizers.Sequence([split(QWEN), byte_level(False)]),
        "llama-bpe": pre_tokenizers.Sequence([split(LLAMA3), byte_level(False)]),
    }[pre]
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def build(tokens, merges, types, pre):
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocab = {token: id for id, token in enumerate(tokens)}
    tokenizer = with_rules(Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=pre == "llama-bpe")), pre)
    for token, kind in zip(tokens, types):
        if kind in (3, 4):
            tokenizer.add_tokens([AddedToken(token, special=kind == 3, normalized=False)])
    return tokenizer


def encode_all(tokenizer):
    rows = []
    for text in TEXTS:
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        special = tokenizer.encode(text, add_special_tokens=False).ids
        row = {"text": text, "ids": plain}
        if special != plain:
            row["special_ids"] = special
        rows.append(row)
    return rows


def real_model(path, pre):
    fields = gguf.GGUFReader(path).fields
    value = lambda key: fields[f"tokenizer.{key}"].contents()
    tokens = value("ggml.tokens")
    tokenizer = build(tokens, value("ggml.merges"), value("ggml.token_type"), pre)
    name = lambda key: tokens[value(f"ggml.{key}_token_id")]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=name("bos"), eos_token=name("eos"), pad_token=name("padding")
    )
    wrapped.chat_template = value("chat_template")
    conversations = []
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in turns]
        render = lambda add, tokenize: wrapped.apply_chat_template(
            messages, add_generation_prompt=add, tokenize=tokenize, return_dict=False
        )
        conversations.append(
            {"messages": messages, "prompt": render(True, False), "full": render(False, False), "prompt_ids": render(True, True)}
        )
    return {"texts": encode_all(tokenizer), "conversations": conversations}


def tiny(out, pre):
    """A vocabulary whose merges cross digits, spaces and punctuation, so that only the splitting rule keeps them apart."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    corpus = [text for text in TEXTS if "<|" not in text]
    trained.train_from_iterator(corpus + ["123123 12 1234 don't I'M  \n\n café cafe\u0301 =12 .\n x y"] * 20, trainer)
    state = json.loads(trained.to_str())["model"]
    tokens = [token for token, _ in sorted(state["vocab"].items(), key=lambda item: item[1])]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in state["merges"]]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    types = [1] * len(tokens) + [3] * len(specials)
    tokens += specials
    writer = gguf.GGUFWriter(out / f"tokenizer-{pre}.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_bos_token_id(len(tokens) - 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return {"texts": encode_all(build(tokens, merges, types, pre))}


def main(models_dir, out):
    golden = {}
    for name, pre in MODELS.items():
        found = next(iter(sorted(models_dir.glob(name)) + sorted(models_dir.glob(f"*/{name}"))), None)
        if found is None:
            raise SystemExit(f"{name} is not in {models_dir}")
        golden[name] = real_model(found, pre)
    small, large = golden["qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"], golden["qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"]
    assert small["texts"] == large.pop("texts"), "both Qwen models share one tokenizer"
    large["texts_as"] = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    for pre in ["gpt-2", "smollm", "qwen2", "llama-bpe"]:
        golden[f"tokenizer-{pre}.gguf"] = tiny(out, pre)
    (out / "tokenizers.json").write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
