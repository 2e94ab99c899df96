#!/usr/bin/env python3
"""One program for every size: ranged programs against onnxruntime, and against programs of one size.

  benches/ranges.py NYXC MODELS [SHARED] [NAME]...      NYXC the binary, MODELS the folder of `fetch_models.sh`, SHARED that of the shared models

For each model one program is compiled with ranges, and run at three sizes. A row holds: the relative L2 to onnxruntime's outputs (f32, <= 1e-4), that
to the program compiled for that size alone (<= 1e-6), whether its bits are those of the program of the range N..N, and planned against measured bytes.
Then SmolLM2 with its cache generates 32 tokens, greedily, under one program that lives as long: they must be onnxruntime's.
Needs numpy, onnxruntime and pillow.
"""
import json, os, subprocess, sys, tempfile
import numpy as np, onnxruntime as ort

nyxc, models = sys.argv[1], sys.argv[2]
shared = sys.argv[3] if len(sys.argv) > 3 else ""
wanted = sys.argv[4:]
failed = 0
rng = np.random.default_rng(7)


def ids(*shape): return rng.integers(0, 20000, shape).astype(np.int64)
def floats(*shape): return rng.standard_normal(shape).astype(np.float32)


def minilm(at):
    n = at["seq"]
    mask = np.ones((1, n), np.int64); mask[:, n - n // 4:] = 0
    return {"input_ids": ids(1, n), "attention_mask": mask, "token_type_ids": np.zeros((1, n), np.int64)}


def smollm2(at):
    n = at["seq"]
    return {"input_ids": ids(1, n), "attention_mask": np.ones((1, n), np.int64)}


def smollm2_kv(at):
    """The cache is what onnxruntime makes of as many tokens: where it is noise, half a unit in its last place
    moves onnxruntime's own logits by 4e-5."""
    def feed(n, cache):
        past = cache["past_key_values.0.key"].shape[2]
        return {"input_ids": ids(1, n), "attention_mask": np.ones((1, past + n), np.int64), "position_ids": np.arange(past, past + n)[None], **cache}
    cache = {f"past_key_values.{layer}.{part}": np.zeros((1, 3, 0, 64), np.float32) for layer in range(30) for part in ("key", "value")}
    if at["past_len"] > 0:
        session = ort.InferenceSession(f"{models}/smollm2/model_kv.onnx", providers=["CPUExecutionProvider"])
        found = session.run(None, feed(at["past_len"], cache))
        made = {o.name: value for o, value in zip(session.get_outputs(), found)}
        cache = {name: made[name.replace("past_key_values", "present")] for name in cache}
    return feed(at["seq"], cache)


def page(at):
    # On noise the outputs of this model are 1e-6 and less, and onnxruntime differs from itself by 14 %.
    from PIL import Image
    image = Image.open(f"{shared}/data/ocr-dev/page_6.jpg").convert("RGB").resize((32 * at["w"], 32 * at["h"]))
    return {"x": ((np.asarray(image, np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].copy()}


PP = "p2o.DynamicDimension."
# name: file, fixed and derived dimensions, ranges, sizes, inputs
CASES = {
    "minilm": ("{m}/minilm/model.onnx", ["batch=1"], {"seq": (1, 256)}, [{"seq": 5}, {"seq": 77}, {"seq": 256}], minilm),
    "ppocr-rec": ("{s}/models/ppocr-v4/ch_PP-OCRv4_rec_infer.onnx", [PP + "0=1", "x.2=48"], {PP + "1": (32, 640)},
                  [{PP + "1": 37}, {PP + "1": 320}, {PP + "1": 640}], lambda at: {"x": floats(1, 3, 48, at[PP + "1"])}),
    "ppocr-det": ("{s}/models/ppocr-v4/ch_PP-OCRv4_det_infer.onnx", [PP + "0=1", PP + "1=32*h", PP + "2=32*w"], {"h": (1, 20), "w": (1, 20)},
                  [{"h": 8, "w": 10}, {"h": 20, "w": 14}, {"h": 11, "w": 20}], page),
    "silero-sequence": ("{s}/models/silero/silero_vad_16k_sequence.onnx", [], {"sequence_length": (1, 64)},
                        [{"sequence_length": 1}, {"sequence_length": 13}, {"sequence_length": 64}],
                        lambda at: {"input": floats(at["sequence_length"], 576), "h": floats(1, 1, 128), "c": floats(1, 1, 128)}),
    "silero-op15": ("{s}/models/silero/silero_vad_16k_op15.onnx", ["sequence=576"], {"batch": (1, 8)}, [{"batch": 1}, {"batch": 3}, {"batch": 8}],
                    lambda at: {"input": floats(at["batch"], 576), "state": floats(2, at["batch"], 128), "sr": np.array(16000)}),
    "smollm2": ("{m}/smollm2/model.onnx", ["batch=1"], {"seq": (1, 64)}, [{"seq": 3}, {"seq": 31}, {"seq": 64}], smollm2),
    "smollm2-kv": ("{m}/smollm2/model_kv.onnx", ["batch=1", "total_len=past_len+seq"], {"seq": (1, 32), "past_len": (0, 128)},
                   [{"seq": 9, "past_len": 0}, {"seq": 1, "past_len": 37}, {"seq": 32, "past_len": 128}], smollm2_kv),
}


def call(*args):
    done = subprocess.run([nyxc, *args, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout.strip())
    return json.loads(done.stdout)


def compile_(model, dims, out):
    return call("compile", model, *[a for d in dims for a in ("--dim", d)], "--policy", "uniform:f32", "-o", out)


def run(program, feed, folder):
    np.savez(f"{folder}/in.npz", **feed)
    report = call("run", program, "--device", "vulkan,cpu", "--inputs", f"{folder}/in.npz", "--outputs", f"{folder}/out.npz")
    return report, dict(np.load(f"{folder}/out.npz"))


def distance(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def row(name, what, ok):
    global failed
    failed += not ok
    print(f"{'ok    ' if ok else 'FAILED'} {name}: {what}", flush=True)


def check(name):
    path, fixed, ranges, sizes, feed_of = CASES[name]
    path = path.format(m=models, s=shared)
    if not os.path.exists(path):
        return print(f"SKIPPED {name}: no {path}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = compile_(path, fixed + [f"{n}={lo}..{hi}" for n, (lo, hi) in ranges.items()], f"{folder}/all.nyx")
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        for at in sizes:
            feed = feed_of(at)
            # Sizes that only stand in expressions are the model's under another name.
            names = [i.name for i in session.get_inputs()]
            expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, {k: v for k, v in feed.items() if k in names})))
            ran, ours = run(f"{folder}/all.nyx", feed, folder)
            far = max(distance(ours[k], expected[k]) for k in expected)
            compile_(path, fixed + [f"{n}={v}..{v}" for n, v in at.items()], f"{folder}/one.nyx")
            same = all(np.array_equal(ours[k], v) for k, v in run(f"{folder}/one.nyx", feed, folder)[1].items())
            alone = [f"{d.split('=')[0]}={eval(d.split('=')[1], {}, dict(at))}" for d in fixed]
            alone += [f"{n}={v}" for n, v in at.items() if not any(n in d.split("=")[1] for d in fixed) or n in ("seq", "past_len")]
            compile_(path, alone, f"{folder}/fixed.nyx")
            near = max(distance(ours[k], v) for k, v in run(f"{folder}/fixed.nyx", feed, folder)[1].items())
            bytes_ = ran["planned_peak_bytes"], ran["measured_peak_bytes"]
            ok = far <= 1e-4 and same and near <= 1e-6 and bytes_[0] == bytes_[1]
            what = ", ".join(f"{n} = {v}" for n, v in at.items())
            row(name, f"{what}: onnxruntime {far:.1e}, alone {near:.1e}, N..N {'same bits' if same else 'DIFFERS'}, "
                      f"planned {bytes_[0]}, measured {bytes_[1]}, host nodes {len(ran['host_nodes'])}, {ran['device']}", ok)


def generate(n_tokens=32):
    path = f"{models}/smollm2/model_kv.onnx"
    if not os.path.exists(path):
        return print(f"SKIPPED generation: no {path}", flush=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [o.name for o in session.get_outputs()]
    with tempfile.TemporaryDirectory() as folder:
        compile_(path, ["batch=1", "total_len=past_len+seq", "seq=1..32", "past_len=0..128"], f"{folder}/kv.nyx")

        def decode(step):
            tokens, past, made = [504, 3575, 282, 4649, 314], {f"past_key_values.{i}.{p}": np.zeros((1, 3, 0, 64), np.float32) for i in range(30) for p in ("key", "value")}, []
            for _ in range(n_tokens):
                n_past = next(iter(past.values())).shape[2]
                feed = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, n_past + len(tokens)), np.int64),
                        "position_ids": np.arange(n_past, n_past + len(tokens))[None], **past}
                found = step(feed)
                past = {f"past_key_values.{k.split('.', 1)[1]}": v for k, v in found.items() if k.startswith("present.")}
                tokens = [int(found["logits"][0, -1].argmax())]
                made += tokens
            return made

        expected = decode(lambda feed: dict(zip(outputs, session.run(None, feed))))
        found = decode(lambda feed: run(f"{folder}/kv.nyx", feed, folder)[1])
        row("smollm2-kv", f"{n_tokens} tokens, past 0 to {4 + n_tokens}, one program: {'equal' if found == expected else f'{found} instead of {expected}'}", found == expected)


for name in CASES:
    if not wanted or name in wanted:
        try:
            check(name)
        except Exception as error:
            row(name, str(error).splitlines()[0] if str(error) else repr(error), False)
if not wanted or "generation" in wanted:
    generate()
sys.exit(failed > 0)
