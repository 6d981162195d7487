"""Large text files in blocks of lines, split into tokens and numbers without a Python loop over the lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from .raw_mesh import Integers, MeshFormatError

# Blocks fit the processor's cache; the longest line allowed keeps binary data from being collected as one line.
BLOCK_BYTES = 2 << 20
LONGEST_LINE = 32 << 20

_WHITESPACE = np.zeros(256, dtype=bool)
_WHITESPACE[list(b" \t\n\r\v\f")] = True


def line_blocks(stream: BinaryIO, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the rest of ``stream`` in blocks of whole lines; a last line without newline comes as a block of its own.

    Carriage returns become newlines (empty lines mean nothing in any mesh format). A block never ends after a
    backslash, with which OBJ files continue a line.
    """
    rest = b""
    while True:
        data = stream.read(size)
        if not data:
            break
        if b"\r" in data:
            data = data.replace(b"\r", b"\n")
        data = rest + data
        cut = data.rfind(b"\n")
        while cut > 0 and data[cut - 1 : cut] in (b"\\", b"\n"):
            cut = data.rfind(b"\n", 0, cut)
        if cut < 0:
            rest = data
            if len(rest) > LONGEST_LINE:
                raise MeshFormatError("is not a text file of this kind; export the scan again")
            continue
        rest = data[cut + 1 :]
        yield data[: cut + 1]
    if rest.strip():
        yield rest


class TokenizedLines:
    """The non-empty lines of a block of text, and where their blank-separated tokens lie.

    Attributes
    ----------
    buffer : (bytes,) uint8.
    tokens : (t,) position of the first byte of every token.
    first : (l,) index into ``tokens`` of every line's first token.
    counts : (l,) number of tokens of every line, at least 1.
    """

    def __init__(self, block: bytes) -> None:
        self.buffer = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", dtype=np.uint8)
        blank = _WHITESPACE[self.buffer]
        begins = ~blank
        begins[1:] &= blank[:-1]
        self.tokens = np.flatnonzero(begins)
        ends = np.flatnonzero(self.buffer == ord("\n"))
        up_to = np.searchsorted(self.tokens, ends)
        counts = np.diff(up_to, prepend=0)
        used = counts > 0
        self.first = (up_to - counts)[used]
        self.counts = counts[used]
        self._line_end = ends[used]

    def __len__(self) -> int:
        return len(self.first)

    def starts_with(self, keyword: bytes) -> NDArray[np.bool_]:
        """(l,) bool: the line's first token is ``keyword``."""
        position = self.tokens[self.first]
        equal = np.ones(len(position), dtype=bool)
        for offset, letter in enumerate(keyword):
            equal[equal] = self.buffer[position[equal] + offset] == letter
        equal[equal] = _WHITESPACE[self.buffer[position[equal] + len(keyword)]]
        return equal

    def floats(self, lines: Integers, skip: int, columns: int) -> NDArray[np.float64]:
        """Numbers of tokens ``skip`` ... ``skip + columns - 1`` of the given lines, (len(lines), columns).

        Raises
        ------
        MeshFormatError
            If a line has too few tokens, or one of them is no number.
        """
        if len(lines) == 0:
            return np.empty((0, columns))
        if np.any(self.counts[lines] < skip + columns):
            raise MeshFormatError("is damaged: a line holds too few numbers; export or copy the scan again")
        begin = self.tokens[self.first[lines] + skip]
        end = self._line_end[lines] + 1
        if len(lines) == lines[-1] - lines[0] + 1 and skip == 0:
            text = self.buffer[begin[0] : end[-1]].tobytes()
        else:
            change = np.zeros(len(self.buffer) + 1, dtype=np.int8)
            change[begin] = 1
            change[end] -= 1
            text = self.buffer[np.cumsum(change[:-1], dtype=np.int8).view(bool)].tobytes()
        per_line = self.counts[lines] - skip
        values = _numbers(text, int(per_line.sum()))
        if np.all(per_line == per_line[0]):
            return values.reshape(len(lines), -1)[:, :columns]
        return values[(np.cumsum(per_line) - per_line)[:, None] + np.arange(columns)]

    def integers(self, tokens: Integers, terminators: bytes = b"") -> Integers:
        """Values of the given tokens, up to a blank or to one of ``terminators`` (OBJ: ``b"/"``).

        Raises
        ------
        MeshFormatError
            If a token does not begin with an integer.
        """
        position = self.tokens[tokens]
        negative = self.buffer[position] == ord("-")
        position += negative
        digits_begin = position.copy()
        values = np.zeros(len(position), dtype=np.int64)
        for _ in range(18):
            digits = self.buffer[position] - np.uint8(ord("0"))
            active = digits < 10
            if not active.any():
                break
            values = np.where(active, values * 10 + digits, values)
            position += active
        ended = _WHITESPACE.copy()
        ended[list(terminators)] = True
        if not np.all(ended[self.buffer[position]] & (position > digits_begin)):
            raise MeshFormatError("is damaged: a face is not made of whole numbers; export or copy the scan again")
        return np.where(negative, -values, values)


def _numbers(text: bytes, expected: int) -> NDArray[np.float64]:
    """The ``expected`` blank-separated numbers of ``text``, correctly rounded; 'nan' and 'inf' are numbers too."""
    try:
        values = np.fromstring(text, dtype=np.float64, sep=" ")
    except (ValueError, DeprecationWarning):  # the latter where older numpy's warnings are turned into errors
        values = np.empty(0)
    if len(values) != expected:
        raise MeshFormatError(
            "is damaged: something else stands where a number should be; export or copy the scan again"
        )
    return values
