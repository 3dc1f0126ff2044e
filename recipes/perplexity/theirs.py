"""Perplexity by Hugging Face Transformers, over the windows that recipes/perplexity/run describes."""

import math
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model_folder, data, length, stride = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
if data.is_dir():
    text = (data / "test.txt").read_text(encoding="utf-8")
else:
    whole = data.read_bytes()
    cut = int(len(whole) * 0.9)
    while cut < len(whole) and whole[cut] & 0xC0 == 0x80:  # not within a character
        cut += 1
    text = whole[cut:].decode("utf-8")
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(model_folder)
model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
last = len(ids) - 1 - length
nats, judged, begin = 0.0, 0, 0
with torch.no_grad():
    while judged < length + last:
        begin = min(begin, last)
        window = ids[begin:begin + length + 1]
        new = begin + length - judged
        logits = model(window[None, :-1]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits[-new:].double(), window[-new:], reduction="sum").item()
        judged, begin = begin + length, begin + stride
print(f"Transformers: {nats / judged:.4f} nats (perplexity {math.exp(nats / judged):.4g}), {judged} tokens")
