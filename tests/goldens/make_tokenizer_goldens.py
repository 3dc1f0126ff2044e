#!/usr/bin/env python3
"""Makes the goldens of tests/model/tokenizer_test.cpp and published_tokenizer_test.cpp with Hugging Face's tokenizers; run it again and nothing changes.

    /usr/bin/python3 -m venv hf
    hf/bin/pip install transformers==4.37.2 tokenizers==0.15.2 sentencepiece==0.2.3 protobuf==3.20.3
    hf/bin/python tests/goldens/make_tokenizer_goldens.py [FOLDER]

Writes, beside itself, tokenizers/<name>/: a small tokenizer trained on the sentences below, and cases.json: what the reference
makes of strings that are easy to get wrong; and tokenizers/pairs.json: what it makes of two texts, with ids, types and lengths.
With FOLDER (tokenizers/ and texts of published models and corpora) it also writes tokenizers/published.json: for each of its texts
how many tokens there are, and the SHA-256 of all lines of token numbers; the same for pairs (published_pairs.json), cut to several
lengths. --families makes those of RoBERTa, Qwen2 and Llama 3 alone, which were made with transformers 4.46.3 and tokenizers
0.20.3, as those of pairs (--pairs).
"""
import hashlib
import io
import json
import pathlib
import sys

import sentencepiece
from tokenizers import ByteLevelBPETokenizer, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, LlamaTokenizer, LlamaTokenizerFast, PreTrainedTokenizerFast, RobertaTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent / "tokenizers"

SENTENCES = """A fleet of small devices answers together, each with a narrower copy of one large model.
The aggregator waits for features, not for promises: who is late is left out, and the answer says so.
Memory, speed and links differ; therefore nobody gets the same share as its neighbour.
It isn't the fastest board that decides. It's the slowest one, and we've measured 3 of them in 2023 and 12 in 2024.
Über den Wolken muß die Größe der Modelle wohl grenzenlos sein, café au lait inclus.
Don't cut what you can't mend; they're all needed, I'll say, and you'd better weigh 1,000 channels twice.
人工智能 is written in ideographs, привет in Cyrillic, and καλημέρα in Greek.""".split("\n")

CASES = [
    "", " ", "  ", "\n", "\t \n", "a", "Hello, world!", "hello world", "  two  spaces  ", "trailing space ", "line\nbreak\r\nand more",
    "\n\n\nthree breaks", "tab\tbetween", "a\u00a0no-break space", "\u2003em space", "a\u200bzero width", "\u0085next line",
    "isn't they've we'll I'm he'd it's DON'T 'tis 's ''s", "'", "''''", "x'", "rock'n'roll",
    "1234567890", "3.14159", "1,000,000", "½ ² ٣ Ⅷ", "a1b2c3", "$5.00 + €7 = £12", "#hash @at ~tilde `tick` ^caret |bar|",
    "naïve café Ünïcödé", "cafe\u0301", "\u0301", "a\u0301\u0323", "İstanbul ISTANBUL ıi", "ΑΣ ΣΑΣ ς", "Straße STRASSE ß", "ﬁ ﬀ ligature",
    "人工智能", "中文字符 mixed 混合", "日本語のテキスト", "한국어 텍스트", "𠀀𠀁 rare", "\U0002b820\U0002b920",
    "😀", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "e😀f", "✋🏽", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "ไทย", "Zalgo ť̷̢̛h̴̨e",
    "\u0000null\u0001one\u001besc", "\ufeffmark", "\ufffd", "\u00ad soft", "a\u2028b\u2029c", "\ue000private", "\U000e0001tag", "un\u0378assigned", "good \U0001fae9 film",
    "--- ... !!! ???", "(a) [b] {c} <d>", "\"quoted\" “curly” ‘single’ «guillemets»", "a-b_c", "http://example.org/a?b=c&d=e#f", "C++ & C#",
    "[CLS] [MASK] [SEP] [cls]", "a[MASK]b", "<|endoftext|>", "a<|endoftext|>b <|endoftext|> c", "<s> </s> <unk>", "[", "<|endof", "##ing un##known",
    "supercalifragilisticexpialidocious" * 4, "x" * 100, "y" * 101, "z" * 250, "ab" * 500, " " * 300, "é" * 130, "\n" * 70 + "end",
    "A fleet of small devices answers together.", "Memory and speed; the AGGREGATOR waits.",
]
BROKEN = [b"\xff", b"a\x80b", b"\xc3", b"\xe2\x82", b"\xe2\x82a", b"\xf0\x9f\x98", b"\xf0\x9f\x98x\xe2\x28\xa1", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
          b"ok \xfe\xfe ok", b"\xe4\xba\xba\xe4\xba", b"\x80\x80\x80"]


