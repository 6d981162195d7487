"""Network weights in one file without executable content: the safetensors layout, read and written with numpy alone.

Layout (https://github.com/huggingface/safetensors, "Format"): 8 bytes little-endian header length N; N bytes of JSON
mapping each tensor's name to its dtype, shape and byte range, and ``__metadata__`` to string pairs; then the data, the
ranges covering it without gap or overlap. Files interoperate with the ``safetensors`` package, which is not needed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import NDArray

from .errors import OutputError, WeightsError

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # the limit of the safetensors package
_REMEDY = "choose the weights of PALNetLandmarks or the weights.safetensors of a training run, or install it again"


@dataclass(frozen=True)
class WeightsFile:
    """What a weights file holds.

    Attributes
    ----------
    arrays : parameter name -> array; floating point as float32 whatever the storage.
    metadata : strings; structured facts are JSON (see :meth:`fact`).
    sha256 : of the whole file, hexadecimal.
    name : file name, for messages.
    """

    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, str]
    sha256: str
    name: str

    def fact(self, key: str) -> Any:
        """The metadata entry ``key`` decoded from JSON.

        Raises
        ------
        WeightsError
            If it is missing or not JSON.
        """
        try:
            return json.loads(self.metadata[key])
        except (KeyError, ValueError, RecursionError):
            raise WeightsError(f"The weights '{self.name}' do not say their {key}; {_REMEDY}.") from None


def save_weights(
    path: Union[str, os.PathLike[str]],
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, Any],
    dtype: str = "float32",
) -> str:
    """Write a weights file; the same content always gives the same bytes, and a failed write leaves nothing behind.

    Parameters
    ----------
    arrays : parameter name -> finite array.
    metadata : facts about the weights (architecture, config, version, scheme labels, training): strings are stored as
        they are, everything else as JSON.
    dtype : storage of floating point arrays, ``"float32"`` or ``"float16"``.

    Returns
    -------
    The SHA-256 of the file, hexadecimal.

    Raises
    ------
    ValueError
        If an array cannot be stored (unknown dtype, not finite, too large for float16).
    OutputError
        If the file cannot be written.
    """
    target = Path(path)
    if dtype not in ("float32", "float16"):
        raise ValueError(f"Weights are stored as float32 or float16, not {dtype}.")
    stored = {name: _storable(name, np.asarray(array), dtype) for name, array in arrays.items()}
    # Widest types first, so that every array starts at a multiple of its item size.
    order = sorted(stored, key=lambda name: (-stored[name].dtype.itemsize, name))
    header: dict[str, Any] = {
        "__metadata__": {
            str(key): value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for key, value in sorted(metadata.items())
        }
    }
    offset = 0
    for name in order:
        array = stored[name]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".weights-", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            for piece in (len(text).to_bytes(8, "little"), text, *(stored[name].tobytes() for name in order)):
                file.write(piece)
                digest.update(piece)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise OutputError(f"Cannot write '{target}': {reason}; choose a folder you can write to.") from error
    return digest.hexdigest()


def load_weights(path: Union[str, os.PathLike[str]], sha256: Optional[str] = None) -> WeightsFile:  # noqa: UP045
    """Read a weights file, trusting nothing in it.

    Parameters
    ----------
    path : the file. If ``<path>.sha256`` lies beside it (as ``sha256sum`` writes it), the file must match.
    sha256 : the expected SHA-256, hexadecimal; optional.

    Raises
    ------
    WeightsError
        If the file cannot be read, is of another kind, damaged, or not the expected one.
    """
    source = Path(path)
    name = source.name
    try:
        content = source.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise WeightsError(f"Cannot read the weights '{source}': {reason}; check the path.") from error
    digest = hashlib.sha256(content).hexdigest()
    beside = _digest_beside(source)
    for expected in (sha256, beside):
        if expected is not None and expected.lower() != digest:
            raise WeightsError(
                f"The weights '{name}' are not the expected ones (SHA-256 {digest[:12]}…, expected "
                f"{expected[:12].lower()}…); {_REMEDY}."
            )
    header, start = _read_header(content, name)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(name, "its metadata are not text")
    arrays = _read_arrays(header, memoryview(content)[start:], name)
    return WeightsFile(arrays=arrays, metadata=metadata, sha256=digest, name=name)


def check_shapes(
    arrays: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]], name: str = "weights"
) -> None:
    """Check that ``arrays`` are exactly the parameters a network expects.

    Parameters
    ----------
    expected : parameter name -> shape.
    name : what messages call the weights (file name).

    Raises
    ------
    WeightsError
        Naming the first parameter that is missing, superfluous or of another shape.
    """
    for key, shape in expected.items():
        if key not in arrays:
            raise WeightsError(f"The weights '{name}' are made for another network (they lack '{key}'); {_REMEDY}.")
        if tuple(arrays[key].shape) != tuple(shape):
            raise WeightsError(
                f"The weights '{name}' are made for another network ('{key}' has shape {tuple(arrays[key].shape)}, "
                f"not {tuple(shape)}); {_REMEDY}."
            )
    superfluous = sorted(set(arrays) - set(expected))
    if superfluous:
        raise WeightsError(
            f"The weights '{name}' are made for another network (which has '{superfluous[0]}'); {_REMEDY}."
        )


def _storable(name: str, array: NDArray[Any], dtype: str) -> NDArray[Any]:
    if name == "__metadata__":
        raise ValueError("'__metadata__' cannot be the name of an array.")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ValueError(f"The array '{name}' has values that are not finite.")
        with np.errstate(over="ignore"):
            array = array.astype("<f4" if dtype == "float32" else "<f2")
        if not np.isfinite(array).all():
            raise ValueError(f"The array '{name}' has values too large for {dtype}.")
    elif array.dtype.newbyteorder("<") not in _NAMES:
        raise ValueError(f"The array '{name}' has the dtype {array.dtype}, which cannot be stored.")
    return array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)


def _digest_beside(source: Path) -> Optional[str]:  # noqa: UP045
    """The digest in ``<file>.sha256``, or ``None`` where there is no such file."""
    beside = source.with_name(source.name + ".sha256")
    try:
        text = beside.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WeightsError(f"Cannot read '{beside}': {error.strerror or error}; remove it or {_REMEDY}.") from error
    found = re.match(r"\s*([0-9a-fA-F]{64})\b", text)
    if found is None:
        raise WeightsError(f"'{beside.name}' holds no SHA-256; remove it or {_REMEDY}.")
    return found.group(1).lower()


def _damaged(name: str, what: str) -> WeightsError:
    # Names in a hostile header may hold anything; the message stays one printable line.
    what = "".join(letter if letter.isprintable() else "?" for letter in what[:160])
    return WeightsError(f"The weights '{name}' are damaged ({what}); {_REMEDY}.")


def _read_header(content: bytes, name: str) -> tuple[dict[str, Any], int]:
    if len(content) == 0:
        raise WeightsError(f"The weights '{name}' are an empty file; {_REMEDY}.")
    if content.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x93NUMPY")):
        raise WeightsError(
            f"'{name}' is a PyTorch or NumPy file, which is never opened because it may hold programs; {_REMEDY}."
        )
    length = int.from_bytes(content[:8], "little")
    if len(content) < 9 or content[8:9] != b"{":
        raise WeightsError(f"'{name}' is not a weights file in safetensors format; {_REMEDY}.")
    if length > _MAX_HEADER or 8 + length > len(content):
        raise _damaged(name, "the file is truncated or its header length is wrong")
    try:
        header = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        raise _damaged(name, "its header cannot be read") from None
    if not isinstance(header, dict):
        raise _damaged(name, "its header cannot be read")
    return header, 8 + length


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _read_arrays(header: dict[str, Any], data: memoryview, name: str) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    ranges = []
    for key, entry in header.items():
        dtype, shape, begin, end = _read_entry(key, entry, name)
        if end > len(data):
            raise _damaged(name, f"the file is truncated: '{key}' ends beyond it")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise _damaged(name, f"'{key}' has the wrong length")
        ranges.append((begin, end, key))
        try:
            array = np.frombuffer(data[begin:end], dtype=dtype).reshape(shape)
        except ValueError:  # for example an empty array of more elements than can be counted
            raise _damaged(name, f"'{key}' has an impossible shape") from None
        if dtype.kind == "f":
            if not np.isfinite(array).all():
                raise _damaged(name, f"'{key}' has values that are not numbers")
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise _damaged(name, f"'{key}' has values that are too large")
        elif dtype.kind == "b":
            array = np.frombuffer(data[begin:end], dtype=np.uint8).reshape(shape) != 0
        else:
            array = array.astype(dtype.newbyteorder("="))
        arrays[key] = array
    position = 0
    for begin, end, key in sorted(ranges):
        if begin != position:
            raise _damaged(name, f"'{key}' overlaps its neighbour or leaves a gap")
        position = end
    if position != len(data):
        raise _damaged(name, "it has data that belong to nothing")
    return arrays


def _read_entry(key: str, entry: Any, name: str) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    if not isinstance(entry, dict):
        raise _damaged(name, f"'{key}' is not described")
    shape, offsets = _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if shape is None or offsets is None or len(shape) > 32 or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(name, f"'{key}' has an impossible shape or position")
    kind = entry.get("dtype")
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise _damaged(name, f"'{key}' is of unknown type")
    return np.dtype(_DTYPES[kind]), shape, offsets[0], offsets[1]


def _naturals(value: Any) -> Optional[tuple[int, ...]]:  # noqa: UP045
    """``value`` as a tuple if it is a list of natural numbers."""
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 2**62 for item in value):
        return tuple(value)
    return None
