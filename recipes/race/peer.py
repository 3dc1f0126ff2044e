"""One engine with one model, kept warm: reads how many requests to time, a line each, and writes their milliseconds. Used by ./engines.

    peer.py ENGINE FORMAT THREADS MODEL KIND TOKENS GENERATE CACHE

ENGINE is torch, onnxruntime or openvino; MODEL a Hugging Face folder; KIND image, text or generate. Says "ready SECONDS" once the first answer is
there, and "none WHY" where the engine has no such format.
"""

import os
import pathlib
import sys
import time

started = time.perf_counter()
engine, format_, threads, model_folder, kind, tokens, generate, cache = sys.argv[1:9]
threads, tokens, generate, cache = int(threads), int(tokens), int(generate), pathlib.Path(cache)
os.environ["OMP_NUM_THREADS"] = str(threads)
os.environ["TRANSFORMERS_VERBOSITY"] = "error"


class NoSuchFormat(Exception):
    pass


def loaded():
    import transformers

    kinds = {"image": "AutoModelForImageClassification", "text": "AutoModel", "generate": "AutoModelForCausalLM"}
    if engine != "torch":
        attention = {"attn_implementation": "eager"}  # what its exporter to ONNX knows
    else:
        attention = {"attn_implementation": "sdpa"}
    return getattr(transformers, kinds[kind]).from_pretrained(model_folder, **attention).eval()


def example(torch):
    torch.manual_seed(1)
    return torch.rand(1, 3, 224, 224) if kind == "image" else torch.randint(5, 1000, (1, tokens))


def torch_request():
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    model = loaded()
    value = example(torch)
    if format_ == "bf16":
        model = model.to(torch.bfloat16)
        value = value.to(torch.bfloat16) if kind == "image" else value
    if format_ == "int8":
        if kind == "generate":
            raise NoSuchFormat("its dynamic quantisation knows no Conv1D")
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    if not generate:
        return lambda: model(value, use_cache=False) if kind == "generate" else model(value)

    def text():
        times = []
        answer, past = model(value, use_cache=True), None
        for _ in range(generate):
            past, token = answer.past_key_values, answer.logits[:, -1:].argmax(-1)
            begun = time.perf_counter()
            answer = model(token, past_key_values=past, use_cache=True)
            times.append(time.perf_counter() - begun)
        return times

    return text


def onnx_file():
    """The model as ONNX, made once; with K/V as inputs and outputs where it generates."""
    suffix = f"{kind}-{tokens}" if not generate else "steps"
    path = cache / f"{pathlib.Path(model_folder).name}-{suffix}.onnx"
    if path.exists():
        return path
    import torch
    import transformers

    model = loaded()
    layers = model.config.num_hidden_layers
    names = [f"{what}{layer}" for layer in range(layers) for what in ("key", "value")]

    class Once(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, value):
            return (self.model(value, use_cache=False) if kind == "generate" else self.model(value))[0]

    class Step(Once):
        def forward(self, ids, *past):
            pairs = tuple(zip(past[0::2], past[1::2]))
            answer = self.model(ids, past_key_values=transformers.DynamicCache.from_legacy_cache(pairs), use_cache=True)
            past = answer.past_key_values
            return answer.logits, *(x for pair in (past if isinstance(past, tuple) else past.to_legacy_cache()) for x in pair)

    temporary = path.with_suffix(".part")
    with torch.no_grad():
        if not generate:
            torch.onnx.export(Once(), (example(torch),), str(temporary), input_names=["x"], output_names=["y"], opset_version=17)
        else:
            heads, width = model.config.num_attention_heads, model.config.hidden_size // model.config.num_attention_heads
            past = [torch.zeros(1, heads, 3, width) for _ in names]
            axes = {n: {2: "past"} for n in names} | {"new_" + n: {2: "all"} for n in names} | {"x": {1: "tokens"}}
            torch.onnx.export(Step(), (torch.ones(1, 2, dtype=torch.long), *past), str(temporary), input_names=["x", *names],
                              output_names=["y", *("new_" + n for n in names)], dynamic_axes=axes, opset_version=17)
    temporary.rename(path)
    return path


def fed():
    import numpy

    random = numpy.random.default_rng(1)
    return random.random((1, 3, 224, 224), numpy.float32) if kind == "image" else random.integers(5, 1000, (1, tokens))


def generating(ask, names, shape):
    """Times of one-token steps; `ask` is a dictionary of inputs -> list of outputs, logits first."""
    import numpy

    def text():
        times = []
        answer = ask({"x": fed()} | {n: numpy.zeros(shape, numpy.float32) for n in names})
        for _ in range(generate):
            begun = time.perf_counter()
            token = answer[0][:, -1:].argmax(-1)
            answer = ask({"x": token} | dict(zip(names, answer[1:])))
            times.append(time.perf_counter() - begun)
        return times

    return text


def onnxruntime_request():
    if format_ == "bf16":
        raise NoSuchFormat("its CPU kernels have no bf16")
    import onnxruntime

    path = onnx_file()
    if format_ == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantised = path.with_suffix(".int8.onnx")
        if not quantised.exists():
            quantize_dynamic(path, quantised, weight_type=QuantType.QInt8)
        path = quantised
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    if generate:
        inputs = session.get_inputs()
        shape = [1, inputs[1].shape[1], 0, inputs[1].shape[3]]
        return generating(lambda values: session.run(None, values), [i.name for i in inputs[1:]], shape)
    value = fed()
    return lambda: session.run(None, {"x": value})


def openvino_request():
    if format_ == "int8":
        raise NoSuchFormat("needs a model quantised beforehand")
    import openvino

    core = openvino.Core()
    wanted = {"INFERENCE_PRECISION_HINT": {"f32": "f32", "bf16": "bf16"}[format_], "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(onnx_file()), "CPU", wanted)
    asked = compiled.create_infer_request()
    if generate:
        inputs = compiled.inputs
        shape = [1, inputs[1].partial_shape[1].get_length(), 0, inputs[1].partial_shape[3].get_length()]

        def ask(values):
            answers = asked.infer(values)
            return [answers[i] for i in range(len(compiled.outputs))]

        return generating(ask, [i.any_name for i in inputs[1:]], shape)
    value = fed()
    return lambda: asked.infer({"x": value})


def main():
    if engine != "torch":
        onnx_file()  # not a part of the time to the first answer
    begun = time.perf_counter() if engine != "torch" else started
    try:
        request = {"torch": torch_request, "onnxruntime": onnxruntime_request, "openvino": openvino_request}[engine]()
        request()
    except NoSuchFormat as why:
        print("none", why, flush=True)
        return
    print("ready", time.perf_counter() - begun, flush=True)
    for line in sys.stdin:
        times = []
        while len(times) < int(line):
            begun = time.perf_counter()
            answer = request()
            times += answer if generate else [time.perf_counter() - begun]
        print(*(f"{1e3 * t:.4f}" for t in times), flush=True)


main()