def cases(encode, decode, name, more=()):
    made = []
    for text in CASES + list(more):
        ids = encode(text)
        made.append(dict(hex=text.encode().hex(), ids=ids, text=decode(ids)))
    for raw in BROKEN:
        made.append(dict(hex=raw.hex(), ids=encode(raw.decode(errors="replace"))))
    (HERE / name / "cases.json").write_text(json.dumps(dict(cases=made), ensure_ascii=True) + "\n")


def wordpiece():
    folder = HERE / "wordpiece"
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if not (folder / "tokenizer.json").exists():  # training breaks ties at random: what is there stays
        made.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=420, special_tokens=special, show_progress=False))
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        made.save(str(folder / "tokenizer.json"))
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    by_id = sorted(made.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(token + "\n" for token, _ in by_id))
    cases(lambda text: made.encode(text).ids, lambda ids: made.decode(ids), "wordpiece")


def cased():
    """The same vocabulary, read as a cased model reads it: only vocab.txt and tokenizer_config.json."""
    folder = HERE / "wordpiece_cased"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text((HERE / "wordpiece" / "vocab.txt").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(do_lower_case=False)) + "\n")
    made = BertTokenizerFast.from_pretrained(str(folder))
    cases(lambda text: made.backend_tokenizer.encode(text).ids, 
          lambda ids: made.backend_tokenizer.decode([i for i in ids if i > 4]), "wordpiece_cased")


def byte_pair():
    folder = HERE / "byte_pair"
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    made.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=520, special_tokens=["<|endoftext|>"], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made.save(str(folder / "tokenizer.json"))
    made.model.save(str(folder))  # vocab.json and merges.txt
    cases(lambda text: made.encode(text).ids, lambda ids: made.decode(ids), "byte_pair")


def cut_first():
    """Byte-level BPE whose text is cut by more than GPT-2's pattern: every digit by itself, and Llama 3's words."""
    llama3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    level = pre_tokenizers.ByteLevel
    ways = dict(digits=[pre_tokenizers.Digits(individual_digits=True), level(add_prefix_space=False)],
                split=[pre_tokenizers.Split(Regex(llama3), "isolated"), level(add_prefix_space=False, use_regex=False)])
    for name, steps in ways.items():
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.Sequence(steps)
        made.decoder = decoders.ByteLevel()
        made.train_from_iterator(SENTENCES, trainers.BpeTrainer(
            vocab_size=520, special_tokens=["<|endoftext|>"], show_progress=False, initial_alphabet=level.alphabet()))
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])])
        made.save(str(folder / "tokenizer.json"))
        cases(lambda text: made.encode(text).ids, lambda ids: made.decode(ids), name)


def roberta():
    """RoBERTa's: tokenizer.json by itself, and what RobertaTokenizer makes of the vocabulary and merges."""
    folder = HERE / "roberta"
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=520, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(tokenizer_class="RobertaTokenizer")) + "\n")
    made = RobertaTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    made.backend_tokenizer.save(str(folder / "tokenizer.json"))
    cases(made.encode, lambda ids: made.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False), "roberta",
          ["a <mask> b", "<mask>", "a  <mask>  b", "a<mask>b", "<s> a </s>", "a<pad><mask>\n<mask>"])


