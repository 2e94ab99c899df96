#!/usr/bin/env python3
"""Models of random weights for benchmarks, written with NumPy alone.

  models.py OUT.onnx [--layers 30] [--width 576] [--heads 9,3,64] [--mlp 1536] [--vocab 49152] [--f16]
      A decoder of SmolLM2's shape as exporters write it: input_ids, attention_mask, position_ids and a cache
      (past_key_values.N.key and .value, of `past` places) to logits and the longer cache (present.N.*, of `total`).
  models.py OUT.onnx --encoder [--layers 12] [--f16]
      An encoder of BERT's shape: 768 wide, 12 heads, 128 tokens.
  models.py OUT.onnx --network resnet50|mobilenet_v2 [--batch 1] [--f16]
      The convolutional networks of these names, BatchNormalization folded: [batch,3,224,224] to [batch,1000].
  models.py OUT.onnx --attention BATCH,HEADS,KV_HEADS,QUERIES,KEYS,HEAD [--causal] [--chain 8]
      Attentions in f16 of the same keys and values, one after the other: the result of each is the next one's queries.
"""
import argparse
import numpy as np

FLOAT, INT64, BOOL, FLOAT16 = 1, 7, 9, 10


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def field(number, value):
    """A field of a protobuf message: an integer, bytes or a text."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


class Graph:
    """The parts of an ONNX GraphProto, encoded."""

    def __init__(self, f16, seed=5):
        self.parts, self.names, self.random = [], set(), np.random.default_rng(seed)
        self.dtype, self.type = (np.float16, FLOAT16) if f16 else (np.float32, FLOAT)
        self.base = self.random.standard_normal(1 << 22, np.float32)

    def constant(self, name, value, dtype=None):
        value = np.ascontiguousarray(value, dtype or self.dtype)
        kind = {np.dtype(np.float32): FLOAT, np.dtype(np.float16): FLOAT16, np.dtype(np.int64): INT64}[value.dtype]
        if name not in self.names:
            self.names.add(name)
            dims = b"".join(field(1, n) for n in value.shape)
            self.parts.append(field(5, dims + field(2, kind) + field(8, name) + field(9, value.tobytes())))
        return name

    def ints(self, *values):
        return self.constant("i" + "_".join(map(str, values)), values, np.int64)

    def weights(self, name, shape, scale):
        at = len(self.names) * 7919 % 65536
        values = np.resize(self.base[at:], shape) * np.float32(scale)
        return self.constant(name, values)

    def node(self, op, inputs, name, **attributes):
        encoded = b"".join(field(1, i) for i in inputs) + field(2, name) + field(3, name) + field(4, op)
        for key, value in attributes.items():
            if isinstance(value, (list, tuple)):
                body = b"".join(field(8, n) for n in value) + field(20, 7)
            elif isinstance(value, float):
                body = b"\x15" + np.float32(value).tobytes() + field(20, 1)
            else:
                body = field(3, value) + field(20, 2)
            encoded += field(5, field(1, key) + body)
        self.parts.append(field(1, encoded))
        return name

    def value(self, number, name, kind, dims):
        of = [field(1, field(1, d) if isinstance(d, int) else field(2, d)) for d in dims]
        tensor = field(1, kind) + field(2, b"".join(of))
        self.parts.append(field(number, field(1, name) + field(2, field(1, tensor))))
        return name

    def save(self, path, opset):
        graph = b"".join(self.parts) + field(2, "g")
        with open(path, "wb") as file:
            file.write(field(1, 10) + field(8, field(1, "") + field(2, opset)) + field(7, graph))


def decoder(args):
    g = Graph(args.f16)
    width, mlp, vocab = args.width, args.mlp, args.vocab
    heads, kv_heads, head = map(int, args.heads.split(","))
    g.value(11, "input_ids", INT64, ["batch", "seq"])
    g.value(11, "attention_mask", INT64, ["batch", "total"])
    g.value(11, "position_ids", INT64, ["batch", "seq"])
    shape = lambda name, at: g.node("Gather", [g.node("Shape", [name], f"{name}.shape{at}"), g.ints(at)], f"{name}.{at}")
    scalar = lambda name, to: g.node("Squeeze", [name, g.ints(0)], to)
    seq = shape("input_ids", 1)
    past = shape("past_key_values.0.key", 2)
    total0 = scalar(g.node("Add", [past, seq], "total"), "total0")
    one = g.constant("one", 1, np.int64)
    zero = g.constant("zero", 0, np.int64)
    places = g.node("Range", [scalar(past, "past0"), total0, one], "places")
    keys = g.node("Range", [zero, total0, one], "keys")
    causal = g.node("LessOrEqual", [keys, g.node("Unsqueeze", [places, g.ints(1)], "column")], "causal")
    seen = g.node("Cast", ["attention_mask"], "seen", to=BOOL)
    allowed = g.node("And", [causal, g.node("Unsqueeze", [seen, g.ints(1, 2)], "seen4")], "allowed")
    least = g.constant("least", np.finfo(g.dtype).min)
    mask = g.node("Where", [allowed, g.constant("nothing", 0.0), least], "mask")
    inverse = g.constant("inverse", 1.0 / 100000.0 ** (np.arange(0, head, 2) / head), np.float32)
    place = g.node("Unsqueeze", [g.node("Cast", ["position_ids"], "place", to=FLOAT), g.ints(2)], "place3")
    angle = g.node("Mul", [place, inverse], "angle")
    angles = g.node("Concat", [angle, angle], "angles", axis=-1)
    turn = lambda op: g.node("Unsqueeze", [g.node("Cast", [g.node(op, [angles], op)], f"{op}t", to=g.type), g.ints(1)], f"{op}4")
    cos, sin = turn("Cos"), turn("Sin")

    def linear(x, n_in, n_out, name):
        return g.node("MatMul", [x, g.weights(f"{name}.weight", [n_in, n_out], n_in ** -0.5)], name)

    def norm(x, name):
        square = g.node("Pow", [x, g.constant("two", 2.0)], f"{name}.square")
        mean = g.node("ReduceMean", [square, g.ints(-1)], f"{name}.mean", keepdims=1)
        root = g.node("Sqrt", [g.node("Add", [mean, g.constant("epsilon", 1e-5)], f"{name}.sum")], f"{name}.root")
        y = g.node("Div", [x, root], f"{name}.div")
        return g.node("Mul", [y, g.constant(f"{name}.weight", np.ones(width))], name)

    def rotary(x, name):
        lo = g.node("Slice", [x, g.ints(0), g.ints(head // 2), g.ints(3)], f"{name}.lo")
        hi = g.node("Slice", [x, g.ints(head // 2), g.ints(head), g.ints(3)], f"{name}.hi")
        rotated = g.node("Concat", [g.node("Neg", [hi], f"{name}.neg"), lo], f"{name}.rotated", axis=-1)
        left, right = g.node("Mul", [x, cos], f"{name}.cos"), g.node("Mul", [rotated, sin], f"{name}.sin")
        return g.node("Add", [left, right], name)

    table = g.weights("embedding", [vocab, width], width ** -0.5)
    x = g.node("Gather", [table, "input_ids"], "embedded")
    for layer in range(args.layers):
        name = f"layers.{layer}"
        h = norm(x, f"{name}.norm1")

        def of_heads(n, what):
            y = linear(h, width, n * head, f"{name}.{what}")
            y = g.node("Reshape", [y, g.ints(0, 0, n, head)], f"{name}.{what}4")
            return g.node("Transpose", [y], f"{name}.{what}h", perm=[0, 2, 1, 3])

        q, k, v = rotary(of_heads(heads, "q"), f"{name}.qr"), rotary(of_heads(kv_heads, "k"), f"{name}.kr"), of_heads(kv_heads, "v")
        both = []
        for new, what in ((k, "key"), (v, "value")):
            dims = ["batch", kv_heads, "past", head]
            old = g.value(11, f"past_key_values.{layer}.{what}", g.type, dims)
            all_ = g.node("Concat", [old, new], f"present.{layer}.{what}", axis=2)
            g.value(12, all_, g.type, ["batch", kv_heads, "total", head])
            wide = g.node("Unsqueeze", [all_, g.ints(2)], f"{all_}.5")
            wide = g.node("Expand", [wide, g.ints(1, 1, heads // kv_heads, 1, 1)], f"{all_}.all")
            both.append(g.node("Reshape", [wide, g.ints(0, heads, -1, head)], f"{all_}.4"))
        scores = g.node("MatMul", [q, g.node("Transpose", [both[0]], f"{name}.kt", perm=[0, 1, 3, 2])], f"{name}.qk")
        scores = g.node("Mul", [scores, g.constant("scale", head ** -0.5)], f"{name}.scaled")
        weights = g.node("Softmax", [g.node("Add", [scores, mask], f"{name}.masked")], f"{name}.softmax", axis=-1)
        o = g.node("Transpose", [g.node("MatMul", [weights, both[1]], f"{name}.pv")], f"{name}.ot", perm=[0, 2, 1, 3])
        o = g.node("Reshape", [o, g.ints(0, 0, heads * head)], f"{name}.or")
        x = g.node("Add", [x, linear(o, heads * head, width, f"{name}.o")], f"{name}.attended")
        h = norm(x, f"{name}.norm2")
        gate, up = linear(h, width, mlp, f"{name}.gate"), linear(h, width, mlp, f"{name}.up")
        active = g.node("Mul", [gate, g.node("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.silu")
        both = g.node("Mul", [active, up], f"{name}.gated")
        x = g.node("Add", [x, linear(both, mlp, width, f"{name}.down")], f"{name}.out")
    x = norm(x, "norm")
    g.node("MatMul", [x, g.node("Transpose", [table], "head.weight", perm=[1, 0])], "logits")
    g.value(12, "logits", g.type, ["batch", "seq", vocab])
    g.save(args.out, 18)


def encoder(args):
    g = Graph(args.f16)
    width, heads, tokens = 768, 12, 128

    def linear(x, n_in, n_out, name):
        y = g.node("MatMul", [x, g.weights(f"{name}.weight", [n_in, n_out], n_in ** -0.5)], name)
        return g.node("Add", [y, g.weights(f"{name}.bias", [n_out], 0.01)], f"{name}.biased")

    def norm(x, name):
        parts = [g.constant("ones", np.ones(width)), g.constant("zeros", np.zeros(width))]
        return g.node("LayerNormalization", [x] + parts, name, axis=-1, epsilon=1e-5)

    x = g.value(11, "x", g.type, [1, tokens, width])
    for layer in range(args.layers):
        name = f"layers.{layer}"
        of = {}
        for what, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            y = linear(x, width, width, f"{name}.{what}")
            y = g.node("Reshape", [y, g.ints(1, tokens, heads, width // heads)], f"{name}.{what}4")
            of[what] = g.node("Transpose", [y], f"{name}.{what}h", perm=perm)
        scores = g.node("MatMul", [of["q"], of["k"]], f"{name}.qk")
        scores = g.node("Mul", [scores, g.constant("scale", (width // heads) ** -0.5)], f"{name}.scaled")
        weights = g.node("Softmax", [scores], f"{name}.softmax", axis=-1)
        o = g.node("Transpose", [g.node("MatMul", [weights, of["v"]], f"{name}.pv")], f"{name}.ot", perm=[0, 2, 1, 3])
        o = g.node("Reshape", [o, g.ints(1, tokens, width)], f"{name}.or")
        x = norm(g.node("Add", [x, linear(o, width, width, f"{name}.o")], f"{name}.attended"), f"{name}.norm1")
        f = linear(x, width, 4 * width, f"{name}.up")
        erf = g.node("Erf", [g.node("Mul", [f, g.constant("root", 0.5 ** 0.5)], f"{name}.rooted")], f"{name}.erf")
        f = g.node("Mul", [f, g.node("Add", [erf, g.constant("one", 1.0)], f"{name}.erf1")], f"{name}.twice")
        f = g.node("Mul", [f, g.constant("half", 0.5)], f"{name}.gelu")
        x = norm(g.node("Add", [x, linear(f, 4 * width, width, f"{name}.down")], f"{name}.both"), f"{name}.norm2")
    g.node("Identity", [x], "y")
    g.value(12, "y", g.type, [1, tokens, width])
    g.save(args.out, 20)


class Network:
    """A convolutional network of images [batch,3,224,224]."""

    def __init__(self, args):
        self.g, self.args, self.count = Graph(args.f16), args, 0
        self.g.value(11, "x", self.g.type, [args.batch, 3, 224, 224])

    def node(self, op, inputs, **attributes):
        self.count += 1
        return self.g.node(op, inputs, f"{op.lower()}{self.count}", **attributes)

    def conv(self, x, n_in, n_out, size, stride=1, groups=1, activation="Relu"):
        name, inner = f"layers.{self.count}", n_in // groups * size * size
        w = self.g.weights(f"{name}.weight", [n_out, n_in // groups, size, size], ((2 if activation else 0.5) / inner) ** 0.5)
        b = self.g.weights(f"{name}.bias", [n_out], 0.01)
        y = self.node("Conv", [x, w, b], kernel_shape=(size,) * 2, strides=(stride,) * 2, pads=(size // 2,) * 4, group=groups)
        if activation == "Relu6":
            return self.node("Clip", [y, self.g.constant("zero", 0.0), self.g.constant("six", 6.0)])
        return self.node(activation, [y]) if activation else y

    def classes(self, x, width):
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)
        w, b = self.g.weights("head.weight", [1000, width], width ** -0.5), self.g.weights("head.bias", [1000], 0.01)
        self.g.node("Gemm", [x, w, b], "y", transB=1)
        self.g.value(12, "y", self.g.type, [self.args.batch, 1000])
        self.g.save(self.args.out, 20)


def resnet50(args):
    n = Network(args)
    x = n.conv("x", 3, 64, 7, 2)
    x, wide = n.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for narrow, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = 1 if block else first
            y = n.conv(n.conv(x, wide, narrow, 1), narrow, narrow, 3, stride)
            y = n.conv(y, narrow, narrow * 4, 1, activation=None)
            x = x if block else n.conv(x, wide, narrow * 4, 1, stride, activation=None)
            x, wide = n.node("Relu", [n.node("Add", [x, y])]), narrow * 4
    n.classes(x, wide)


def mobilenet_v2(args):
    n = Network(args)
    x, width = n.conv("x", 3, 32, 3, 2, activation="Relu6"), 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, n_out, blocks, first in stages:
        for block in range(blocks):
            stride, inner = 1 if block else first, width * expansion
            y = x if expansion == 1 else n.conv(x, width, inner, 1, activation="Relu6")
            y = n.conv(n.conv(y, inner, inner, 3, stride, inner, "Relu6"), inner, n_out, 1, activation=None)
            x = n.node("Add", [x, y]) if stride == 1 and width == n_out else y
            width = n_out
    n.classes(n.conv(x, width, 1280, 1, activation="Relu6"), 1280)


def attention(args):
    g = Graph(True)
    batch, heads, kv_heads, queries, keys, head = map(int, args.attention.split(","))
    x = g.value(11, "q", FLOAT16, [batch, queries, heads * head])
    for name in "kv":
        g.value(11, name, FLOAT16, [batch, keys, kv_heads * head])
    for i in range(args.chain):
        of = {"q_num_heads": heads, "kv_num_heads": kv_heads, "is_causal": int(args.causal)}
        last = i + 1 == args.chain
        x = g.node("Attention", [x, "k", "v"], "y" if last else f"a{i}", **of)
    g.value(12, "y", FLOAT16, [batch, queries, heads * head])
    g.save(args.out, 23)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    for name, value in (("layers", None), ("width", 576), ("mlp", 1536), ("vocab", 49152), ("chain", 8), ("batch", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--heads", default="9,3,64")
    parser.add_argument("--attention")
    networks = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2}
    parser.add_argument("--network", choices=networks)
    parser.add_argument("--encoder", action="store_true")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--f16", action="store_true")
    args = parser.parse_args()
    args.layers = args.layers or (12 if args.encoder else 30)
    kind = networks.get(args.network) or (attention if args.attention else encoder if args.encoder else decoder)
    kind(args)
