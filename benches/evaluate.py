#!/usr/bin/env python3
"""Scores of whole models: evaluation scripts, unchanged, with onnxruntime and with nyxc in its place.

  benches/evaluate.py [--policy POLICY] NYXC MODELS SHARED [NAME]...      NYXC the binary, MODELS the folder of `fetch_models.sh`, SHARED that of the shared models

Each script runs twice: as it is, and with `benches/evaluate/onnxruntime.py` in front of the real module, which compiles the model once, with ranges where
its sizes change, and answers every `run` with `nyxc run`. A row holds where both print the same (but for seconds); it says whether that is the baseline of
SHARED/models/README.md, where that gives one. NYXC_STS is a folder like SHARED/data/sts that has gensim's simlex999.txt too, which MiniLM's script reads.
Needs numpy, onnx, onnxruntime, pillow, scipy and tokenizers.
"""
import argparse, json, os, re, subprocess, sys, tempfile, time
from pathlib import Path

SHIM = Path(__file__).resolve().parent / "evaluate"
OCR, SILERO, PP = "{s}/models/ppocr-v4/", "{s}/models/silero/", "p2o.DynamicDimension."
# name: script and arguments, dimensions (several lists where no program takes all sizes), parts of the baseline's line
CASES = {
    "ppocr-rec": (["ocr_eval.py", "rec", OCR + "ch_PP-OCRv4_rec_infer.onnx", "{s}/data/ocr-dev"], [PP + "0=1", "x.2=48", PP + "1=32..640"], ["spaces 0.9985"]),
    "ppocr-det": (["ocr_eval.py", "det", OCR + "ch_PP-OCRv4_det_infer.onnx", "{s}/data/ocr-dev"],
                  [PP + "0=1", PP + "1=32*h", PP + "2=32*w", "h=1..30", "w=1..30"], ["hmean 0.985"]),
    "ppocr-cls": (["ocr_eval.py", "cls", OCR + "ch_ppocr_mobile_v2.0_cls_infer.onnx", "{s}/data/ocr-dev"], ["x.0=1", "x.2=48", "x.3=192"], ["accuracy 0.9725"]),
    "silero-sequence": (["vad_eval.py", SILERO + "silero_vad_16k_sequence.onnx", "{s}/data/speech"], ["sequence_length=1..4096"], ["AUC 0.991"]),
    "silero-op15": (["vad_eval.py", SILERO + "silero_vad_16k_op15.onnx", "{s}/data/speech"], ["sequence=576", "batch=1..8"], ["AUC 0.991"]),
    "minilm": (["minilm_eval.py", "{m}/minilm/model.onnx", "{m}/minilm", "{sts}", "{s}/data/text/retrieval_dev.tsv"], [["batch=1..16", "seq=1..256"], ["batch=17..64", "seq=1..64"]], []),
    "efficientnet-lite0": (["effnet_eval.py", "{s}/models/efficientnet-lite0/lite0.onnx", "224", "{s}/data/imagenet20/*.jpg"], ["batch=1..4"], ["top1 18/20 top5 19/20"]),
    "ddddocr-det": (["det_eval_ddddocr.py", "{s}/models/ddddocr-det/common_det.onnx", "{s}/data/photos", "/usr/share/fonts/truetype/dejavu"], [], ["precision 0.855 recall 0.946"]),
    "magika": (["magika_eval.py", "{s}/models/magika/model.onnx", "{s}/models/magika/config.min.json", "{s}"], ["bytes.0=1..32"], []),
    "smollm2": (["smollm2_ppl.py", "{m}/smollm2", "{s}/data/text/wiki_valid.txt", "{tokens}"], ["batch=1", "seq=1..512"], []),
}

parser = argparse.ArgumentParser()
parser.add_argument("nyxc"); parser.add_argument("models"); parser.add_argument("shared"); parser.add_argument("names", nargs="*")
parser.add_argument("--policy", default="uniform:f32")
parser.add_argument("--tokens", default="16384", help="tokens that SmolLM2's perplexity reads; its script's own default is 16384")
args = parser.parse_args()
nyxc, shared = os.path.abspath(args.nyxc), Path(args.shared).resolve()
places = {"m": Path(args.models).resolve(), "s": shared, "sts": os.environ.get("NYXC_STS", shared / "data/sts"), "tokens": args.tokens}


def words(parts):
    """The parts with the folders put in, and patterns of files spelled out."""
    for part in parts:
        part = part.format(**places)
        yield from sorted(map(str, Path(part).parent.glob(Path(part).name))) if "*" in part else [part]


def evaluate(command, dims=None):
    """What the script prints, the seconds it took, and one line of each of nyxc's sessions."""
    env, start = dict(os.environ), time.time()
    with tempfile.NamedTemporaryFile("r") as log:
        if dims is not None:
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SHIM), env.get("PYTHONPATH")]))
            env["NYXC_EVALUATE"] = json.dumps({"nyxc": nyxc, "dims": dims, "policy": args.policy, "log": log.name})
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env)
        sessions = log.read().splitlines()
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return done.stdout.replace(f"{shared}/", "").strip().splitlines(), time.time() - start, sessions


def check(name):
    script, dims, baseline = CASES[name]
    dims = dims if dims and isinstance(dims[0], list) else [dims]
    command = [str(shared / "scripts" / script[0]), *words(script[1:])]
    theirs, theirs_s, _ = evaluate(command)
    for line in theirs:
        print(f"       onnxruntime  {line}", flush=True)
    ours, ours_s, sessions = evaluate(command, dims)
    for line in ours:
        print(f"       nyxc         {line}", flush=True)
    untimed = lambda lines: [re.sub(r" \d+s$", "", line) for line in lines]
    equal, has = untimed(ours) == untimed(theirs), lambda lines: all(any(b in line for line in lines) for b in baseline)
    missed = "" if has(ours) else " MISSED" if has(theirs) else " not reached by onnxruntime here either"
    said = f", baseline {' '.join(baseline)}{missed}" if baseline else ""
    print(f"{'ok    ' if equal else 'FAILED'} {name}: {'equal' if equal else 'DIFFERENT'}{said}; {args.policy}, {' or '.join(map(' '.join, dims))}; {'; '.join(sessions)}; "
          f"onnxruntime {theirs_s:.0f} s, nyxc {ours_s:.0f} s", flush=True)
    return equal


failed = 0
for name in args.names or CASES:
    try:
        failed += not check(name)
    except Exception as error:
        failed += 1
        print(f"FAILED {name}: {error}", flush=True)
sys.exit(failed > 0)
