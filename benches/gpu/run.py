#!/usr/bin/env python3
"""Models, products and attentions on the GPU here, beside PyTorch in the same call: one table, and one JSON file.

  run.py NYXC OUT [--models resnet50,mobilenet_v2,encoder] [--formats f32,f16,w8a16,w4a16,w8a8:c] [--matmul M,N,K ...]
                  [--attention B,HEADS,KV_HEADS,QUERIES,KEYS,HEAD[,CAUSAL] ...] [--tuning FILE] [--runs 60]
                  [--check] [--commit NAME] [--device auto|vulkan|INDEX]

It first asks for the device, and ends with 2 where there is none. Models of random weights are written and compiled
for it (`--policy uniform:FORMAT --budget max`), as many at a time as there are processors, before anything is timed.
OUT/table.txt has ours, PyTorch's and their ratio (below 1 is faster), with the date, the device, the driver and the
commit; OUT/table.json has all figures with their spread. --check compares each program with the CPU reference (relative
L2). Without PyTorch there are no ratios, and it says so. Needs NumPy.
"""
import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PRODUCTS = ["1,4096,4096", "16,4096,4096", "64,4096,4096", "512,4096,4096", "4096,4096,4096"]
ATTENTIONS = ["1,12,12,128,128,64", "1,32,32,2048,2048,128,1", "1,32,32,1,4096,128"]
LINKS = 8


