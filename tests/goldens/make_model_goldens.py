#!/usr/bin/env python3
"""Makes the goldens of tests/model with Hugging Face Transformers; run it again and nothing changes.

    apt-get install python3-torch python3-venv
    /usr/bin/python3 -m venv --system-site-packages hf
    hf/bin/pip install transformers==4.30.2 safetensors
    hf/bin/python tests/goldens/make_model_goldens.py

Writes, beside itself:
  models/<name>/      a small checkpoint with random weights, as Transformers saves it, and golden.safetensors:
                      `bytes` (uint8 images), `pixels` (what the image processor makes of them), `logits`
                      and `features` (last state of the tokens that are read)
  published/<name>.json   config, and name and shape of each tensor, of a published checkpoint
"""
import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file
from transformers import (DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher,
                          DeiTImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor)

HERE = pathlib.Path(__file__).resolve().parent
TINY = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, image_size=16, patch_size=4,
            num_channels=3)
NAMES = {0: "cat", 1: "dog", 2: "owl", 3: "fox", 4: "eel"}


def labels(names):
    return dict(id2label=names, label2id={name: i for i, name in names.items()})


# name, model class, config, image processor, how it is saved
MODELS = [
    ("vit", ViTForImageClassification, ViTConfig(**TINY, **labels(NAMES)), ViTImageProcessor(size=16), {}),
    ("vit_oblong", ViTForImageClassification,
     ViTConfig(**{**TINY, "image_size": (16, 8), "num_channels": 1}, qkv_bias=False, hidden_act="gelu_new",
               layer_norm_eps=1e-6, num_labels=3),
     ViTImageProcessor(size=dict(height=16, width=8), image_mean=[0.25], image_std=[0.3]), {}),
    ("vit_sharded_bf16", ViTForImageClassification, ViTConfig(**TINY, hidden_act="relu"), ViTImageProcessor(size=16),
     dict(dtype=torch.bfloat16, max_shard_size="20KB")),
    ("deit", DeiTForImageClassification, DeiTConfig(**TINY, **labels(NAMES)),
     DeiTImageProcessor(size=20, crop_size=16), {}),
    ("deit_distilled_f16", DeiTForImageClassificationWithTeacher, DeiTConfig(**TINY, **labels(NAMES)),
     DeiTImageProcessor(size=20, crop_size=16), dict(dtype=torch.float16)),
]


def randomise(model, generator):
    """Larger than a fresh model's weights, so that every one of them can be seen in the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "layernorm" in name and "weight" in name else 0.0, 0.2, generator=generator)


def read_states(model, pixels):
    """Last state, after the last norm, of the tokens that the classifiers read."""
    base = getattr(model, model.base_model_prefix)
    count = 2 if isinstance(model, DeiTForImageClassificationWithTeacher) else 1
    return base(pixel_values=pixels)[0][:, :count]


def make_model(name, model_class, config, processor, dtype=torch.float32, **saving):
    folder = HERE / "models" / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(7)
    model = model_class(config).eval()
    randomise(model, generator)
    model.to(dtype).save_pretrained(folder, safe_serialization=True, **saving)
    model.float()  # what is computed in: the rounded weights, in fp32
    processor.save_pretrained(folder)

    height, width = config.image_size if isinstance(config.image_size, tuple) else (config.image_size,) * 2
    images = torch.randint(0, 256, (4, config.num_channels, height, width), generator=generator, dtype=torch.uint8)
    if config.num_channels == 3:
        as_it_is = dict(do_resize=False)
        if isinstance(processor, DeiTImageProcessor):
            as_it_is["do_center_crop"] = False
        pixels = processor([image.numpy() for image in images], return_tensors="pt", **as_it_is)["pixel_values"]
    else:  # the processors of this version take colour images only
        mean, std = processor.image_mean[0], processor.image_std[0]
        pixels = (images.float() * processor.rescale_factor - mean) / std
    with torch.no_grad():
        golden = dict(bytes=images, pixels=pixels, logits=model(pixels).logits, features=read_states(model, pixels))
    save_file({key: value.contiguous() for key, value in golden.items()}, str(folder / "golden.safetensors"))


def published(width):
    return dict(hidden_size=width, num_hidden_layers=12, num_attention_heads=width // 64, intermediate_size=4 * width,
                image_size=224, patch_size=16, num_channels=3, hidden_act="gelu", layer_norm_eps=1e-12, num_labels=1000)


# The plain DeiT checkpoints are published as ViT; `deit-tiny-plain` is one under DeiT's own class.
PUBLISHED = [
    ("vit-base-patch16-224", ViTForImageClassification, ViTConfig, published(768)),
    ("deit-tiny-patch16-224", ViTForImageClassification, ViTConfig, published(192)),
    ("deit-small-patch16-224", ViTForImageClassification, ViTConfig, published(384)),
    ("deit-base-patch16-224", ViTForImageClassification, ViTConfig, published(768)),
    ("deit-tiny-plain", DeiTForImageClassification, DeiTConfig, published(192)),
    ("deit-tiny-distilled-patch16-224", DeiTForImageClassificationWithTeacher, DeiTConfig, published(192)),
    ("deit-small-distilled-patch16-224", DeiTForImageClassificationWithTeacher, DeiTConfig, published(384)),
    ("deit-base-distilled-patch16-224", DeiTForImageClassificationWithTeacher, DeiTConfig, published(768)),
]


def list_published(name, model_class, config_class, fields):
    with transformers.modeling_utils.no_init_weights():
        model = model_class(config_class(**fields))
    config = dict(fields, model_type=config_class.model_type, architectures=[model_class.__name__])
    tensors = [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]
    lines = ",\n".join(json.dumps(entry) for entry in tensors)
    text = '{"config": %s,\n"tensors": [\n%s\n]}\n' % (json.dumps(config), lines)
    folder = HERE / "published"
    folder.mkdir(exist_ok=True)
    (folder / (name + ".json")).write_text(text)


def main():
    torch.set_num_threads(1)
    for name, model_class, config, processor, saving in MODELS:
        make_model(name, model_class, config, processor, **saving)
    for entry in PUBLISHED:
        list_published(*entry)


if __name__ == "__main__":
    main()
