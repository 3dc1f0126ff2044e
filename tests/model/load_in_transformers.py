"""Loads each model FOLDER with Hugging Face Transformers and compares it with what Cleave computed.

    python3 tests/model/load_in_transformers.py FOLDER ...

FOLDER/answers.safetensors holds `pixels` or `ids`, `features`, and `logits` where the model has a head. Exits with 0
where all agree within 1e-4, with 1 where one does not, and with 77 where Transformers or torch is not installed.
"""
import json
import pathlib
import sys

try:
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as error:
    print(error)
    sys.exit(77)


def bias_of(folder):
    for path in folder.glob("model*.safetensors"):
        tensors = load_file(str(path))
        if "lm_head.bias" in tensors:
            return tensors["lm_head.bias"]
    sys.exit("no lm_head.bias")


def load(folder):
    architecture = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    pools = architecture in ("ViTModel", "DeiTModel", "BertModel", "RobertaModel")
    without_pooling = {"add_pooling_layer": False} if pools else {}
    model, info = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True, **without_pooling)
    for problem, keys in info.items():
        if keys:
            sys.exit(f"{problem}: {keys}")
    if architecture == "RobertaForMaskedLM":  # 4.46 ties the bias that it began with over the one that it has read
        model.lm_head.bias.data.copy_(bias_of(folder))
    return model.eval()


def largest_difference(name, theirs, ours):
    difference = (theirs - ours).abs().max().item()
    print(f"{name}: largest difference {difference:.2g}")
    return difference


def is_mean_pooled(model, folder):
    section = json.loads((folder / "config.json").read_text()).get("cleave", {})  # what only Cleave reads
    means = section.get("task", "embedding") == "embedding" and section.get("pooling", "mean") == "mean"
    return type(model).__name__ in ("BertModel", "RobertaModel", "DistilBertModel") and means


def draws_as_written(model, folder):
    file = folder / "generation_config.json"
    if not file.exists() or model.generation_config is None:  # without a head nothing is drawn
        return True
    return all(getattr(model.generation_config, key) == value for key, value in json.loads(file.read_text()).items())


def agrees(folder):
    print(folder.name)
    model, ours = load(folder), load_file(str(folder / "answers.safetensors"))
    with torch.no_grad():
        base = getattr(model, model.base_model_prefix, model)
        text = "ids" in ours
        given = ours["ids"].long() if text else ours["pixels"]
        states = base(given)[0]
        if text and is_mean_pooled(model, folder):
            states = states.mean(1, keepdim=True)
        states = states[:, : ours["features"].shape[1]]
        differences = [largest_difference("features", states, ours["features"])]
        if "logits" in ours:
            differences.append(largest_difference("logits", model(given).logits, ours["logits"]))
    if not text:
        transformers.AutoImageProcessor.from_pretrained(folder)  # raises where it cannot read ours
    return max(differences) < 1e-4 and draws_as_written(model, folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(0 if all([agrees(pathlib.Path(folder)) for folder in sys.argv[1:]]) else 1)
