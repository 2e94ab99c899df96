#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets: fuzz_seeds.py NYXC FOLDER (see docs/fuzzing.md). Needs nothing but Python and the built nyxc.

onnx    each case of tests/data/op_cases.json as a model of one node, with its operands as inputs and again as initializers, and the small models
nyxir   the same as text at each level, some with their constants behind a line `---`
nyx     programs of some of them
npz     the inputs and outputs of the models, stored and deflated
target  the shipped profiles
"""
import base64, json, os, shutil, struct, subprocess, sys, zipfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
NUMBERS = {"f32": 1, "u8": 2, "i8": 3, "u16": 4, "i16": 5, "i32": 6, "i64": 7, "bool": 9, "f16": 10, "f64": 11, "u32": 12, "u64": 13, "bf16": 16,
           "u4": 21, "i4": 22}


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while True:
        out.append(n & 127 | (128 if n > 127 else 0))
        n >>= 7
        if not n:
            return bytes(out)


def number(field, n):
    return varint(field << 3) + varint(n)


def blob(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name, value):
    dtype, dims, data = value
    return b"".join(number(1, d) for d in dims) + number(2, NUMBERS[dtype]) + blob(8, name) + blob(9, base64.b64decode(data))


def info(name, value):
    dtype, dims, _ = value
    shape = b"".join(blob(1, number(1, d)) for d in dims)
    return blob(1, name) + blob(2, blob(1, number(1, NUMBERS[dtype]) + blob(2, shape)))


def attribute(name, value):
    (kind, value), = value.items()
    head = blob(1, name)
    if kind == "i":
        return head + number(3, value) + number(20, 2)
    if kind == "is":
        return head + b"".join(number(8, v) for v in value) + number(20, 7)
    if kind == "f":
        return head + varint(2 << 3 | 5) + struct.pack("<f", value) + number(20, 1)
    if kind == "fs":
        return head + b"".join(varint(7 << 3 | 5) + struct.pack("<f", v) for v in value) + number(20, 6)
    if kind == "s":
        return head + blob(4, value) + number(20, 3)
    if kind == "t":
        return head + blob(5, tensor("", value)) + number(20, 4)
    return head + number(3, NUMBERS[value]) + number(20, 2)


def model(case, folded):
    op = case["op"]
    domain, op = op.split("::") if "::" in op else ("", op)
    node, graph = b"", b""
    for i, value in enumerate(case["inputs"]):
        node += blob(1, f"i{i}" if value else "")
        if value:
            # Operands that say a shape must be constants either way.
            constant = folded or (i > 0 and value[0] == "i64")
            graph += blob(5, tensor(f"i{i}", value)) if constant else blob(11, info(f"i{i}", value))
    for i, _ in enumerate(case["outputs"]):
        node += blob(2, f"o{i}")
        graph += blob(12, blob(1, f"o{i}"))
    node += blob(4, op) + b"".join(blob(5, attribute(k, v)) for k, v in case["attrs"].items()) + (blob(7, domain) if domain else b"")
    sets = blob(8, number(2, 21)) + (blob(8, blob(1, domain) + number(2, 1)) if domain else b"")
    return number(1, 9) + sets + blob(7, blob(1, node) + graph)


def main():
    nyxc, folder = sys.argv[1:]
    for name in ["onnx", "nyxir", "nyx", "npz", "target"]:
        os.makedirs(os.path.join(folder, name), exist_ok=True)

    def put(target, name, data):
        with open(os.path.join(folder, target, name), "wb") as file:
            file.write(data)

    def output(*args):
        done = subprocess.run([nyxc, *args], capture_output=True)
        return done.stdout if done.returncode == 0 else None

    cases = json.load(open(os.path.join(ROOT, "tests/data/op_cases.json")))
    for i, case in enumerate(cases):
        for folded in [False, True]:
            name = f"{case['op'].replace(':', '_')}-{i}-{'folded' if folded else 'fed'}"
            put("onnx", name, model(case, folded))
            path = os.path.join(folder, "seed.onnx")
            with open(path, "wb") as file:
                file.write(model(case, folded))
            if folded:
                continue
            passes = ["remove_dead_code"] + (["decompose", "decompose,lower_quantized,fuse"] if i % 3 == 0 else [])
            for p, names in enumerate(passes):
                text = output("pass", names, path)
                if text:
                    put("nyxir", f"{name}-{p}", text)
            if i % 8 == 0 and output("compile", path, "--target", "lavapipe", "-o", os.path.join(folder, "nyx", name)) is None:
                print(f"no program of {name}", file=sys.stderr)
    os.remove(os.path.join(folder, "seed.onnx"))
    # A text with a constant that is stored: safetensors, whose names are the hashes that the text prints.
    header = json.dumps({"0123456789abcdef": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}).encode()
    text = b"graph g onnx\n  %c = const #0123456789abcdef : f32[16] 64B\n  %y = relu(%c) : f32[16] 64B\n  output %y\n"
    put("nyxir", "consts", text + b"\n---\n" + struct.pack("<Q", len(header)) + header + bytes(64))
    for file in sorted(os.listdir(os.path.join(ROOT, "models"))):
        path = os.path.join(ROOT, "models", file)
        if file.endswith(".npz"):
            data = open(path, "rb").read()
            if len(data) < 8192:
                put("npz", file, data)
            with zipfile.ZipFile(path) as source, zipfile.ZipFile(os.path.join(folder, "npz", "deflated-" + file), "w", zipfile.ZIP_DEFLATED) as out:
                for name in source.namelist():
                    out.writestr(name, source.read(name))
    profiles = os.path.join(ROOT, "src/target")
    for file in sorted(os.listdir(profiles)):
        if file.endswith(".json"):
            shutil.copy(os.path.join(profiles, file), os.path.join(folder, "target", file))


main()
