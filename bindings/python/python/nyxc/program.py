"""Compiled programs and how they come about."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from . import _nyxc, notebook
from .errors import UsageError

if TYPE_CHECKING:
    from .passes import Pipeline

Model = Union[str, "os.PathLike[str]", bytes, Any]
Size = Union[int, str]
Dim = Union[int, Tuple[int, int], str]
Calibration = Union[str, "os.PathLike[str]", Iterable[Mapping[str, Any]]]


class Difference(NamedTuple):
    """What differs between two programs or graphs. ``bool(difference)`` is whether anything does."""

    changed: bool
    text: str
    details: Dict[str, Any]

    def __bool__(self) -> bool:
        return self.changed

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return notebook.text(self.text)


@contextlib.contextmanager
def _whole(path: str) -> Iterator[str]:
    """A path beside ``path`` to write to, renamed to it in the end: no half-written file is left."""
    beside = f"{path}.{os.getpid()}.part"
    try:
        yield beside
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def _model(model: Model) -> Any:
    """A path as it is, anything else as the bytes of the file."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    if isinstance(model, (bytes, bytearray, memoryview)):
        return bytes(model)
    if hasattr(model, "SerializeToString"):
        return model.SerializeToString()
    raise TypeError(f"a model is a path, bytes or an onnx.ModelProto, not {type(model).__name__}")


def _dims(dims: Optional[Mapping[str, Dim]]) -> List[str]:
    def text(size: Dim) -> str:
        if isinstance(size, tuple):
            low, high = size
            return f"{low}..{high}"
        return str(size)

    return [f"{name}={text(size)}" for name, size in (dims or {}).items()]


def _options(
    *, budget: Optional[Size] = None, dims: Optional[Mapping[str, Dim]] = None,
    precision: Optional[Mapping[str, str]] = None, target: Any = "auto", policy: str = "budget",
    formats: Sequence[str] = (), block_size: Optional[int] = None, reserve: Size = 0,
    constants: Optional[Mapping[str, Any]] = None, initializers: str = "auto", allow_host: bool = True,
    check_indices: bool = True, threads: int = 0, calibration: Optional[Calibration] = None,
    calibration_samples: int = 128,
) -> Dict[str, Any]:
    if isinstance(target, Mapping):
        target = json.dumps(target)
    return {
        "dims": _dims(dims), "constants": dict(constants or {}), "initializers": initializers,
        "budget": None if budget is None else str(budget), "reserve": str(reserve), "target": str(target),
        "policy": policy, "precision": [f"{pattern}={fmt}" for pattern, fmt in (precision or {}).items()],
        "formats": list(formats), "block_size": block_size, "allow_host": allow_host, "check_indices": check_indices,
        "n_threads": threads, "calibration": calibration, "calibration_samples": calibration_samples,
    }


