"""The part of onnxruntime that evaluation scripts use, over `nyxc compile` and `nyxc run`; `benches/evaluate.py` puts it in front of the real one.

NYXC_EVALUATE is JSON: the binary, the dimensions of each program, the policy, and a file that takes one line a session when it ends. A model has one
program, unless no program fits all of its sizes into the device's bindings: then a run goes to the first that takes its sizes.
"""
import atexit, collections, json, os, subprocess, tempfile
import numpy as np, onnx

HOW = json.loads(os.environ["NYXC_EVALUATE"])
Port = collections.namedtuple("Port", "name type shape")
Meta = collections.namedtuple("Meta", "custom_metadata_map")


class SessionOptions:
    """Takes any option; none applies to nyxc."""


def call(*args):
    done = subprocess.run([HOW["nyxc"], *args, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nyxc {args[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return json.loads(done.stdout)


def ports(values):
    def shape(t): return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in t.shape.dim]
    kinds = {onnx.TensorProto.FLOAT: "float"}
    return [Port(v.name, f"tensor({kinds.get(t.elem_type, onnx.TensorProto.DataType.Name(t.elem_type).lower())})", shape(t))
            for v in values for t in [v.type.tensor_type]]


class InferenceSession:
    def __init__(self, path, sess_options=None, **_):
        model = onnx.load(path, load_external_data=False)
        constants = {i.name for i in model.graph.initializer}
        self._inputs = ports(i for i in model.graph.input if i.name not in constants)
        self._outputs = ports(model.graph.output)
        self._meta = Meta({p.key: p.value for p in model.metadata_props})
        self._folder = tempfile.TemporaryDirectory(prefix="nyxc-evaluate-")
        self._in, self._out = (f"{self._folder.name}/{f}" for f in ("in.npz", "out.npz"))
        self._programs = [f"{self._folder.name}/{i}.nyx" for i in range(len(HOW["dims"]))]
        for program, dims in zip(self._programs, HOW["dims"]):
            call("compile", path, *[a for d in dims for a in ("--dim", d)], "--policy", HOW["policy"], "-o", program)
        self._runs, self._report = 0, {}
        atexit.register(self._end)

    def get_inputs(self): return self._inputs
    def get_outputs(self): return self._outputs
    def get_modelmeta(self): return self._meta

    def run(self, names, feed, run_options=None):
        np.savez(self._in, **feed)
        for program in self._programs:
            try:
                self._report = call("run", program, "--device", "vulkan,cpu", "--inputs", self._in, "--outputs", self._out)
                break
            except RuntimeError:
                if program == self._programs[-1]:
                    raise
        self._runs += 1
        with np.load(self._out) as found:
            return [found[name] for name in names or [o.name for o in self._outputs]]

    def _end(self):
        with open(HOW["log"], "a") as log:
            log.write(f"{len(self._programs)} program{'s' * (len(self._programs) > 1)}, {self._runs} runs, host nodes {len(self._report.get('host_nodes', []))}, "
                      f"fallbacks {len(self._report.get('fallbacks', []))}, {self._report.get('device')}\n")
