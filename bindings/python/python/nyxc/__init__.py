"""nyxc compiles an ONNX model into a mixed-precision Vulkan program that fits a memory budget given in bytes.

>>> import nyxc
>>> program = nyxc.compile("model.onnx", budget="400K", dims={"batch": 1})
>>> session = nyxc.InferenceSession(program)
>>> logits, = session.run(None, {"image": image})

Scripts written for ONNX Runtime run with ``import nyxc as ort``: :class:`InferenceSession` has its names and manners.
"""

from __future__ import annotations

from . import errors
from ._nyxc import CAN_COMPILE, __version__
from .errors import *  # noqa: F403 - the exceptions are names of the package
from .program import Difference, Point, Program
from .session import (
    GraphOptimizationLevel,
    InferenceSession,
    ModelMetadata,
    NodeArg,
    SessionOptions,
    devices,
    get_available_providers,
    get_device,
    set_default_logger_severity,
)

__all__ = [
    "Difference", "GraphOptimizationLevel", "InferenceSession", "ModelMetadata", "NodeArg", "Point", "Program",
    "SessionOptions", "__version__", "devices", "get_available_providers", "get_device", "set_default_logger_severity",
    *errors.__all__,
]

if CAN_COMPILE:
    from .passes import Edit, Graph, Node, Pipeline, run_passes
    from .program import budget_bounds, compare, compile, frontier, targets  # noqa: A004

    __all__ += ["Edit", "Graph", "Node", "Pipeline", "budget_bounds", "compare", "compile", "frontier", "run_passes",
                "targets"]