class Program:
    """A model compiled for a device within a budget: what a ``.nyx`` file holds.

    Made by :func:`compile`, or by ``Program(path_or_bytes)`` of a ``.nyx`` file.
    """

    def __init__(self, source: Union[str, "os.PathLike[str]", bytes, "_nyxc.Program"]) -> None:
        if isinstance(source, _nyxc.Program):
            self._program = source
        elif isinstance(source, (bytes, bytearray, memoryview)):
            self._program = _nyxc.Program.from_bytes(bytes(source))
        else:
            with open(source, "rb") as file:
                self._program = _nyxc.Program.from_bytes(file.read())
        document = self._program.report_json or self._program.plan_json()
        #: The report of the compilation, as ``nyxc compile --json`` prints it. A program that was read from a file
        #: knows its plan: budget, ledger, certificate and nodes, and no times.
        self.report: Dict[str, Any] = json.loads(document)
        #: Sizes that nobody gave and that were taken to be these, by dimension.
        self.defaulted: Dict[str, int] = {}

    def save(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes a ``.nyx`` file: beside its place first, then renamed, so that no half-written file is left."""
        with _whole(os.fspath(path)) as beside, open(beside, "wb") as file:
            file.write(self.to_bytes())

    def export_onnx(self, path: Union[str, "os.PathLike[str]"], style: str = "qdq") -> None:
        """Writes the quantized model as ONNX, which computes what the program does: weights as codes and scales.

        ``style`` is ``"qdq"`` (DequantizeLinear by blocks, plain ONNX of opset 21) or ``"matmulnbits"``
        (``com.microsoft.MatMulNBits`` and ``GatherBlockQuantized`` where these can say it). A model of 2 GiB has its
        data in ``PATH.data`` beside it.

        Raises:
            UsageError: the program was read from a ``.nyx`` file, which holds kernels and no model.
            ModelError: a node has no form in ONNX, as states.
        """
        path = os.fspath(path)
        exported = _nyxc.export(self._program, style)
        data = f"{os.path.basename(path)}.data" if exported.needs_data_file else None
        if data is not None:
            with _whole(os.path.join(os.path.dirname(path), data)) as beside:
                exported.write_data(beside)
        with _whole(path) as beside:
            exported.write(beside, data)

    @property
    def entries(self) -> List[str]:
        """The names of what can be called: ``["main"]``, or those of a module's entries."""
        return self._program.entries()

    def to_bytes(self) -> bytes:
        """The bytes of a ``.nyx`` file."""
        return self._program.to_bytes()

    @property
    def planned_peak_bytes(self) -> int:
        """Device memory of load and run at their largest, in bytes: at most the budget."""
        return self.report["planned_peak_bytes"]

    @property
    def ledger(self) -> Dict[str, int]:
        """The bytes of the planned peak by kind: weights, constants, activations, workspace, io, state, staging."""
        return self.report["ledger"]

    @property
    def certificate(self) -> Dict[str, Any]:
        """What proves the choice of formats: objective, bound, gap, solver."""
        return self.report["certificate"]

    @property
    def predicted_error(self) -> float:
        """Predicted relative L2 error of the outputs, which the formats add."""
        return self.report["predicted_error"]

    @property
    def nodes(self) -> Any:
        """A row a node: name, op, format, where, kernel, weight_bytes, f32_weight_bytes, reason.

        A ``pandas.DataFrame`` where pandas is installed, else a list of dictionaries.
        """
        try:
            import pandas
        except ImportError:
            return self.report["nodes"]
        return pandas.DataFrame(self.report["nodes"])

    @property
    def text(self) -> str:
        """The graph of kernels as text."""
        return self._program.text

    def diff(self, other: "Program") -> Difference:
        """What changes from this program to ``other``."""
        changed, text, details = self._program.diff(other._program)
        return Difference(changed, text, json.loads(details))

    def __repr__(self) -> str:
        peak, budget = self.planned_peak_bytes, self.report["budget_bytes"]
        return f"<nyxc.Program {self.report['model']} for {self.report['target']}: {peak} of {budget} bytes>"

    def _repr_html_(self) -> str:
        return notebook.program(self.report)


def compile(  # noqa: A001 - the command's name
    model: Model, budget: Optional[Size] = None, *, dims: Optional[Mapping[str, Dim]] = None,
    precision: Optional[Mapping[str, str]] = None, target: Any = "auto", policy: str = "budget",
    formats: Sequence[str] = (), block_size: Optional[int] = None, reserve: Size = 0,
    constants: Optional[Mapping[str, Any]] = None, initializers: str = "auto", allow_host: bool = True,
    check_indices: bool = True, threads: int = 0, calibration: Optional[Calibration] = None,
    calibration_samples: int = 128, pipeline: Optional["Pipeline"] = None,
    progress: Union[bool, Callable[[str, int, int], Any]] = False,
) -> Program:
    """Compiles an ONNX model into a program that fits a budget.

    Args:
        model: a path, the bytes of the file, or an ``onnx.ModelProto``; the path of a ``.nyxir`` file, which may hold
            several entries over shared states.
        budget: peak device bytes of load and run: an integer, a size (``"7G"``, ``"512M"``), ``"min"``, ``"max"``, or
            ``"50%"`` of the way from min to max; 90 % of the target's heap if ``None``.
        dims: sizes of symbolic dimensions: ``{"batch": 8, "seq": (1, 512), "total": "past+seq", "image.2": 224}``.
        precision: formats of nodes by glob or ``op:NAME``; the last that matches wins: ``{"head*": "f16"}``.
        target: ``"auto"``, ``"cpu"``, a shipped profile (:func:`targets`), a ``.json`` file or a dictionary of one.
        policy: ``"budget"``, ``"tiered"`` or ``"uniform:FORMAT"``.
        formats: those that may be assigned; the default menu if empty.
        block_size: weights that share a scale: a power of two from 16 to 256.
        reserve: bytes held back from the budget.
        constants: values for inputs of the model that become constants, by name.
        initializers: ``"auto"``, ``"inputs"`` or ``"constants"``: what initializers are that are inputs too.
        allow_host: whether nodes may run on the host where no kernel covers them.
        check_indices: whether indices are held against their axes while the program runs.
        threads: 0 for one a core. The program does not depend on it.
        calibration: samples of the model's inputs, by which weights of products are quantized (GPTQ): an iterable of
            dictionaries of arrays (a generator is read one dictionary at a time), a ``.npz`` file, a folder of these,
            or a ``.txt`` file that lists them. Arrays are as the inputs, or have a first axis more for several samples.
        calibration_samples: samples that are read at most.
        pipeline: passes of one's own (:class:`nyxc.Pipeline`).
        progress: ``True`` for lines on standard error, or a function of ``(stage, done, of)``.

    Raises:
        OverBudget: nothing that is permitted fits; its ``min_feasible_bytes`` says what does.
        ModelError: the model is bad, or uses what is not supported; its ``node`` says where.
        UsageError: an argument is wrong.
    """
    options = _options(
        budget=budget, dims=dims, precision=precision, target=target, policy=policy, formats=formats,
        block_size=block_size, reserve=reserve, constants=constants, initializers=initializers, allow_host=allow_host,
        check_indices=check_indices, threads=threads, calibration=calibration,
        calibration_samples=calibration_samples)
    told = _progress(progress)
    own = [] if pipeline is None else pipeline._own
    program, defaulted = _nyxc.compile(_model(model), options, own, told)
    made = Program(program)
    made.defaulted = dict(defaulted)
    return made


def _progress(progress: Union[bool, Callable[[str, int, int], Any]]) -> Optional[Callable[[str, int, int], Any]]:
    if not isinstance(progress, bool):
        return progress
    if not progress:
        return None
    import sys

    def line(stage: str, done: int, of: int) -> None:
        print(f"\r{stage} {done}/{of} ", end="\n" if done == of else "", file=sys.stderr, flush=True)

    return line


def compare(model: Model, program: Program, inputs: Mapping[str, Any], *,
            constants: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
    """Compares a program with its model in f32, value by value, both on the CPU reference.

    Returns ``nodes`` and ``outputs``, each a list of ``name``, ``snr_db``, ``cosine``, ``max_error`` and
    ``relative_l2``; ``overflows``, values beyond f16's range that are stored as f16; ``worst_relative_l2``.
    """
    return json.loads(_nyxc.compare(_model(model), program._program, dict(inputs), dict(constants or {})))


class Point(NamedTuple):
    """A program of a frontier."""

    #: The budget that was asked for, in bytes.
    budget_bytes: int
    #: What the program is planned to take, in bytes.
    planned_peak_bytes: int
    #: What the metric gave.
    score: float
    #: The program.
    program: Program


def frontier(
    model: Model, budgets: Iterable[Size], inputs: Iterable[Mapping[str, Any]],
    metric: Callable[[List[Any], List[Any]], float], *, device: str = "auto", **options: Any,
) -> List[Point]:
    """What each budget buys, by a metric of one's own.

    For each budget the model is compiled and run on ``inputs``, an iterable of dictionaries of arrays; ``metric`` takes
    the outputs of all runs in f32 and those of the program, each a list with one list of arrays a run, and gives a
    number. Budgets at which nothing fits are left out.

    Returns points in the order of ``budgets``; ``options`` are those of :func:`compile`, ``calibration`` among them:
    give it other samples than ``inputs``, or the score is of what was fitted.
    """
    from .errors import OverBudget
    from .session import InferenceSession

    runs = [dict(one) for one in inputs]
    if not runs:
        raise UsageError("a frontier needs inputs to measure on")

    def outputs(program: Program) -> List[Any]:
        session = InferenceSession(program, device=device)
        return [session.run(None, one) for one in runs]

    samples = options.get("calibration")
    if samples is not None and not isinstance(samples, (str, os.PathLike)):
        # Each budget reads them anew.
        options["calibration"] = list(samples)
    reference = outputs(compile(model, "max", **{**options, "policy": "uniform:f32", "calibration": None}))
    points = []
    for budget in budgets:
        try:
            program = compile(model, budget, **options)
        except OverBudget:
            continue
        score = float(metric(reference, outputs(program)))
        points.append(Point(program.report["budget_bytes"], program.planned_peak_bytes, score, program))
    return points


def budget_bounds(model: Model, **options: Any) -> Tuple[int, int]:
    """The smallest budget that compiles, and what the model needs in ``uniform:f32``, in bytes; ``options`` are those
    of :func:`compile`."""
    return _nyxc.budget_bounds(_model(model), _options(**options))


def targets() -> List[str]:
    """The names of the shipped device profiles."""
    return _nyxc.targets()
