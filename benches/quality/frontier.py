#!/usr/bin/env python3
"""Divergence from f32 at equal bytes of weights: blocks that the solver chooses, calibration and measured sensitivity, each against what it adds to.

  benches/quality/frontier.py NYXC MODELS SHARED NAME [VARIANT]... [--at MB,MB] [--tokens N]

NYXC is the binary, MODELS the folder of `fetch_models.sh`, SHARED that of the shared models. NAME: lite0-photos and lite0-imagenet (scored on that set, calibrated
on the other), fmnist (calibrated on training images, scored on test images), minilm, smollm2 (calibrated on wiki_train, scored on wiki_valid). VARIANT, all by default:
  g32        blocks of 32, without data                      blocks     the solver's blocks, without data
  gptq       the solver's blocks, weights by GPTQ            measured   the same, formats by measured sensitivity
Activations are f32. A row: bytes of weights in the ledger, divergence (KL of rows of logits; 1 - cosine for MiniLM), seconds of `nyxc compile`, what it predicts.
The budget is what `--at` says (MB of 1e6 bytes) and what the plan has beside weights. Needs numpy, onnxruntime, pillow and tokenizers.
"""
import argparse, glob, json, subprocess, tempfile, time
from pathlib import Path
import numpy as np, onnxruntime as ort

parser = argparse.ArgumentParser()
for name in ("nyxc", "models", "shared", "name"):
    parser.add_argument(name)
parser.add_argument("variants", nargs="*")
parser.add_argument("--at", default=""); parser.add_argument("--tokens", type=int, default=256)
args = parser.parse_args()
VARIANTS = args.variants or ["g32", "blocks", "gptq", "measured"]
work = Path(tempfile.mkdtemp(prefix="frontier"))


