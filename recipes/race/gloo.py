"""BERT-base's shape with random weights over c10d's Gloo on loopback, one thread a process: the baseline of an existing engine.

Usage: gloo.py PROCESSES TOKENS, then on standard input lines "tensor 5" or "voltage 5": so many requests, whose milliseconds it prints on one
line. tensor: heads and MLP columns, two all_reduces a layer. voltage: rows of the sequence, one all_gather a layer, padded because Gloo has no
uneven one; keys and values of all tokens are computed everywhere. Both are compared with one process before the first line is read.
"""

import os
import socket
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch.nn.functional import embedding, gelu, layer_norm, linear, scaled_dot_product_attention

WIDTH, HEADS, COLUMNS, LAYERS, VOCABULARY, CLASSES = 768, 12, 3072, 12, 30522, 2
HEAD = WIDTH // HEADS


def pieces(whole, parts):
    """Ranges that are equal up to one, the larger ones first."""
    sizes = [whole // parts + (part < whole % parts) for part in range(parts)]
    ends = [sum(sizes[: part + 1]) for part in range(parts)]
    return [slice(end - size, end) for size, end in zip(sizes, ends)]


def weights():
    """The same on every rank."""
    made = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=made) * 0.02
    layer = lambda: dict(qkv=draw(3, WIDTH, WIDTH), qkv_bias=draw(3, WIDTH), out=draw(WIDTH, WIDTH), out_bias=draw(WIDTH), up=draw(COLUMNS, WIDTH),
                         up_bias=draw(COLUMNS), down=draw(WIDTH, COLUMNS), down_bias=draw(WIDTH))
    return dict(words=draw(VOCABULARY, WIDTH), places=draw(512, WIDTH), layers=[layer() for _ in range(LAYERS)], head=draw(CLASSES, WIDTH))


def normed(x):
    return layer_norm(x, (WIDTH,), eps=1e-12)


def attended(q, k, v):
    """[rows, h K], [N, h K], [N, h K] -> [rows, h K]."""
    apart = lambda x: x.view(x.shape[0], -1, HEAD).transpose(0, 1)
    return scaled_dot_product_attention(apart(q), apart(k), apart(v)).transpose(0, 1).reshape(q.shape[0], -1)


def whole(model, ids):
    """All in this process."""
    x = normed(embedding(ids, model["words"]) + model["places"][: len(ids)])
    for w in model["layers"]:
        q, k, v = (linear(x, w["qkv"][i], w["qkv_bias"][i]) for i in range(3))
        x = normed(x + linear(attended(q, k, v), w["out"], w["out_bias"]))
        x = normed(x + linear(gelu(linear(x, w["up"], w["up_bias"])), w["down"], w["down_bias"]))
    return linear(x[0], model["head"])


class Tensor:
    def __init__(self, model, rank, ranks):
        heads, columns = pieces(HEADS, ranks)[rank], pieces(COLUMNS, ranks)[rank]
        own = slice(heads.start * HEAD, heads.stop * HEAD)
        self.model = model
        self.layers = [dict(qkv=[w["qkv"][i][own].contiguous() for i in range(3)], qkv_bias=[w["qkv_bias"][i][own] for i in range(3)],
                            out=w["out"][:, own].contiguous(), out_bias=w["out_bias"], up=w["up"][columns].contiguous(), up_bias=w["up_bias"][columns],
                            down=w["down"][:, columns].contiguous(), down_bias=w["down_bias"]) for w in model["layers"]]

    def __call__(self, ids):
        x = normed(embedding(ids, self.model["words"]) + self.model["places"][: len(ids)])
        for w in self.layers:
            q, k, v = (linear(x, w["qkv"][i], w["qkv_bias"][i]) for i in range(3))
            partial = linear(attended(q, k, v), w["out"])
            dist.all_reduce(partial)
            x = normed(x + partial + w["out_bias"])
            partial = linear(gelu(linear(x, w["up"], w["up_bias"])), w["down"])
            dist.all_reduce(partial)
            x = normed(x + partial + w["down_bias"])
        return linear(x[0], self.model["head"])


class Voltage:
    def __init__(self, model, rank, ranks, tokens):
        self.model, self.rows = model, pieces(tokens, ranks)
        self.own = self.rows[rank]
        most = self.rows[0].stop - self.rows[0].start
        self.padded = torch.zeros(most, WIDTH)
        self.gathered = [torch.zeros(most, WIDTH) for _ in range(ranks)]

    def __call__(self, ids):
        x = normed(embedding(ids[self.own], self.model["words"]) + self.model["places"][self.own])
        for w in self.model["layers"]:
            all_rows = self.gather(x)
            q = linear(x, w["qkv"][0], w["qkv_bias"][0])
            k, v = (linear(all_rows, w["qkv"][i], w["qkv_bias"][i]) for i in (1, 2))
            x = normed(x + linear(attended(q, k, v), w["out"], w["out_bias"]))
            x = normed(x + linear(gelu(linear(x, w["up"], w["up_bias"])), w["down"], w["down_bias"]))
        return linear(x[0], self.model["head"])  # of rank 0, which has the first row

    def gather(self, x):
        self.padded[: len(x)] = x
        dist.all_gather(self.gathered, self.padded)
        return torch.cat([piece[: rows.stop - rows.start] for piece, rows in zip(self.gathered, self.rows)])


def work(rank, ranks, tokens, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    model = weights()
    ways = [Tensor(model, rank, ranks), Voltage(model, rank, ranks, tokens)]
    ids = torch.randint(VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(2))

    def ask(way):
        """Rank 0 has the input and gets the answer, as an aggregator does."""
        asked = ids.clone() if rank == 0 else torch.empty_like(ids)
        dist.broadcast(asked, 0)
        return ways[way](asked)

    with torch.no_grad():
        expected = whole(model, ids)
        for way in range(len(ways)):
            answer = ask(way)
            if rank == 0 and not torch.allclose(answer, expected, rtol=1e-4, atol=1e-5):
                sys.exit(f"{type(ways[way]).__name__}: saw {answer}, needs {expected}")
        if rank == 0:
            print("ready", flush=True)
        while True:
            order = torch.zeros(2, dtype=torch.int64)  # which, and how often; never ends
            if rank == 0:
                words = sys.stdin.readline().split()
                if words:
                    order = torch.tensor([["tensor", "voltage"].index(words[0]), int(words[1])])
            dist.broadcast(order, 0)
            if order[1] == 0:
                return
            spent = []
            for _ in range(int(order[1])):
                started = time.perf_counter()
                ask(int(order[0]))
                spent.append(1e3 * (time.perf_counter() - started))
            if rank == 0:
                print(*(f"{ms:.3f}" for ms in spent), flush=True)


if __name__ == "__main__":
    ranks, tokens = int(sys.argv[1]), int(sys.argv[2])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    others = [processes.get_context("spawn").Process(target=work, args=(rank, ranks, tokens, port), daemon=True) for rank in range(1, ranks)]
    for other in others:
        other.start()
    work(0, ranks, tokens, port)
