"""Small data files as `datasets` and pyarrow write them, for crates/assay-tasks/tests/data.

    pip install pyarrow zstandard
    python tools/golden/datasets.py crates/assay-tasks/tests/data
"""

import decimal
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

GSM8K = [
    {"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72.\n#### 72"},
    {"question": "No steps?", "answer": "#### 5"},
    {"question": "Umlaut ä?", "answer": "2*3 = 6.\n#### 6"},
]
MMLU_PRO = [
    {
        "question_id": 70,
        "question": "Which is a prime?",
        "options": ["four", "seven", "nine"],
        "answer": "B",
        "answer_index": 1,
        "cot_content": "A: Let's think step by step. Seven has two divisors.\nThe answer is (B).",
        "category": "math",
        "src": "made",
    },
    {
        "question_id": 71,
        "question": "Which is even?",
        "options": ["three", "eight"],
        "answer": "B",
        "answer_index": 1,
        "cot_content": "",
        "category": "math",
        "src": "made",
    },
]
CHATS = [
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "2+2 = 4\n#### 4"}]},
    {"messages": [{"role": "user", "content": "3+2?"}, {"role": "assistant", "content": "3+2 = 5\n#### 5"}]},
]
COUNTDOWN = [{"target": 98, "nums": [44, 19, 35]}, {"target": 24, "nums": [3, 3, 8, 8]}]
VERL = [
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "How many clips?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "72"},
        "extra_info": {"answer": "48/2 = 24.\n#### 72", "index": 0, "split": "train"},
    },
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "How many pens?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "5"},
        "extra_info": {"answer": "2+3 = 5.\n#### 5", "index": 1, "split": "train"},
    },
]
PROCESSBENCH = [
    {"id": "gsm8k-0", "generator": "m", "problem": "Q", "steps": ["a", "b"], "final_answer_correct": False, "label": 1},
    {"id": "gsm8k-1", "generator": "m", "problem": "R", "steps": ["c"], "final_answer_correct": True, "label": -1},
]
PARTS = [
    {
        "messages": [
            {"role": "User", "content": [{"type": "text", "text": "2+2?"}], "thinking": None},
            {"role": "Assistant", "content": [{"type": "text", "text": "#### 4"}], "thinking": "2+2 = 4"},
        ]
    },
]


def types():
    """Columns whose types have no counterpart in JSON."""
    return pa.table(
        {
            "question": pa.array(["Bytes ä?".encode(), "no text".encode()], pa.binary()),
            "solution": pa.array([b"a\n#### 1", b"\xff\xfe"], pa.binary()),
            "answer": pa.array([decimal.Decimal("123456789012345678901234567890"), None], pa.decimal128(38, 0)),
            "small": pa.array([0.1, float("nan")], pa.float32()),
            "flags": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
            "yes": [True, False],
        }
    )


def write_lying_page(path):
    """A page of gzip that expands to 4 MiB and states 100 bytes."""
    text = pa.table({"question": ["0" * (1 << 22)]})
    pq.write_table(text, path, compression="gzip", use_dictionary=False, write_statistics=False, data_page_version="1.0")
    data = bytearray(path.read_bytes())
    # Four bytes of magic, then the page's header: type and expanded size, a varint of four bytes.
    assert data[4:7] == b"\x15\x00\x15" and data[10] < 0x80
    data[7:11] = bytes([0xC8, 0x81, 0x80, 0x00])
    path.write_bytes(data)


def main(directory):
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write = lambda name, rows, **options: pq.write_table(pa.Table.from_pylist(rows), directory / name, **options)
    write("train-00000-of-00002.parquet", GSM8K[:2], compression="snappy")
    write("train-00001-of-00002.parquet", GSM8K[2:], compression="snappy")
    write("mmlu_pro.parquet", MMLU_PRO, compression="zstd")
    write("chats.parquet", CHATS, compression="snappy", row_group_size=1)
    write("countdown.parquet", COUNTDOWN, compression="none", data_page_version="2.0")
    lines = "".join(json.dumps(row) + "\n" for row in GSM8K)
    (directory / "gsm8k.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    # One value, run-length encoded 2^26 times in one row: a list that no record may be.
    bomb = pa.table({"question": ["Q"], "options": pa.array([[1] * (1 << 26)], pa.list_(pa.int8()))})
    pq.write_table(bomb, directory / "list_bomb.parquet", compression="zstd")
    for codec in ["gzip", "brotli", "lz4"]:
        write(f"chats_{codec}.parquet", CHATS, compression=codec)
    write("chats_gzip_v2.parquet", CHATS, compression="gzip", data_page_version="2.0")
    write("verl.parquet", VERL, compression="brotli")
    write("processbench.parquet", PROCESSBENCH, compression="gzip")
    write("parts.parquet", PARTS, compression="lz4")
    pq.write_table(types(), directory / "types.parquet", compression="snappy")
    write_lying_page(directory / "lying_page.parquet")


if __name__ == "__main__":
    main(sys.argv[1])
