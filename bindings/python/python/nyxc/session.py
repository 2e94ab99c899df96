"""Running programs and models, with the names and manners of ONNX Runtime."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from . import _nyxc
from .errors import UsageError
from .program import Program, compile

_TYPES = {
    "f32": "tensor(float)", "f16": "tensor(float16)", "bf16": "tensor(bfloat16)", "f64": "tensor(double)",
    "bool": "tensor(bool)", "str": "tensor(string)", "f8e4m3": "tensor(float8e4m3fn)",
    "f8e4m3fnuz": "tensor(float8e4m3fnuz)", "f8e5m2": "tensor(float8e5m2)", "f8e5m2fnuz": "tensor(float8e5m2fnuz)",
    "f8e8m0": "tensor(float8e8m0)", "f4e2m1": "tensor(float4e2m1)",
}

#: Devices by the providers of ONNX Runtime that scripts name. ``VulkanExecutionProvider`` is nyxc's own.
_DEVICES = {"CPUExecutionProvider": "cpu", "VulkanExecutionProvider": "vulkan"}


def _onnx_type(dtype: str) -> str:
    found = _TYPES.get(dtype)
    if found is None and re.fullmatch(r"[iu]\d+", dtype):
        found = f"tensor({'u' if dtype[0] == 'u' else ''}int{dtype[1:]})"
    return found or f"tensor({dtype})"


class NodeArg:
    """An input or output: its name, its type as ``"tensor(float)"``, its shape with open sizes as text."""

    def __init__(self, name: str, dtype: str, shape: List[Union[int, str]]) -> None:
        self.name, self.type, self.shape = name, _onnx_type(dtype), shape

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape})"


class ModelMetadata:
    """What a session knows of its model: what the file says, of a program the name of its graph."""

    def __init__(
        self, graph_name: str, producer_name: str = "nyxc", domain: str = "", version: int = 0, description: str = "",
        custom_metadata_map: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.graph_name, self.producer_name, self.domain, self.version = graph_name, producer_name, domain, version
        self.description, self.graph_description = description, ""
        self.custom_metadata_map: Dict[str, str] = dict(custom_metadata_map or {})


class SessionOptions:
    """Options of a session. Those of ONNX Runtime are taken and change nothing, but for ``intra_op_num_threads``, the
    threads of a compilation; ``compile`` holds arguments of :func:`nyxc.compile` for models."""

    def __init__(self) -> None:
        self.intra_op_num_threads = 0
        self.inter_op_num_threads = 0
        self.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
        self.log_severity_level = 2
        self.enable_profiling = False
        self.execution_mode = 0
        self.compile: Dict[str, Any] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Taken, and changes nothing."""


class GraphOptimizationLevel:
    """Levels of ONNX Runtime: nyxc always runs all its passes."""

    ORT_DISABLE_ALL, ORT_ENABLE_BASIC, ORT_ENABLE_EXTENDED, ORT_ENABLE_LAYOUT, ORT_ENABLE_ALL = 0, 1, 2, 3, 99


class _Loaded:
    """A program on a device."""

    def __init__(self, program: Program, device: str) -> None:
        self.program = program
        self.session = _nyxc.Session(program._program, device)


