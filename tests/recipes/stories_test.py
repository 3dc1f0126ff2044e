"""recipes/stories/convert on a forged model: what it writes, and what it refuses. The standard library only."""
import json
import pathlib
import struct
import subprocess
import tempfile
import unittest

CONVERT = pathlib.Path(__file__).resolve().parents[2] / "recipes/stories/convert"
DIM, HIDDEN, LAYERS, HEADS, GROUPS, WORDS, LENGTH = 8, 3, 2, 2, 1, 261, 5


def model(tied=True):
    """The weights are 0, 1, 2, … in the order of the file."""
    keys = DIM // HEADS * GROUPS
    count = WORDS * DIM + LAYERS * (2 * DIM + 2 * DIM * DIM + 2 * keys * DIM + 3 * HIDDEN * DIM) + DIM + LENGTH * DIM // HEADS
    if not tied:
        count += WORDS * DIM
    return struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, GROUPS, WORDS if tied else -WORDS, LENGTH) + struct.pack(f"<{count}f", *range(count))


def tokens():
    texts = ["<unk>", "\n<s>\n", "\n</s>\n"] + [f"<0x{i:02X}>" for i in range(256)] + [" a", "é"]
    out = struct.pack("<i", 7)
    for id, text in enumerate(texts):
        out += struct.pack("<fi", -float(id), len(text.encode())) + text.encode()
    return out


def tensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__")
    ends = {name: [8 + size + at for at in entry["data_offsets"]] for name, entry in header.items()}
    assert max(end for _, end in ends.values()) == len(data)
    return {name: (header[name]["shape"], struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])) for name, (begin, end) in ends.items()}


class Convert(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        self.root = pathlib.Path(self.scratch.name)

    def run_with(self, model_bytes, token_bytes):
        (self.root / "model.bin").write_bytes(model_bytes)
        (self.root / "tokens.bin").write_bytes(token_bytes)
        return self.call(self.root / "model.bin", self.root / "tokens.bin", self.root / "out")

    def call(self, *words):
        return subprocess.run([CONVERT, *words], capture_output=True, text=True)

    def refused(self, model_bytes, token_bytes, said):
        ran = self.run_with(model_bytes, token_bytes)
        self.assertEqual((ran.returncode, ran.stdout), (1, ""), ran.stderr)
        self.assertEqual(ran.stderr.count("\n"), 1, ran.stderr)
        self.assertIn(said, ran.stderr)
        self.assertEqual(sorted(entry.name for entry in self.root.iterdir()), ["model.bin", "tokens.bin"])

    def test_writes_a_folder_of_hugging_faces(self):
        ran = self.run_with(model(), tokens())
        self.assertEqual(ran.returncode, 0, ran.stderr)
        out = self.root / "out"
        self.assertEqual(sorted(entry.name for entry in out.iterdir()),
                         ["config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"])
        config = json.loads((out / "config.json").read_text())
        self.assertEqual((config["architectures"], config["num_key_value_heads"], config["tie_word_embeddings"]), (["LlamaForCausalLM"], 1, True))
        found = tensors(out / "model.safetensors")
        self.assertEqual(len(found), 2 + 9 * LAYERS)
        self.assertEqual(found["model.embed_tokens.weight"], ([WORDS, DIM], tuple(range(WORDS * DIM))))
        self.assertEqual(found["model.layers.1.mlp.down_proj.weight"][0], [DIM, HIDDEN])

    def test_rows_that_turn_together_lie_half_a_head_apart(self):
        self.assertEqual(self.run_with(model(), tokens()).returncode, 0)
        dims, values = tensors(self.root / "out/model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
        first = WORDS * DIM + LAYERS * DIM  # behind the embedding and the first norms
        rows = [int(values[i * DIM] - first) // DIM for i in range(dims[0])]
        self.assertEqual(rows, [0, 2, 1, 3, 4, 6, 5, 7])  # two heads of four

    def test_a_vocabulary_below_zero_has_a_classifier_of_its_own(self):
        self.assertEqual(self.run_with(model(tied=False), tokens()).returncode, 0)
        self.assertFalse(json.loads((self.root / "out/config.json").read_text())["tie_word_embeddings"])
        head = tensors(self.root / "out/model.safetensors")["lm_head.weight"]
        last = (len(model(tied=False)) - 28) // 4
        self.assertEqual(head, ([WORDS, DIM], tuple(range(last - WORDS * DIM, last))))

    def test_refuses_what_is_not_whole(self):
        whole = model()
        self.refused(whole[:20], tokens(), "saw 20 bytes, needs a header of 28")
        self.refused(whole[:-1], tokens(), f"saw {len(whole) - 1} bytes, needs the {len(whole)}")
        self.refused(whole + b"x", tokens(), f"saw {len(whole) + 1} bytes")
        self.refused(b"24ka" + whole[4:], tokens(), "saw a later format")
        self.refused(whole[:12] + struct.pack("<i", 3) + whole[16:], tokens(), "dim: saw 8, needs a multiple of n_heads (3)")
        self.refused(whole, b"", "tokens.bin] saw an empty file")
        self.refused(whole, tokens()[:-1], "saw the end of the file in token 260, needs 261 tokens")
        self.refused(whole, tokens() + b"x", "saw 1 bytes behind token 260")
        self.refused(whole, tokens()[:-1] + b"\xff", "token 260 is no valid UTF-8")

    def test_refuses_a_folder_that_holds_something(self):
        (self.root / "out").mkdir()
        (self.root / "out/mine").write_text("mine")
        ran = self.run_with(model(), tokens())
        self.assertEqual(ran.returncode, 1)
        self.assertIn("exists already, needs a new or an empty folder", ran.stderr)
        self.assertEqual([entry.name for entry in (self.root / "out").iterdir()], ["mine"])

    def test_says_how_it_is_used(self):
        self.assertEqual(self.call().returncode, 2)
        self.assertIn("Usage:", self.call("--help").stdout)


if __name__ == "__main__":
    unittest.main()
