"""Graphs, and passes of one's own between nyxc's."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from . import _nyxc
from .program import Difference, Model, _model, _options

#: A value of an edit: the name of one of the graph, or what :meth:`Edit.add` gave.
Value = Union[str, Tuple[int, int]]


class Node(NamedTuple):
    """A node of a graph."""

    name: str
    #: ONNX's name of the operator, or nyxc's where ONNX has none.
    op: str
    #: Its format; ``None`` where none is assigned.
    format: Optional[str]
    #: The names of its operands; ``None`` where one is left out.
    operands: List[Optional[str]]
    #: The names of its results.
    results: List[str]
    attributes: Dict[str, Any]
    #: Its line in the text form.
    text: str


class Graph:
    """A graph, read from a model or from text. Nobody changes one: a pass gives an edit, and running it a new graph."""

    def __init__(self, graph: "_nyxc.Graph") -> None:
        self._graph = graph

    @staticmethod
    def read(model: Model, **options: Any) -> "Graph":
        """The graph of an ONNX model (a path, bytes or ``onnx.ModelProto``) or of a ``.nyxir`` file; ``dims``,
        ``constants`` and ``initializers`` are those of :func:`nyxc.compile`."""
        if isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(".nyxir"):
            path, beside = os.fspath(model), os.fspath(model) + ".consts.safetensors"
            consts = None
            if os.path.exists(beside):
                with open(beside, "rb") as file:
                    consts = file.read()
            with open(path, encoding="utf-8") as file:
                return Graph(_nyxc.Graph.from_text(file.read(), consts))
        return Graph(_nyxc.Graph.from_onnx(_model(model), _options(**options)))

    @staticmethod
    def parse(text: str) -> "Graph":
        """The graph of a text, which ``graph.text`` prints; constants that are not in line have no data."""
        return Graph(_nyxc.Graph.from_text(text, None))

    @property
    def name(self) -> str:
        """Its name."""
        return self._graph.name

    @property
    def level(self) -> str:
        """``"onnx"``, ``"core"`` or ``"kernel"``."""
        return self._graph.level

    @property
    def text(self) -> str:
        """The text form: one line a node."""
        return self._graph.text

    @property
    def nodes(self) -> List[Node]:
        """The nodes with an operator, each after those that it reads."""
        return [Node(*row[:5], json.loads(row[5]), row[6]) for row in self._graph.node_rows()]

    @property
    def values(self) -> Dict[str, str]:
        """The types of all values by name: ``"f32[1,784]"``."""
        return dict(self._graph.value_rows())

    @property
    def inputs(self) -> List[str]:
        """The names of the inputs."""
        return self._graph.ports()[0]

    @property
    def outputs(self) -> List[str]:
        """The names of the outputs."""
        return self._graph.ports()[1]

    def constant(self, value: str) -> Optional[Any]:
        """The array of a constant; ``None`` where the value is not one."""
        return self._graph.constant(value)

    def diff(self, other: "Graph") -> Difference:
        """What changes from this graph to ``other``."""
        changed, text, details = self._graph.diff(other._graph)
        return Difference(changed, text, json.loads(details))

    def __str__(self) -> str:
        return self.text


class Edit:
    """What a pass asks to change. A step is checked when the pass has ended; the error then names it."""

    def __init__(self, edit: Optional["_nyxc.Edit"] = None) -> None:
        self._edit = _nyxc.Edit() if edit is None else edit

    def set_format(self, node: Union[str, Node], format: Optional[str]) -> None:  # noqa: A002
        """Notes a format on a node, ``None`` for none: ``insert_qdq`` makes it real."""
        self._edit.set_format(getattr(node, "name", node), format)

    def add(self, op: str, *operands: Optional[Value], outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node and returns its result, or a tuple of ``outputs`` results."""
        results = self._edit.add(op, list(operands), attributes, outputs)
        return results[0] if outputs == 1 else tuple(results)

    def constant(self, array: Any) -> Value:
        """Adds a constant and returns it."""
        return self._edit.add_const(array)

    def replace(self, old: str, new: Value) -> None:
        """Has ``new`` stand wherever ``old`` is read, outputs included."""
        self._edit.replace(old, new)

    def insert_after(self, old: str, new: Value) -> None:
        """The same, but for what ``new`` is computed from: it goes on reading ``old``."""
        self._edit.insert_after(old, new)

    def set_operand(self, node: Union[str, Node], slot: int, value: Value) -> None:
        """Gives a node another operand."""
        self._edit.set_operand(getattr(node, "name", node), slot, value)

    def remove_dead(self) -> None:
        """Removes what nothing reads."""
        self._edit.remove_dead()


Function = Callable[[Graph, Edit], Any]


def call(function: Function, graph: "_nyxc.Graph", edit: "_nyxc.Edit") -> None:
    """Calls a pass of the caller's, as the pipeline does."""
    function(Graph(graph), Edit(edit))


class Ran(NamedTuple):
    """What a pass did."""

    name: str
    changed: bool
    #: The graph after it as text, where asked for.
    text: Optional[str]


class Pipeline:
    """nyxc's passes in their order, with one's own between them.

    >>> def keep_head(graph, edit):
    ...     for node in graph.nodes:
    ...         if node.name.startswith("head"):
    ...             edit.set_format(node, "f16")
    >>> pipeline = nyxc.Pipeline().insert_after("assign_precision", keep_head)
    >>> program = nyxc.compile("model.onnx", "40M", pipeline=pipeline)

    ``settings`` are arguments of :func:`nyxc.compile`, for :meth:`run`.
    """

    def __init__(self, **settings: Any) -> None:
        self._own: List[Tuple[str, str, str, Function]] = []
        self._settings = settings

    def _with(self, place: str, anchor: str, function: Function, name: Optional[str]) -> "Pipeline":
        made = Pipeline(**self._settings)
        made._own = [*self._own, (place, anchor, name or getattr(function, "__name__", "own"), function)]
        return made

    def insert_after(self, anchor: str, function: Function, name: Optional[str] = None) -> "Pipeline":
        """The same with ``function(graph, edit)`` after the pass ``anchor``."""
        return self._with("after", anchor, function, name)

    def insert_before(self, anchor: str, function: Function, name: Optional[str] = None) -> "Pipeline":
        """The same with ``function(graph, edit)`` before the pass ``anchor``."""
        return self._with("before", anchor, function, name)

    def replace(self, anchor: str, function: Function, name: Optional[str] = None) -> "Pipeline":
        """The same with ``function(graph, edit)`` in the place of the pass ``anchor``."""
        return self._with("replace", anchor, function, name)

    def run(self, graph: Graph, *, dump: bool = False) -> Tuple[Graph, List[Ran]]:
        """Runs all passes over a graph of the ``onnx`` level: the graph of kernels, and what each pass did."""
        after, rows = _nyxc.run_passes(graph._graph, _options(**self._settings), None, self._own, dump)
        return Graph(after), [Ran(*row) for row in rows]


def run_passes(graph: Graph, names: Sequence[str], *, dump: bool = False, **settings: Any) -> Tuple[Graph, List[Ran]]:
    """Runs the passes of these names alone; ``settings`` are arguments of :func:`nyxc.compile`."""
    after, rows = _nyxc.run_passes(graph._graph, _options(**settings), list(names), [], dump)
    return Graph(after), [Ran(*row) for row in rows]
