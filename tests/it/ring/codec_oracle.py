"""Python's own readers and writers, for codec.rs: one request a line on stdin, one answer a line on stdout.

    protocols       how many protocols of pickle this Python has
    dump SEED N     N random tuples, pickled in every protocol and as a literal: `HEX JSON` lines, then an empty one
    load HEX        what pickle makes of it: JSON, or `error`
    eval HEX        what ast.literal_eval makes of it: JSON, or `error`

JSON tells tuples, lists and floats apart, and integers beyond 64 bits are "big": see `plain`.
"""

import ast
import io
import json
import pickle
import random
import struct
import sys


# The last one that peerloop knows is 5.
PROTOCOLS = min(pickle.HIGHEST_PROTOCOL, 5) + 1


class Restricted(pickle.Unpickler):
    def find_class(self, module, name):
        raise pickle.UnpicklingError("global")


def plain(value):
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else "big"
    if isinstance(value, str):
        value.encode()  # no lone surrogates
        return value
    if isinstance(value, bytes):
        # As the readers of peerloop take it.
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.decode("latin-1")
    if isinstance(value, float):
        return {"float": struct.pack(">d", value).hex()}
    if isinstance(value, tuple):
        return {"tuple": [plain(item) for item in value]}
    if isinstance(value, list):
        return {"list": [plain(item) for item in value]}
    raise ValueError(type(value))


def some(rng, depth, protocol):
    kinds = 5 if depth == 0 else 8
    kind = rng.randrange(kinds)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([1, -1]) * rng.getrandbits(rng.choice([3, 8, 16, 31, 32, 63, 64, 200]))
    if kind == 2:
        return rng.choice([0.0, -1.5, 1e308, 5e-324, float(rng.getrandbits(40)) / 7])
    # A pickle before protocol 3 calls a function to make byte strings.
    if kind == 3 and protocol >= 3:
        return bytes(rng.getrandbits(8) for _ in range(rng.choice([0, 3, 300])))
    if kind <= 4:
        letters = "ab '\"\\\n\r\t\0\x1a\x7f\x85\xe9\u0431\u2028\U0001f600(),[]"
        return "".join(rng.choice(letters) for _ in range(rng.choice([0, 1, 5, 40, 300])))
    items = [some(rng, depth - 1, protocol) for _ in range(rng.randrange(6))]
    # Shared values come back from the memo.
    if items and rng.randrange(3) == 0:
        items.append(rng.choice(items))
    return tuple(items) if kind < 7 else items


def dump(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        for protocol in range(PROTOCOLS):
            value = ("QUERY",) + tuple(some(rng, 4, protocol) for _ in range(rng.randrange(5)))
            yield pickle.dumps(value, protocol), value
            if protocol == PROTOCOLS - 1:
                yield repr(value).encode(), value
                yield ascii(value).encode(), value


def answer(word, argument):
    data = bytes.fromhex(argument)
    try:
        if word == "load":
            value = Restricted(io.BytesIO(data)).load()
        else:
            value = ast.literal_eval(data.decode())
        return json.dumps(plain(value))
    except Exception:
        return "error"


for line in sys.stdin:
    word, *arguments = line.split()
    if word == "protocols":
        print(PROTOCOLS)
    elif word == "dump":
        for data, value in dump(*map(int, arguments)):
            print(data.hex(), json.dumps(plain(value)))
        print()
    else:
        print(answer(word, *arguments))
    sys.stdout.flush()
