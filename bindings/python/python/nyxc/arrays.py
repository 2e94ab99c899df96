"""Arrays as nyxc takes and gives them.

NumPy lacks bf16, f8, f4 and integers of 2 and 4 bits. With ``ml_dtypes`` installed its types stand for them; without,
they travel widened, as in ``.npz`` files: floats as float32, integers as int8 and uint8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import ml_dtypes
except ImportError:  # pragma: no cover - depends on the environment
    ml_dtypes = None

# Types of ml_dtypes that have one element a byte, where nyxc packs several: given and taken widened.
_WIDENED = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8, "float4_e2m1fn": np.float32}
# nyxc's names of the types that are widened, and those of ml_dtypes.
_NARROW = {"i4": "int4", "u4": "uint4", "i2": "int2", "u2": "uint2", "f4e2m1": "float4_e2m1fn"}


def has_type(name: str) -> bool:
    """Whether there is a NumPy type of this name here, with those of ``ml_dtypes``."""
    return hasattr(np, name) or name == "bool" or (ml_dtypes is not None and hasattr(ml_dtypes, name))


def _type(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name) if not hasattr(np, name) and name != "bool" else name)


def prepared(array: Any, name: str) -> np.ndarray:
    """``array`` as a contiguous array of native byte order: itself where it is one already."""
    found = np.asarray(array)
    if found.dtype.hasobject:
        raise TypeError(f"array {name!r} holds Python objects, not numbers: give a NumPy array of one type and shape")
    wide = _WIDENED.get(found.dtype.name)
    if wide is not None:
        found = found.astype(wide)
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    # ascontiguousarray would give a scalar an axis.
    return found if found.flags.c_contiguous else np.ascontiguousarray(found)


def owned(data: bytearray, name: str, shape: list, own: str) -> np.ndarray:
    """The array of these bytes, which it keeps; ``own`` is nyxc's name of the type before it was widened."""
    array = np.frombuffer(data, dtype=_type(name)).reshape(shape)
    narrow = _NARROW.get(own)
    if narrow is not None and ml_dtypes is not None and hasattr(ml_dtypes, narrow):
        return array.astype(getattr(ml_dtypes, narrow))
    return array
