"""Reference token ids of SentencePiece-style tokenizers: Llama 2's two layouts of tokenizer.json, Mistral's, and GGUF.

    python tools/golden/sentencepiece_ids.py crates/assay-lm/tests/golden

Trains a byte-fallback BPE with `sentencepiece` on a few lines and writes it as spm.gguf (tokens and scores), and as
tokenizer.json with `Prepend` (spm-prepend.json) and with `Metaspace` and `first` (spm-first.json). Ids of plain texts are
SentencePiece's own; those of texts with control tokens are `tokenizers`'.
"""

import io
import json
import sys
from pathlib import Path

import gguf
import sentencepiece as spm
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TEXTS = [
    "", " ", "  ", "a", " a", "a ", "Hello, world!", "hello  world   again", "line one\nline two\r\n\r\n", "1234567890",
    "3.14159 and 1,000", "café", "cafe\u0301", "日本語のテキスト。", "🦀 crab", "the the  the", "\t\tx", "▁already", "x = 12 + 34",
    "<think>\n48/2 = 24\n</think>", "#### 72", "\u00a0non breaking", "naïve Ⅳ ﬁ",
]
SPECIAL = ["<s>[INST] Hi there [/INST]", "<s> a</s><s>b", "the</s> the", "</s>\n the </s>", "[INST]the[/INST] the"]


def train():
    lines = ["the quick brown fox jumps over the lazy dog", "hello world again and again", "she has 12 apples and 34 pears",
             "line one line two line three", "There is a tide in the affairs of men", "3.14 2.71 1,000 72", "x = 12 + 34 - 5"]
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20), model_writer=model, vocab_size=380, model_type="bpe", byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2, control_symbols=["[INST]", "[/INST]"],
    )
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def merges(vocab, scores):
    """As transformers converts a SentencePiece model."""
    found = []
    for piece, score in scores.items():
        local = [(piece[:i], piece[i:], score) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        found.extend(sorted(local, key=lambda m: (vocab[m[0]], vocab[m[1]])))
    found.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return [(left, right) for left, right, _ in found]


def without_pre(out):
    """tokenizer-llama-bpe.gguf as old converters wrote it: without tokenizer.ggml.pre, with Llama 3's control tokens."""
    fields = gguf.GGUFReader(out / "tokenizer-llama-bpe.gguf").fields
    value = lambda key: fields[f"tokenizer.ggml.{key}"].contents()
    writer = gguf.GGUFWriter(out / "tokenizer-no-pre.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(value("tokens") + ["<|begin_of_text|>", "<|eot_id|>"])
    writer.add_token_types(value("token_type") + [3, 3])
    writer.add_token_merges(value("merges"))
    for key in ["bos_token_id", "eos_token_id"]:
        writer.add_uint32(f"tokenizer.ggml.{key}", value(key))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(out):
    without_pre(out)
    sp = train()
    pieces = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    kinds = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in range(len(pieces))]
    writer = gguf.GGUFWriter(out / "spm.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([sp.get_score(i) for i in range(len(pieces))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(sp.bos_id())
    writer.add_eos_token_id(sp.eos_id())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    vocab = {piece: i for i, piece in enumerate(pieces)}
    normal = {piece: sp.get_score(i) for i, piece in enumerate(pieces) if kinds[i] == 1}
    bpe = models.BPE(vocab, merges({p: vocab[p] for p in normal}, normal), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    golden = {"texts": [{"text": t, "ids": sp.encode(t)} for t in TEXTS]}
    for layout in ["prepend", "first"]:
        tokenizer = Tokenizer(bpe)
        strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(strip)
        if layout == "prepend":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
        special = [piece for i, piece in enumerate(pieces) if kinds[i] in (2, 3)]
        tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
        bos = pieces[sp.bos_id()]
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", [(bos, sp.bos_id())])
        golden[layout] = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in SPECIAL]
        golden[layout + "_texts"] = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in TEXTS]
        tokenizer.save(str(out / f"spm-{layout}.json"), pretty=False)
    same = sum(a["ids"] == b["ids"] for a, b in zip(golden["texts"], golden["prepend_texts"]))
    print(f"{same} of {len(TEXTS)} texts have SentencePiece's ids under Prepend")
    (out / "spm.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