class InferenceSession:
    """A program, or a model that is compiled on its first run, on a device.

    Args:
        path_or_bytes: a ``.nyx`` or ``.onnx`` file, the bytes of one, a :class:`Program` or an ``onnx.ModelProto``.
        sess_options: a :class:`SessionOptions`.
        providers: the first that is known says which device: ``"CPUExecutionProvider"`` the CPU reference,
            ``"VulkanExecutionProvider"`` the best Vulkan device.
        device: ``"auto"`` (the best GPU, else the CPU reference), ``"cpu"``, ``"vulkan"`` or an index; outweighs
            ``providers``.
        budget, dims and further arguments: those of :func:`compile`, for models.

    A model whose sizes are open is compiled for the sizes of the arrays that it is run on, once for each of the last
    eight; ``dims={"seq": (1, 512)}`` makes one program for all of a range.

    Threads may share a session: runs take turns, and none holds the interpreter while it computes.
    """

    _MOST_KEPT = 8

    def __init__(
        self, path_or_bytes: Any, sess_options: Optional[SessionOptions] = None,
        providers: Optional[Sequence[Any]] = None, provider_options: Optional[Sequence[Any]] = None, *,
        device: Optional[str] = None, **options: Any,
    ) -> None:
        del provider_options  # ONNX Runtime's, for its own providers.
        self._device = str(device) if device is not None else _device_of(providers)
        self._lock = threading.Lock()
        self._loaded: "OrderedDict[Tuple[Tuple[str, Tuple[int, ...]], ...], _Loaded]" = OrderedDict()
        self._model: Any = None
        self._options: Dict[str, Any] = {}
        self._fixed: Optional[_Loaded] = None
        program = _program_of(path_or_bytes)
        if program is not None:
            if options:
                raise UsageError(f"{', '.join(sorted(options))}: for models; a program is compiled already")
            self._fixed = _Loaded(program, self._device)
            self._inputs, self._outputs = _ports(program)
            self._about = ModelMetadata(program.report["model"])
            return
        if not _nyxc.CAN_COMPILE:
            raise UsageError("this build runs programs (.nyx) and compiles no models: install nyxc")
        if sess_options is not None:
            options = {"threads": sess_options.intra_op_num_threads, **sess_options.compile, **options}
        self._model, self._options = _bytes_or_path(path_or_bytes), options
        if self._device == "cpu":
            self._options.setdefault("target", "cpu")
        self._describe()

    def _describe(self) -> None:
        """Inputs and outputs as the model states them; a model without open sizes is compiled now."""
        about, inputs, outputs = _nyxc.describe(self._model)
        self._about = ModelMetadata(**about)
        self._inputs = [NodeArg(*row) for row in inputs]
        self._outputs = [NodeArg(*row) for row in outputs]
        is_open = any(isinstance(size, str) for port in self._inputs for size in port.shape)
        if not is_open or self._options.get("dims"):
            self._fixed = _Loaded(compile(self._model, **self._options), self._device)

    def _loaded_for(self, feeds: Mapping[str, Any]) -> _Loaded:
        """The program for the sizes of these arrays."""
        if self._fixed is not None:
            return self._fixed
        import numpy as np

        known = {port.name: port for port in self._inputs}
        shapes = tuple(sorted((name, np.shape(array)) for name, array in feeds.items() if name in known))
        with self._lock:
            found = self._loaded.get(shapes)
            if found is None:
                dims: Dict[str, int] = {}
                for name, shape in shapes:
                    for axis, size in enumerate(shape):
                        if axis < len(known[name].shape) and isinstance(known[name].shape[axis], str):
                            dims[f"{name}.{axis}"] = size
                found = _Loaded(compile(self._model, **{**self._options, "dims": dims}), self._device)
                self._loaded[shapes] = found
                while len(self._loaded) > self._MOST_KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(shapes)
            return found

    def run(self, output_names: Optional[Sequence[str]], input_feed: Mapping[str, Any],
            run_options: Any = None) -> List[Any]:
        """Runs once on arrays by name, and gives the outputs named, all of them for ``None``, as arrays that own their
        memory.

        Contiguous arrays of an input's type are read where they are; strided ones are copied.

        Raises:
            FileError: an array is missing, is not an input, or has another type or shape than the one expected.
            IndexFault: an index of the model is out of range.
            DeviceError: the device failed, and was asked for by name.
        """
        del run_options
        outputs, _, _ = self._loaded_for(input_feed).session.run(dict(input_feed), _names(output_names))
        return outputs

    def entry(self, name: str) -> "Entry":
        """What can be called under this name, of a program of several entries over the same states.

        Raises:
            KeyError: the program has no such entry.
            UsageError: the session is of a model whose sizes are open, which has one program for each.
        """
        return Entry(self._one("entry"), name)

    def reset(self) -> None:
        """Makes all states what they were before the first run."""
        self._one("reset").session.reset()

    def bind(self, entry: Optional[str] = None) -> "Binding":
        """Calls of an entry, the first where none is named, some of whose tensors stay on the device."""
        loaded = self._one("bind")
        return Binding(loaded, loaded.program.entries[0] if entry is None else entry)

    def _one(self, what: str) -> _Loaded:
        """The only program of the session."""
        if self._fixed is None:
            raise UsageError(f"{what}: this model is compiled anew for other sizes; give dims=, or compile it")
        return self._fixed

    def get_inputs(self) -> List[NodeArg]:
        """The inputs, in order."""
        return list(self._inputs)

    def get_outputs(self) -> List[NodeArg]:
        """The outputs, in order."""
        return list(self._outputs)

    def get_providers(self) -> List[str]:
        """The provider that computes, in ONNX Runtime's words."""
        on_cpu = self._device == "cpu" or (self._fixed is not None and self._fixed.session.device == "cpu")
        return ["CPUExecutionProvider"] if on_cpu else ["VulkanExecutionProvider", "CPUExecutionProvider"]

    def get_modelmeta(self) -> ModelMetadata:
        """What is known of the model."""
        return self._about

    @property
    def program(self) -> Optional[Program]:
        """The program that runs; ``None`` before the first run of a model whose sizes are open."""
        if self._fixed is not None:
            return self._fixed.program
        with self._lock:
            return next(reversed(self._loaded.values())).program if self._loaded else None

    @property
    def device(self) -> Optional[str]:
        """The device that computes; ``None`` before the first run of a model whose sizes are open."""
        loaded = self._fixed or next(reversed(self._loaded.values()), None)
        return None if loaded is None else loaded.session.device

    @property
    def fallbacks(self) -> List[str]:
        """What went another way than asked, and why."""
        loaded = self._fixed or next(reversed(self._loaded.values()), None)
        return [] if loaded is None else loaded.session.fallbacks

    @property
    def measured_peak_bytes(self) -> int:
        """The most device memory held so far, in bytes; 0 on the CPU reference."""
        every = [self._fixed] if self._fixed is not None else list(self._loaded.values())
        return sum(loaded.session.measured_peak_bytes for loaded in every)


