"""nyxc compiles an ONNX model into a mixed-precision Vulkan program that fits a memory budget given in bytes.

>>> import nyxc
>>> program = nyxc.compile("model.onnx", budget="400K", dims={"batch": 1})
>>> session = nyxc.InferenceSession(program)
>>> logits, = session.run(None, {"image": image})

Scripts written for ONNX Runtime run with ``import nyxc as ort``: :class:`InferenceSession` has its names and manners.

What there is, each with its own help:

============================  ==========================================================================================
``compile``                   a model to a :class:`Program` within a budget; ``calibration=`` samples, ``pipeline=`` passes
``Program``                   ``save``, ``report``, ``ledger``, ``certificate``, ``nodes``, ``diff``, ``export_onnx``
``InferenceSession``          ``run``; ``entry``, ``reset`` and ``bind`` for states and tensors that stay on the device
``compare``, ``frontier``     what formats cost, value by value, and what each budget buys by a metric of one's own
``budget_bounds``             the smallest budget that compiles, and what f32 needs
``Graph``, ``Pipeline``       the graph of a model, and passes written in Python
``devices``, ``targets``      the Vulkan devices here, and the profiles that programs can be compiled for
``errors``                    failures as exceptions, with nodes and bytes: ``OverBudget.min_feasible_bytes``
============================  ==========================================================================================

Sizes are in bytes. Arrays that are contiguous and of an input's type are read where they are; results own their memory.
"""

from __future__ import annotations

from . import errors
from ._nyxc import CAN_COMPILE, __version__
from .errors import *  # noqa: F403 - the exceptions are names of the package
from .program import Difference, Point, Program
from .session import (
    Binding,
    DeviceTensor,
    Entry,
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
    "Binding", "DeviceTensor", "Difference", "Entry", "GraphOptimizationLevel", "InferenceSession", "ModelMetadata", "NodeArg", "Point", "Program",
    "SessionOptions", "__version__", "devices", "get_available_providers", "get_device", "set_default_logger_severity",
    *errors.__all__,
]

if CAN_COMPILE:
    from .passes import Edit, Graph, Node, Pipeline, run_passes
    from .program import budget_bounds, compare, compile, frontier, targets  # noqa: A004

    __all__ += ["Edit", "Graph", "Node", "Pipeline", "budget_bounds", "compare", "compile", "frontier", "run_passes",
                "targets"]
