#!/usr/bin/env python3
"""Runs the parts below parts/ in plain Hugging Face Transformers: what Cleave cut, loaded as any checkpoint is.

    CLEAVE_WRITE_GOLDENS=1 build/dev/tests/decompose/cut_model_test --gtest_filter='*Transformers*'   # writes parts/
    CLEAVE_WRITE_GOLDENS=1 build/dev/tests/decompose/cut_text_test --gtest_filter='*Transformers*'
    hf/bin/python tests/goldens/make_part_goldens.py        # environment: see make_model_goldens.py and make_text_goldens.py

Writes parts/<name>/golden.safetensors: `pixels`, and what Transformers makes of them, `features` and `logits`; of texts `ids`, `features`, `answer`.
"""
import pathlib

import torch
import transformers
from make_text_goldens import golden_of
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent


def load(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    model, report = getattr(transformers, config.architectures[0]).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report  # every tensor is there, of the right shape, and no other
    return model.eval()


def main():
    torch.set_num_threads(1)
    for folder in sorted((HERE / "parts").iterdir()):
        model = load(folder)
        given = load_file(HERE / "models" / folder.name / "golden.safetensors")
        if "ids" in given:
            save_file(golden_of(model, given["ids"]), str(folder / "golden.safetensors"))
            continue
        pixels = given["pixels"]
        count = 2 if "WithTeacher" in type(model).__name__ else 1
        with torch.no_grad():
            states = getattr(model, model.base_model_prefix)(pixel_values=pixels)[0][:, :count]
            golden = dict(pixels=pixels, features=states.contiguous(), logits=model(pixels).logits)
        save_file(golden, str(folder / "golden.safetensors"))


if __name__ == "__main__":
    main()
