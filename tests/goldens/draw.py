#!/usr/bin/env python3
"""What model/draw.cpp draws, told again in plain Python: the figures in tests/model/draw_test.cpp."""
from fractions import Fraction

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
KEY = 0x636C65617665


def mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def draws(key):
    state = 0
    for part in key:
        state = mix((state + GOLDEN + part) & MASK)
    while True:
        state = (state + GOLDEN) & MASK
        yield mix(state)


def shuffled(count, key):
    order, draw = list(range(count)), draws(key)
    for i in range(count - 1, 0, -1):
        j = next(draw) % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def drawn(classes, count, keep_last):
    places = []
    for c, name in enumerate(dict.fromkeys(classes)):
        rows = [i for i, other in enumerate(classes) if other == name]
        for j, place in enumerate(shuffled(len(rows), (KEY, c))):
            group = 2 if keep_last and j + 1 == len(rows) else min(j, 1)
            places.append((group, Fraction(2 * j + 1, 2 * len(rows)), c, rows[place]))
    return sorted(place[3] for place in sorted(places)[:count])


classes = [i * i % 3 for i in range(40)] + [2]
print("held_out", drawn(classes, 9, True))
print("stratified", drawn(classes, 9, False))