class Bench:
    def __init__(self, args):
        self.args, self.work = args, pathlib.Path(args.out) / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.rows = []

    def nyxc(self, *words, check=True):
        return subprocess.run([self.args.nyxc, *map(str, words)], capture_output=True, text=True, check=check)

    def json_of(self, *words):
        """The document that a command prints, or its error."""
        done = self.nyxc(*words, "--json", check=False)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return {"error": {"message": done.stderr.strip()[-300:] or f"exit code {done.returncode}"}}

    def device(self):
        found = self.json_of("devices").get("devices", [])
        wanted = self.args.device
        if wanted.isdigit():
            found = [d for d in found if d["index"] == int(wanted)]
        elif wanted == "auto":
            found = [d for d in found if d["kind"] != "cpu"]
        if not found:
            sys.exit(f"run.py: no device for --device {wanted}: {self.nyxc('devices', check=False).stdout.strip()}")
        self.args.device = str(found[0]["index"])
        (self.work / "target.json").write_text(json.dumps(found[0]["target"]), encoding="utf-8")
        return found[0]

    def write(self, name):
        """The path of the model of this name, written where it is not there."""
        path = self.work / f"{name.replace(' ', '_').replace(',', '_')}.onnx"
        kind, _, sizes = name.partition(" ")
        if kind == "attention":
            sizes = sizes.split(",")
            options = ["--attention", ",".join(sizes[:6]), "--chain", str(LINKS)]
            options += ["--causal"] if sizes[6:] == ["1"] else []
        else:
            options = ["--encoder"] if name == "encoder" else ["--network", name]
        if not path.exists():
            subprocess.run([sys.executable, str(HERE / "models.py"), str(path), *options], check=True)
        return path

    def compile(self, name, form):
        """The program, or the error of its compilation."""
        model = self.work / f"{name.replace(' ', '_').replace(',', '_')}.onnx"
        program = model.with_suffix(f".{form.replace(':', '_')}.nyx")
        tuning = ["--tuning", self.args.tuning] if self.args.tuning else []
        compiled = self.json_of("compile", model, "-o", program, "--policy", f"uniform:{form}", "--budget", "max",
                                "--target", self.work / "target.json", *tuning)
        return program, compiled.get("error")

    def programs(self, subjects):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self.write, dict(subjects)))
            return list(pool.map(lambda subject: self.compile(*subject), subjects))

    def relative_error(self, program):
        """Relative L2 of all outputs to the CPU reference of the same program."""
        import numpy
        outputs = []
        for device in (self.args.device, "cpu"):
            path = program.with_suffix(f".{device}.npz")
            self.nyxc("run", program, "--random", "--seed", 3, "--device", device, "--outputs", path)
            outputs.append(numpy.load(path))
        ours, theirs = ([o[k].astype("f8").ravel() for k in outputs[1].files] for o in outputs)
        ours, theirs = numpy.concatenate(ours), numpy.concatenate(theirs)
        return float(numpy.linalg.norm(ours - theirs) / max(numpy.linalg.norm(theirs), 1e-300))

    def time_programs(self, subjects):
        for (name, form), (program, error) in zip(subjects, self.programs(subjects)):
            row = {"subject": name, "format": form}
            self.rows.append(row)
            result = {"error": error} if error else self.json_of(
                "bench", program, "--device", self.args.device, "--runs", self.args.runs, "--warmup", self.args.runs)
            if result.get("error"):
                row["error"] = result["error"]["message"]
                continue
            links = LINKS if name.startswith("attention") else 1
            of = lambda what, part: result[what][part] * 1000 / links if result[what] else None
            row |= {f"{what}_us": of(f"{what}_ms", "median") for what in ("device", "wall")}
            row |= {f"{what}_spread_us": [of(f"{what}_ms", "min"), of(f"{what}_ms", "max")] for what in ("device", "wall")}
            if self.args.check:
                row["relative_l2"] = self.relative_error(program)

    def time_products(self, form):
        for sizes in self.args.matmul:
            row = {"subject": f"matmul {sizes}", "format": form}
            self.rows.append(row)
            tuning = ["--tuning", self.args.tuning] if self.args.tuning else []
            result = self.json_of("bench", "--kernel", "matmul", "--format", form, "--shape", sizes, "--device", self.args.device,
                                  *tuning)
            if result.get("error"):
                row["error"] = result["error"]["message"]
                continue
            chosen = result["variants"][0]
            if not chosen["right"]:
                row["error"] = f"WRONG: relative error {chosen['relative_error']}"
                continue
            row |= {"device_us": chosen["us"]["median"], "device_spread_us": [chosen["us"]["min"], chosen["us"]["max"]],
                    "relative_error": chosen["relative_error"]}

    def peers(self):
        """PyTorch's times by subject and format, and what it says of itself."""
        words = [sys.executable, str(HERE / "peers.py"), "--models", ",".join(self.args.models)]
        for name in ("matmul", "attention"):
            words += [word for sizes in getattr(self.args, name) for word in (f"--{name}", sizes)]
        done = subprocess.run(words, capture_output=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode and not lines:
            print(f"PyTorch was not measured: {(done.stderr.strip().splitlines() or ['no word of it'])[-1]}", file=sys.stderr)
        return lines[0] if lines else None, {(r["subject"], r["format"]): r for r in lines[1:]}

    def table(self, peers):
        """Lines of ours, PyTorch's of the same format (f16's where it has no such format), and the ratio."""
        number = lambda us: "" if us is None else f"{us:10.2f}"
        yield f"{'':34} {'format':8} {'device':>10} {'wall':>10} {'PyTorch':>10}  {'ratio':>6}   us"
        for row in self.rows:
            peer = peers.get((row["subject"], row["format"])) or peers.get((row["subject"], "f16"))
            row["peer"] = peer
            device, theirs = row.get("device_us"), (peer or {}).get("us")
            ratio = f"{device / theirs:6.2f}" if device and theirs else ""
            against = "" if not ratio or peer["format"] == row["format"] else f" of {peer['format']}"
            note = row["error"].partition("\n")[0] if "error" in row else f"L2 {row['relative_l2']:.1e}" if "relative_l2" in row else ""
            columns = [number(device), number(row.get("wall_us")), number(theirs)]
            yield f"{row['subject']:34} {row['format']:8} " + " ".join(f"{c:>10}" for c in columns) + f"  {ratio:>6}{against}  {note}"


def words_of(text):
    return [word for word in text.split(",") if word]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nyxc")
    parser.add_argument("out")
    parser.add_argument("--models", type=words_of, default=words_of("resnet50,mobilenet_v2,encoder"))
    parser.add_argument("--formats", type=words_of, default=words_of("f32,f16,w8a16,w4a16,w8a8:c"))
    parser.add_argument("--matmul", action="append")
    parser.add_argument("--attention", action="append")
    parser.add_argument("--tuning")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--commit")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    args.matmul = PRODUCTS if args.matmul is None else [s for s in args.matmul if s]
    args.attention = ATTENTIONS if args.attention is None else [s for s in args.attention if s]
    bench = Bench(args)
    device = bench.device()
    commit = args.commit or subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    head = {"date": datetime.date.today().isoformat(), "device": device["name"], "driver": device["driver"], "commit": commit or "unknown"}
    bench.time_programs([(m, f) for m in args.models for f in args.formats] + [(f"attention {s}", "f16") for s in args.attention])
    for form in args.formats:
        if args.matmul:
            bench.time_products(form)
    torch, peers = bench.peers()
    lines = [f"{head['device']}, {head['driver']}, {head['date']}, commit {head['commit']}"
             + (f"; PyTorch {torch['torch']}, CUDA {torch['cuda']}" if torch else "; no PyTorch here"), "", *bench.table(peers)]
    out = pathlib.Path(args.out)
    (out / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "table.json").write_text(json.dumps({**head, "peer": torch, "rows": bench.rows}, indent=1), encoding="utf-8")
    print("\n".join(lines))
    return 1 if any("error" in row for row in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