class Entry:
    """An entry of a loaded program: made by :meth:`InferenceSession.entry`.

    >>> decode = session.entry("decode")
    >>> logits, = decode.run(None, {"token": token})
    """

    def __init__(self, loaded: _Loaded, name: str) -> None:
        self._session, self.name = loaded.session, name
        self._inputs, self._outputs = _ports(loaded.program, name)

    def run(self, output_names: Optional[Sequence[str]], input_feed: Mapping[str, Any]) -> List[Any]:
        """Runs once, as :meth:`InferenceSession.run`. States keep what the run stored."""
        outputs, _, _ = self._session.run(dict(input_feed), _names(output_names), self.name)
        return outputs

    def get_inputs(self) -> List[NodeArg]:
        """The inputs, in order."""
        return list(self._inputs)

    def get_outputs(self) -> List[NodeArg]:
        """The outputs, in order."""
        return list(self._outputs)


class DeviceTensor:
    """An output that stays where a session runs, and counts against its budget while this lives.

    A run writes it where :meth:`Binding.keep` says so, others read it where :meth:`Binding.give` does.
    """

    def __init__(self, tensor: Any, name: str) -> None:
        self._tensor, self.name = tensor, name

    @property
    def type(self) -> Optional[str]:
        """Its type, as ``"tensor(float)"``; ``None`` before a run wrote it."""
        known = self._tensor.ty
        return None if known is None else _onnx_type(known[0])

    @property
    def shape(self) -> Optional[List[int]]:
        """Its sizes; ``None`` before a run wrote it."""
        known = self._tensor.ty
        return None if known is None else list(known[1])

    def __repr__(self) -> str:
        return f"DeviceTensor(name={self.name!r}, type={self.type!r}, shape={self.shape})"


