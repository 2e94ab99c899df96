"""Exceptions, one class a kind of failure, as the command line has them (``docs/errors.md``)."""

from __future__ import annotations

from typing import Dict, Optional, Type

__all__ = [
    "Error", "UsageError", "ModelError", "CompileError", "PassFailed", "Bug", "ProgramError", "FileError", "IndexFault",
    "OverBudget", "DeviceError", "IoError", "HostMemoryError",
]


class Error(Exception):
    """A failure of nyxc.

    Attributes:
        kind: its kind, as ``nyxc --json`` has it: ``"over_budget"``, ``"model"`` and so on.
        exit_code: what the command line exits with.
        node: the node of the model that it is about, or ``None``.
        needed_bytes: what would have been needed, of the budget or of the device, in bytes, or ``None``.
        budget_bytes: the budget in bytes, or ``None``.
        min_feasible_bytes: the smallest budget that compiles, in bytes, or ``None``.
        free_bytes: what the device had free, in bytes, or ``None``.
    """

    kind = "error"
    exit_code = 3
    node: Optional[str] = None
    needed_bytes: Optional[int] = None
    budget_bytes: Optional[int] = None
    min_feasible_bytes: Optional[int] = None
    free_bytes: Optional[int] = None


class UsageError(Error, ValueError):
    """Arguments contradict each other, the model or the program."""

    kind, exit_code = "usage", 2


class ModelError(Error):
    """A model is bad, or uses what is not supported."""

    kind = "model"


class CompileError(Error):
    """A model cannot be compiled for the target."""

    kind = "compile"


class PassFailed(Error):
    """A pass refuses the graph."""

    kind = "pass"


class Bug(Error):
    """A bug of nyxc or of a caller's own pass."""

    kind = "bug"


class ProgramError(Error):
    """A program is damaged or of another version, or cannot compute."""

    kind = "program"


class FileError(Error, ValueError):
    """Inputs, a target or a text are bad: a wrong type or shape, a name that is not known."""

    kind = "file"


class IndexFault(Error, IndexError):
    """An index of a model is out of range in a run."""

    kind = "index"


class OverBudget(Error):
    """Nothing that is permitted fits the budget; ``min_feasible_bytes`` is what does."""

    kind, exit_code = "over_budget", 4


class DeviceError(Error, RuntimeError):
    """A device failed, is absent or lacks what the program needs."""

    kind, exit_code = "device", 5


class IoError(Error, OSError):
    """A file cannot be read or written."""

    kind, exit_code = "io", 6


class HostMemoryError(Error, MemoryError):
    """The host has no memory, or no thread, left."""

    kind, exit_code = "memory", 6


_BY_KIND: Dict[str, Type[Error]] = {
    cls.kind: cls
    for cls in (UsageError, ModelError, CompileError, PassFailed, Bug, ProgramError, FileError, IndexFault, OverBudget,
                DeviceError, IoError, HostMemoryError)
}


def of_kind(kind: str, message: str, **fields: object) -> Error:
    """The exception of a failure of this kind."""
    error = _BY_KIND.get(kind, Error)(message)
    error.kind = kind
    for name, value in fields.items():
        setattr(error, name, value)
    return error
