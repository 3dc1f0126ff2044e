"""The fine-tuning of recipes/pairs/teacher.toml by Hugging Face Transformers: from the same start, the same pairs in the same order, the same steps.

Usage: compare.py start MODEL OUT [SEED]        all-MiniLM-L6-v2 with a new head, from which both begin
       compare.py train START DATA [RECIPE [SEED]]     DATA: train.tsv and dev.tsv as recipes/pairs/run makes them; RECIPE: teacher.toml
"""

import math
import pathlib
import shutil
import sys
import tomllib

import torch
from transformers import AutoTokenizer, BertForSequenceClassification

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mixed(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def shuffled(count, *key):
    """The order of an epoch's rows, as calibrate/augment.cpp draws it (SplitMix64)."""
    state = 0
    for part in key:
        state = mixed(state + GOLDEN + part & MASK)
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        state = state + GOLDEN & MASK
        other = mixed(state) % (i + 1)
        order[i], order[other] = order[other], order[i]
    return order


def start(model, out, seed):
    torch.manual_seed(seed)
    BertForSequenceClassification.from_pretrained(model, num_labels=2).save_pretrained(out)
    for name in ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        shutil.copy(pathlib.Path(model) / name, out)


def train(folder, data, recipe, seed):
    recipe = tomllib.loads(pathlib.Path(recipe).read_text())
    schedule, length, bf16 = recipe["schedule"], recipe["data"]["length"], recipe.get("compute") == "bf16"
    batch, epochs, warmup = schedule["batch"], schedule["epochs"], schedule["warmup_epochs"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForSequenceClassification.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def read(split):
        return [line.split("\t") for line in (data / f"{split}.tsv").read_text().rstrip("\n").split("\n")]

    def logits(rows):
        inputs = tokenizer([row[0] for row in rows], [row[1] for row in rows], truncation=True, max_length=length, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and model.training):
            return model(**inputs).logits.float()

    pairs = read("train")
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if weight.dim() != 2]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=schedule["weight_decay"]), dict(params=others, weight_decay=0.0)])
    model.train()
    for epoch in range(epochs):
        order, total, steps = shuffled(len(pairs), seed, 0, epoch), 0.0, len(pairs) // batch
        for step in range(steps):
            done = epoch + (step + 1) * batch / len(pairs)
            share = done / warmup if done < warmup else 0.5 * (1 + math.cos(math.pi * min(1, (done - warmup) / (epochs - warmup))))
            for group in optimizer.param_groups:
                group["lr"] = schedule["learning_rate"] * share
            rows = [pairs[i] for i in order[step * batch:(step + 1) * batch]]
            loss = torch.nn.functional.cross_entropy(logits(rows), torch.tensor([int(row[2]) for row in rows]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), schedule["clip_norm"])
            optimizer.step()
            total += loss.item()
        print(f"Transformers: epoch {epoch + 1}/{epochs}, loss {total / steps:.5f}", flush=True)
    model.eval()
    dev, right = read("dev"), 0
    with torch.no_grad():
        for begin in range(0, len(dev), 50):
            rows = dev[begin:begin + 50]
            right += sum(int(answer) == int(row[2]) for answer, row in zip(logits(rows).argmax(-1), rows))
    print(f"Transformers: {100 * right / len(dev):.2f} % of {len(dev)} pairs")


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, *rest = sys.argv[1:]
    if what == "start":
        start(rest[0], rest[1], int(rest[2]) if len(rest) > 2 else 1)
    else:
        beside = pathlib.Path(__file__).with_name("teacher.toml")
        train(rest[0], pathlib.Path(rest[1]), rest[2] if len(rest) > 2 else beside, int(rest[3]) if len(rest) > 3 else 1)