class Binding:
    """Calls of an entry some of whose tensors stay on the device: made by :meth:`InferenceSession.bind`.

    >>> first = session.bind("encode")
    >>> hidden = first.keep("hidden")
    >>> first.run(None, {"ids": ids})            # "hidden" is not copied to the host
    >>> logits, = session.bind("head").give("x", hidden).run(None, {})
    """

    def __init__(self, loaded: _Loaded, entry: str) -> None:
        self._session, self.entry = loaded.session, entry
        inputs, outputs = _ports(loaded.program, entry)
        self._ports = {"input": [port.name for port in inputs], "output": [port.name for port in outputs]}
        self._given: Dict[str, DeviceTensor] = {}
        self._kept: Dict[str, DeviceTensor] = {}

    def _known(self, what: str, name: str) -> None:
        if name not in self._ports[what]:
            raise UsageError(f"entry {self.entry!r} has no {what} {name!r}; it has {self._ports[what]}")

    def keep(self, output: str, tensor: Optional[DeviceTensor] = None) -> DeviceTensor:
        """Keeps an output on the device, in ``tensor`` or a new one, which is returned. Runs do not return it."""
        self._known("output", output)
        if tensor is None:
            tensor = DeviceTensor(self._session.tensor(output, self.entry), output)
        self._kept[output] = tensor
        return tensor

    def give(self, input: str, tensor: DeviceTensor) -> "Binding":  # noqa: A002 - what it is
        """Takes an input from the device. Returns the binding itself."""
        self._known("input", input)
        self._given[input] = tensor
        return self

    def run(self, output_names: Optional[Sequence[str]], input_feed: Mapping[str, Any]) -> List[Any]:
        """Runs once on arrays for the inputs that are not given on the device, and gives the outputs that are not kept
        there, all of them for ``None``."""
        given = [(name, tensor._tensor) for name, tensor in self._given.items()]
        kept = [(name, tensor._tensor) for name, tensor in self._kept.items()]
        outputs, _, _ = self._session.run(dict(input_feed), _names(output_names), self.entry, given, kept)
        return outputs


def _names(names: Optional[Sequence[str]]) -> Optional[List[str]]:
    return list(names) if names else None


def _device_of(providers: Optional[Sequence[Any]]) -> str:
    for provider in providers or ():
        name = provider[0] if isinstance(provider, tuple) else provider
        if name in _DEVICES:
            return _DEVICES[name]
    return "auto"


def _is_model(head: bytes) -> bool:
    """Whether a file begins as a protobuf of ONNX does, and not as a ``.nyx``, which begins with the length of its
    header in 8 bytes and a brace."""
    return len(head) < 9 or head[8:9] != b"{"


def _program_of(source: Any) -> Optional[Program]:
    """The program that ``source`` is; ``None`` for a model."""
    if isinstance(source, Program):
        return source
    if isinstance(source, (bytes, bytearray, memoryview)):
        return None if _is_model(bytes(source[:16])) else Program(bytes(source))
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            head = file.read(16)
        return None if _is_model(head) else Program(source)
    return None


def _bytes_or_path(source: Any) -> Any:
    from .program import _model

    return _model(source)


def _ports(program: Program, entry: Optional[str] = None) -> Tuple[List[NodeArg], List[NodeArg]]:
    def one(row: Tuple[str, str, List[Tuple[Optional[int], str]]]) -> NodeArg:
        name, dtype, dims = row
        return NodeArg(name, dtype, [text if known is None else known for known, text in dims])

    inputs, outputs, _ = program._program.ports(entry)
    return [one(row) for row in inputs], [one(row) for row in outputs]


def get_available_providers() -> List[str]:
    """What can compute here, in ONNX Runtime's words."""
    vulkan = ["VulkanExecutionProvider"] if devices() else []
    return [*vulkan, "CPUExecutionProvider"]


def get_device() -> str:
    """``"GPU"`` where there is one, else ``"CPU"``."""
    return "GPU" if any(kind != "cpu" for _, _, kind, _, _ in devices()) else "CPU"


def devices() -> List[Tuple[int, str, str, str, int]]:
    """The Vulkan devices: index, name, kind, driver, bytes of memory; empty where there is no Vulkan."""
    return _nyxc.devices()


def set_default_logger_severity(level: int) -> None:
    """Taken for scripts that call it; nyxc logs nothing."""