def as_published():
    """The tokenizer.json of Qwen2 and of Llama 3, but for the vocabulary."""
    qwen2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    llama3 = qwen2.replace(r"\p{N}|", r"\p{N}{1,3}|")
    level = pre_tokenizers.ByteLevel
    for name, pattern, special in [("qwen2", qwen2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
                                   ("llama3", llama3, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])]:
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        made = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
        if name == "qwen2":
            made.normalizer = normalizers.NFC()
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                                      level(add_prefix_space=False, trim_offsets=name == "llama3", use_regex=False)])
        made.decoder = decoders.ByteLevel()
        made.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=level.alphabet()))
        made.add_special_tokens(special)  # behind the vocabulary
        begin = made.token_to_id(special[0])
        made.post_processor = processors.ByteLevel(trim_offsets=False) if name == "qwen2" else processors.Sequence([
            processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(
                single=f"{special[0]} $A", pair=f"{special[0]} $A {special[0]}:1 $B:1", special_tokens=[(special[0], begin)])])
        made.save(str(folder / "tokenizer.json"))
        if name == "qwen2":
            made.model.save(str(folder))  # vocab.json and merges.txt: without the special tokens
        cases(lambda text: made.encode(text).ids, made.decode, name,
              [special[1] + "user\nHi!" + special[2] + "\n", "I'LL 'Ve 'ſ '\u017f", "x\r\n\r\n y", "12345 ٣٤٥٦ ⅧⅧⅧⅧ", "  \n  x", "e\u0301\u0327"])


def sentence_piece():
    folder = HERE / "sentence_piece"
    folder.mkdir(parents=True, exist_ok=True)
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=made, vocab_size=400, model_type="bpe", byte_fallback=True, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, character_coverage=0.99,
        num_threads=1, minloglevel=2)
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    llama = LlamaTokenizer(str(folder / "tokenizer.model"))
    # The slow one loses a blank at the beginning of a text.
    fast = LlamaTokenizerFast(str(folder / "tokenizer.model"))
    cases(llama.encode, lambda ids: fast.decode(ids, skip_special_tokens=True), "sentence_piece")
    # Special tokens where they stand: how they are written between words.
    ids = llama.encode("small devices")
    rows = [ids, ids + [2], [2, 2] + ids, ids + ids, [0], ids[1:] + [0] + ids[1:] + [2, 2], [1], [], [3 + 0xE4, 3 + 0xBA], ids[1:] + [3 + 0xE4]]
    (folder / "specials.json").write_text(json.dumps(dict(cases=[
        dict(ids=row, text=llama.decode(row), without=llama.decode(row, skip_special_tokens=True)) for row in rows])) + "\n")


PAIRS = [("", ""), ("a", ""), ("", "b"), ("hello world", "hello world"), ("Hello, world!", "isn't they've we'll"),
         ("A fleet of small devices answers together.", "Memory"), ("Memory", "A fleet of small devices answers together."),
         ("[CLS] a [SEP] b", "[SEP]"), ("人工智能", "café 1,000,000"), (" two  spaces ", "  two  spaces  ")]
PAIR_LENGTHS = [0, 4, 7, 8, 11, 16]


def pairs():
    """Each way that a file names a pair: with BERT's and RoBERTa's processors, by templates, and by the vocabulary's files alone."""
    template = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                             special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"<s>": 0, "</s>": 1}
    roberta_template = processors.TemplateProcessing(single="<s> $A </s>", pair="<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0",
                                                     special_tokens=list(special.items()))
    ways = [("wordpiece", template), ("wordpiece", processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))),
            ("wordpiece", processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])),
            ("byte_pair", processors.RobertaProcessing(("</s>", 1), ("<s>", 0))), ("byte_pair", roberta_template),
            ("byte_pair", processors.Sequence([processors.ByteLevel(trim_offsets=False), roberta_template])),
            ("byte_pair", processors.ByteLevel(trim_offsets=False)), ("wordpiece_cased", None), ("roberta", None)]
    made = []
    for folder, processor in ways:
        if processor is None:  # the vocabulary's files
            fast = (RobertaTokenizerFast if folder == "roberta" else BertTokenizerFast).from_pretrained(str(HERE / folder))
        else:
            one = Tokenizer.from_file(str(HERE / folder / "tokenizer.json"))
            one.post_processor = processor
            fast = PreTrainedTokenizerFast(tokenizer_object=one)
        found = []
        for first, second in PAIRS:
            for length in PAIR_LENGTHS:
                how = dict(truncation=True, max_length=length) if length else {}
                # In a batch: by itself a pair whose second text is empty is taken for one text.
                row = fast([first], [second], return_token_type_ids=True, **how)
                found.append(dict(first=first, second=second, length=length, ids=row["input_ids"][0], types=row["token_type_ids"][0]))
        state = json.loads(one.to_str())["post_processor"] if processor else None
        made.append(dict(folder=folder, post_processor=state, cases=found))
    lines = ",\n".join(json.dumps(way) for way in made)
    (HERE / "pairs.json").write_text("[\n" + lines + "\n]\n")


