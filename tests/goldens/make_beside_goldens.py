#!/usr/bin/env python3
"""Makes tokenizers/beside.json: the tokens that Transformers makes where tokenizer_config.json and the other files beside a vocabulary say more
than the vocabulary, of the small tokenizers that make_tokenizer_goldens.py made. Run it again and nothing changes.

    python3 -m venv hf
    hf/bin/pip install transformers==4.46.3 sentencepiece protobuf
    hf/bin/python tests/goldens/make_beside_goldens.py
"""
import json
import pathlib
import shutil
import tempfile

import transformers

HERE = pathlib.Path(__file__).resolve().parent / "tokenizers"
TEXTS = ["Hello World", "The Café AU lait, naïve ÜBER", "中文 mixed 人工智能", " A fleet of  small devices", "a<|endoftext|>b", "x [MASK] y [E1] z",
         "<s>the devices</s> and <|user|> more<|end|>", "isn't it 12 of 3?", ""]


def golden(name, *files):
    return {file: (HERE / name / file) for file in files}


def changed(name, change):
    """A golden's tokenizer.json with something changed."""
    file = json.loads((HERE / name / "tokenizer.json").read_text())
    change(file)
    return file


def no_case(file):
    file["normalizer"].update(lowercase=False, strip_accents=False, handle_chinese_chars=False)


def spaced(file):
    file["pre_tokenizer"]["add_prefix_space"] = True


def llama_json(*tokens, legacy=True):
    """What LlamaTokenizerFast saves of the SentencePiece golden, with more tokens."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "sentence_piece" / "tokenizer.model", folder)
        made = transformers.LlamaTokenizerFast.from_pretrained(folder, legacy=legacy)
        made.add_special_tokens(dict(additional_special_tokens=list(tokens)))
        made.save_pretrained(folder)
        return json.loads((pathlib.Path(folder) / "tokenizer.json").read_text())


def cases():
    pieces, pairs = golden("wordpiece", "tokenizer.json"), golden("byte_pair", "tokenizer.json")
    bert = lambda **more: {"tokenizer_config.json": dict(tokenizer_class="BertTokenizer", **more)}
    yield pieces | bert()
    yield pieces | bert(do_lower_case=False)
    yield pieces | bert(do_lower_case=False, strip_accents=True)
    yield pieces | bert(strip_accents=False, tokenize_chinese_chars=False)
    cased = {"tokenizer.json": changed("wordpiece", no_case)}
    yield cased | bert()
    yield cased | bert(do_lower_case=False)
    yield cased | {"tokenizer_config.json": dict(tokenizer_class="PreTrainedTokenizerFast", do_lower_case=True)}
    yield cased | {"config.json": dict(model_type="bert")}
    yield cased | {"config.json": dict(model_type="bert", tokenizer_class="PreTrainedTokenizerFast")}
    yield pieces | bert(mask_token="small")
    yield pieces | {"special_tokens_map.json": dict(sep_token="the"), "tokenizer_config.json": dict(tokenizer_class="BertTokenizer")}
    yield pieces | bert(added_tokens_decoder={"4": dict(content="[MASK]", lstrip=True, rstrip=True, normalized=False, single_word=False, special=True)})
    words = golden("wordpiece", "vocab.txt")
    yield words | bert(sep_token="the", do_lower_case=False)
    yield words | {"special_tokens_map.json": dict(cls_token="a", unk_token="[MASK]"), "config.json": dict(model_type="bert")}
    gpt2 = lambda **more: {"tokenizer_config.json": dict(tokenizer_class="GPT2Tokenizer", **more)}
    yield pairs | gpt2()
    yield pairs | gpt2(add_prefix_space=True)
    yield pairs | gpt2(add_bos_token=True)
    prefix = {"tokenizer.json": changed("byte_pair", spaced)}
    yield prefix | gpt2()
    yield prefix | {"tokenizer_config.json": dict(tokenizer_class="PreTrainedTokenizerFast")}
    parts = golden("byte_pair", "vocab.json", "merges.txt")
    yield parts | gpt2(add_bos_token=True)
    yield parts | gpt2(add_prefix_space=True)
    yield pairs | {"tokenizer_config.json": dict(tokenizer_class="LlamaTokenizerFast", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
                                                 unk_token="<|endoftext|>", add_eos_token=True)}
    llama = lambda **more: {"tokenizer_config.json": dict(tokenizer_class="LlamaTokenizer", legacy=True, **more)}
    both = golden("sentence_piece", "tokenizer.model") | {"tokenizer.json": llama_json("<|user|>", "<|end|>")}
    yield both | llama()
    yield both | llama(add_bos_token=False, add_eos_token=True)
    plain = golden("sentence_piece", "tokenizer.model")
    yield plain | {"tokenizer_config.json": dict(tokenizer_class="LlamaTokenizer", legacy=False)}
    newer = plain | {"tokenizer.json": llama_json("<|user|>", "<|end|>", legacy=False)}
    yield newer | {"tokenizer_config.json": dict(tokenizer_class="LlamaTokenizer", legacy=False)}
    always = {"tokenizer.json": dict(newer["tokenizer.json"], pre_tokenizer=dict(
        type="Metaspace", replacement="\u2581", prepend_scheme="always", split=False))}
    yield plain | always | llama()


if __name__ == "__main__":
    made = []
    for files in cases():
        with tempfile.TemporaryDirectory() as folder:
            row = dict(files={}, golden={})
            for name, content in files.items():
                path = pathlib.Path(folder) / name
                if isinstance(content, pathlib.Path):
                    shutil.copy(content, path)
                    row["golden"][name] = str(content.relative_to(HERE))
                else:
                    path.write_text(json.dumps(content))
                    row["files"][name] = content
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            row["ids"] = [tokenizer(text)["input_ids"] for text in TEXTS]
            made.append(row)
    (HERE / "beside.json").write_text(json.dumps(dict(texts=TEXTS, cases=made)) + "\n")
