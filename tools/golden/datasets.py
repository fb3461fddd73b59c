"""Small data files as `datasets` and pyarrow write them, for crates/assay-tasks/tests/data.

    pip install pyarrow zstandard
    python tools/golden/datasets.py crates/assay-tasks/tests/data
"""

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


def main(directory):
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write = lambda name, rows, **how: pq.write_table(pa.Table.from_pylist(rows), directory / name, **how)
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


if __name__ == "__main__":
    main(sys.argv[1])