def images(files, crops):
    """Crops of 224 x 224 as the network reads them, `[n, 3, 224, 224]`."""
    from PIL import Image
    size, found = 224, []
    for file in files:
        image = Image.open(file).convert("RGB"); w, h = image.size; r = round(size * 1.143) / min(w, h)
        image = image.resize((max(size, round(w * r)), max(size, round(h * r))), Image.BICUBIC); w, h = image.size
        places = [((w - size) // 2, (h - size) // 2), (0, 0), (w - size, h - size), (w - size, 0)][:crops]
        found += [((np.asarray(image.crop((l, t, l + size, t + size)), np.float32) - 127) / 128).transpose(2, 0, 1) for l, t in places]
    return [{"input": image[None]} for image in found]


def texts(folder, file, n, skip=0):
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(f"{args.models}/{folder}/tokenizer.json")
    ids = tokenizer.encode(open(f"{args.shared}/data/text/{file}", encoding="utf8").read(), add_special_tokens=False).ids
    windows = np.array(ids[skip:][: n * args.tokens], np.int64).reshape(n, 1, args.tokens)
    ones = np.ones((1, args.tokens), np.int64)
    if folder == "minilm":
        windows[:, :, 0], windows[:, :, -1] = 101, 102
    return [{"input_ids": w, "attention_mask": ones, "token_type_ids": 0 * ones} for w in windows]


def clothes(part, n):
    """Images of Fashion-MNIST as its network reads them, in batches of 50."""
    import gzip
    raw = np.frombuffer(gzip.open(f"{args.shared}/data/fashion-mnist/{part}-images-idx3-ubyte.gz").read(), np.uint8, offset=16)
    return [{"input": batch} for batch in (raw[: n * 784].reshape(-1, 50, 1, 28, 28) / np.float32(255)).astype(np.float32)]


imagenet = lambda: images(sorted(glob.glob(f"{args.shared}/data/imagenet20/*.jpg")), 1)
photos = lambda: images(sorted(glob.glob(f"{args.shared}/data/photos/*.*g")), 4)
lite0 = f"{args.shared}/models/efficientnet-lite0/lite0.onnx"
sizes = ["batch=1", f"seq={args.tokens}"]
CASES = {  # model, sizes, samples that calibrate, samples that score, MB, divergence of sensitivity, output
    "lite0-photos": lambda: (lite0, ["batch=1"], imagenet(), photos(), "3.0,3.5,4.0", "kl", None),
    "lite0-imagenet": lambda: (lite0, ["batch=1"], photos(), imagenet(), "3.0,3.5,4.0", "kl", None),
    "fmnist": lambda: (f"{args.shared}/models/fmnist-mlp/mlp.onnx", ["batch=50"], clothes("train", 1200), clothes("t10k", 2000), "0.15,0.2,0.25,0.3", "kl", None),
    "minilm": lambda: (f"{args.models}/minilm/model.onnx", sizes, texts("minilm", "wiki_train.txt", 24), texts("minilm", "wiki_valid.txt", 8), "12.1,14.2,19.1",
                       "error", "sentence_embedding"),
    "smollm2": lambda: (f"{args.models}/smollm2/model.onnx", sizes, texts("smollm2", "wiki_train.txt", 9), texts("smollm2", "wiki_valid.txt", 4), "78,84,90,104",
                        "kl", None),
}
model, dims, fitted, scored, at, divergence, output = CASES[args.name]()
session = ort.InferenceSession(model)
names = [i.name for i in session.get_inputs()]
rename = (lambda s: {names[0]: s["input"]}) if "input" in scored[0] else (lambda s: {k: v for k, v in s.items() if k in names})
fitted, scored = [rename(s) for s in fitted], [rename(s) for s in scored]
output = output or session.get_outputs()[0].name
truth = [session.run([output], s)[0] for s in scored]
for i, sample in enumerate(fitted):
    np.savez(work / f"fit{i:03}.npz", **sample)
(work / "fit.txt").write_text("".join(f"{work}/fit{i:03}.npz\n" for i in range(len(fitted))))

OLD = ["f32", "w16a32", "w8a32", "w4a32"]
ALL = OLD[:2] + [w + b for w in OLD[2:] for b in ("", ":g16", ":g64", ":g128", ":g256", ":c")]
DATA = ["--calibration-data", str(work / "fit.txt")]
FLAGS = {"g32": ["--formats", ",".join(OLD)], "blocks": ["--formats", ",".join(ALL)], "gptq": ["--formats", ",".join(ALL), *DATA],
         "measured": ["--formats", ",".join(ALL), *DATA, "--sensitivity-samples", "1" if args.name == "smollm2" else "4", "--divergence", divergence]}


def compile_at(variant, budget, program):
    command = [args.nyxc, "compile", model, "--budget", str(int(budget)), "--target", "lavapipe", "--report", str(work / "report.json"), "-q", *FLAGS[variant]]
    command += [word for dim in dims for word in ("--dim", dim)] + (["-o", str(program)] if program else ["--dry-run"])
    start = time.time()
    subprocess.run(command, check=True)
    return json.loads((work / "report.json").read_text()), time.time() - start


def apart(y, z):
    y, z = y.astype(np.float64), z.astype(np.float64)
    if output == "sentence_embedding":
        return 1 - (y * z).sum(-1) / np.linalg.norm(y, axis=-1) / np.linalg.norm(z, axis=-1)
    log = lambda v: v - v.max(-1, keepdims=True) - np.log(np.exp(v - v.max(-1, keepdims=True)).sum(-1, keepdims=True))
    p, q = log(y), log(z)
    return (np.exp(p) * (p - q)).sum(-1)


def score(program):
    found = []
    for sample, y in zip(scored, truth):
        np.savez(work / "in.npz", **sample)
        subprocess.run([args.nyxc, "run", program, "--inputs", work / "in.npz", "--outputs", work / "out.npz", "--device", "cpu", "-q"], check=True)
        found.append(apart(y, np.load(work / "out.npz")[output]).ravel())
    found = np.concatenate(found)
    return found.mean(), found.std() / np.sqrt(len(found))


print(f"{args.name}: {len(fitted)} samples fit, {len(scored)} score" + (f", {args.tokens} tokens each" if "input_ids" in names else ""))
print(f"{'variant':9} {'asked MB':>8} {'weights':>10} {'divergence':>10} {'+-':>8} {'seconds':>7} {'predicted':>9}  formats", flush=True)
for target in map(float, (args.at or at).split(",")):
    budget = None
    for variant in VARIANTS:
        if budget is None:  # What is no weights does not depend on formats: activations are f32.
            report, _ = compile_at("g32", 1e9, None)
            rest = report["planned_peak_bytes"] - report["ledger"]["weights"]
            budget = rest + target * 1e6
        report, seconds = compile_at(variant, budget, work / "p.nyx")
        mean, error = score(work / "p.nyx")
        counts = {}
        for node in report["nodes"]:
            if node["weight_bytes"]:
                counts[node["format"]] = counts.get(node["format"], 0) + 1
        formats = " ".join(f"{k}x{v}" for k, v in sorted(counts.items(), key=lambda kv: -kv[1])[:6])
        predicted = report["certificate"]["objective"] ** 0.5
        print(f"{variant:9} {target:8} {report['ledger']['weights']:10} {mean:10.5f} {error:8.5f} {seconds:7.1f} {predicted:9.2e}  {formats}", flush=True)
