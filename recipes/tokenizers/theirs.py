"""Times Hugging Face's tokenizer of a model folder over the lines of a text: one call a line, and all lines in one call."""
import sys
import time

from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
lines = open(sys.argv[2], encoding="utf-8").read().split("\n")
size = sum(len(line.encode()) + 1 for line in lines)


def rate(work):
    start = time.perf_counter()
    work()
    return size / (time.perf_counter() - start) / 1e6


one = rate(lambda: [tokenizer(line)["input_ids"] for line in lines])
batch = rate(lambda: tokenizer(lines)["input_ids"])
print(f"{one:.1f} MB/s line by line, {batch:.1f} MB/s in one call")