def published_pairs(shared):
    bert = BertTokenizerFast(str(shared / "tokenizers" / "bert_uncased_vocab.txt"), do_lower_case=True)
    rows = []
    for text in ["stsb/sts-train.tsv", "stsb/sts-dev.tsv"]:
        lines = [line.split("\t") for line in (shared / text).read_text().split("\n") if line]
        for length in [0, 8, 13, 16, 21, 32, 64]:
            digest, count = hashlib.sha256(), 0
            for line in lines:
                how = dict(truncation=True, max_length=length) if length else {}
                row = bert(line[5], line[6], **how)
                count += len(row["input_ids"])
                numbers = [token + (kind << 30) for token, kind in zip(row["input_ids"], row["token_type_ids"])]
                digest.update((" ".join(map(str, numbers)) + "\n").encode())
            rows.append(dict(tokenizer="bert", text=text, length=length, tokens=count, sha256=digest.hexdigest()))
    (HERE / "published_pairs.json").write_text(json.dumps(dict(rows=rows), indent=1) + "\n")


def published(shared):
    vocabularies = shared / "tokenizers"
    bert = BertTokenizerFast(str(vocabularies / "bert_uncased_vocab.txt"), do_lower_case=True).backend_tokenizer
    # Not GPT2TokenizerFast: it drops the first merge of a file without a "#version" line.
    gpt2 = ByteLevelBPETokenizer(str(vocabularies / "gpt2_vocab.json"), str(vocabularies / "gpt2_merges.txt"))
    llama = LlamaTokenizer(str(vocabularies / "llama2_tokenizer.model"))
    encoders = dict(bert=lambda text: bert.encode(text).ids, gpt2=lambda text: gpt2.encode(text).ids, llama2=llama.encode)
    texts = ["wikitext2/valid.txt", "wikitext2/test.txt", "sst2/dev.tsv", "sst2/train.tsv", "tinyshakespeare/input.txt"]
    rows = []
    for name, encode in encoders.items():
        for text in texts:
            digest, count = hashlib.sha256(), 0
            for line in (shared / text).read_text().split("\n"):
                ids = encode(line)
                count += len(ids)
                digest.update((" ".join(map(str, ids)) + "\n").encode())
            rows.append(dict(tokenizer=name, text=text, tokens=count, sha256=digest.hexdigest()))
        nasty = "".join(chr(97 + i * 7 % 26) for i in range(100_000))
        ids = encode(nasty)
        rows.append(dict(tokenizer=name, text="", tokens=len(ids), sha256=hashlib.sha256((" ".join(map(str, ids)) + "\n").encode()).hexdigest()))
    # The strings that are easy to get wrong, with a vocabulary that has most scripts.
    made = [llama.encode(text) for text in CASES] + [llama.encode(raw.decode(errors="replace")) for raw in BROKEN]
    rows.append(dict(tokenizer="llama2", text="cases", tokens=sum(map(len, made)),
                     sha256=hashlib.sha256("".join(" ".join(map(str, ids)) + "\n" for ids in made).encode()).hexdigest()))
    (HERE / "published.json").write_text(json.dumps(dict(rows=rows), indent=1) + "\n")


if __name__ == "__main__":
    only = sys.argv[1] if sys.argv[1:2] in (["--families"], ["--pairs"]) else None
    if only is None:
        wordpiece()
        cased()
        byte_pair()
        cut_first()
        sentence_piece()
    if only != "--pairs":
        roberta()
        as_published()
    if only != "--families":
        pairs()
    if len(sys.argv) > 1 and only is None:
        published(pathlib.Path(sys.argv[1]))
        published_pairs(pathlib.Path(sys.argv[1]))
