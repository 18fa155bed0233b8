"""The compiled kernels, called with the members of their C structures by name.

kernel.h's STRUCT gives a structure to the C compiler and, as text, to this file: a member that is misspelt, missing or
of another type than C's is a TypeError here. Without a library (no C compiler, or not Linux) torch does
the same work more slowly, as it does with RECEXP_KERNELS=0, for comparison.
"""

import ctypes
import functools
import os
import re
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from recexp.kernel.device import traced

SWITCH = "RECEXP_KERNELS"  # environment variable: 0 leaves all work to torch
# The libraries that a processor, by torch's name for it, can run; widest vectors first.
BUILT = {"AVX512": ["avx512", "avx2"], "AVX2": ["avx2"]}
NARROWEST, WIDEST = 8, 16  # numbers in a register of the narrowest and of the widest library
TYPES = {  # what C's pointers point to
    "float": torch.float32, "double": torch.float64, "long": torch.int64, "int": torch.int32,
    "unsigned char": torch.bool,
}  # fmt: skip
DECLARATION = re.compile(r"(const )?(unsigned char|float|int|long|double|struct sum) (.*)")
NAME = re.compile(r"(\*?)(OPTIONAL )?(\w+)(?:\[(\d+)\])?")

Value = Tensor | float | None | Sequence[Tensor | float | None]


@dataclass(frozen=True)
class Member:
    """A member of a structure: its offset in words of 8 bytes, and what it holds."""

    name: str
    kind: str  # long, double, read, written or sum
    dtype: torch.dtype | None
    offset: int
    words: int  # per entry
    size: int  # entries; an array has more than one
    optional: bool


class Kernel:
    """A function of the library. It takes the members of its C structure by name."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name, self._function = name, getattr(library, name)
        self._function.argtypes, self._function.restype = [ctypes.c_void_p, ctypes.c_long], None
        text = ctypes.c_char_p.in_dll(library, f"{name}_text").value
        assert text is not None
        self.members = {member.name: member for member in members(text.decode())}
        self._required = frozenset(member.name for member in self.members.values() if not member.optional)
        self._n_words = sum(member.words * member.size for member in self.members.values())
        self._out_of_range = self.members["out_of_range"].offset if "out_of_range" in self.members else None

    def __call__(self, **values: Value) -> bool:
        """Runs the kernel on torch's number of threads. Returns True if it met an index that is out of range.

        Tensors that it only reads may have any strides; those that it writes to, and sums, must be contiguous. An
        array takes a list of at most as many entries.
        Raises TypeError for members that do not match C's.
        """
        if not self._required <= values.keys():
            raise TypeError(f"{self.name}: missing {', '.join(sorted(self._required - values.keys()))}")
        words, kept = array("q", bytes(8 * self._n_words)), []
        for name, value in values.items():
            member = self.members.get(name)
            if member is None:
                raise TypeError(f"{self.name}: no member {name} among {', '.join(self.members)}")
            if member.size == 1:
                kept.append(self._put(words, member, member.offset, value))
                continue
            for n, entry in enumerate(self._entries(member, value)):
                kept.append(self._put(words, member, member.offset + n * member.words, entry))
        self._function(words.buffer_info()[0], torch.get_num_threads())
        return self._out_of_range is not None and bool(words[self._out_of_range])

    def _put(self, words: "array[int]", member: Member, offset: int, entry: Value) -> Value:
        """Writes an entry into the structure's words. What it returns must live until the kernel has run."""
        if isinstance(entry, Tensor):
            if not entry.is_contiguous():
                entry = self._contiguous(member, entry)
            if entry.dtype is not member.dtype or not entry.is_cpu:
                self._refuse(member, f"{entry.dtype} on {entry.device}")
            words[offset] = entry.data_ptr()
            if member.kind == "sum":
                words[offset + 1] = entry.numel()
        elif type(entry) is int and member.kind == "long":
            words[offset] = entry
        elif entry is not None or not member.optional:
            words[offset] = self._double(member, entry)
        return entry

    def _entries(self, member: Member, value: Value) -> Sequence[Tensor | float | None]:
        if not isinstance(value, list | tuple) or not 0 < len(value) <= member.size:
            self._refuse(member, f"{value!r:.50}")
        return value

    def _contiguous(self, member: Member, tensor: Tensor) -> Tensor:
        if member.kind != "read":
            self._refuse(member, "not contiguous")
        return tensor.contiguous()

    def _double(self, member: Member, number: object) -> int:
        if member.kind != "double" or not isinstance(number, int | float):
            self._refuse(member, f"{number!r:.50}")
        return int.from_bytes(struct.pack("d", number), sys.byteorder, signed=True)

    def _refuse(self, member: Member, given: str) -> NoReturn:
        kind = member.kind if member.dtype is None else f"contiguous {member.dtype} on cpu"
        entries = f"up to {member.size} of " if member.size > 1 else ""
        raise TypeError(f"{self.name}: {member.name} is {given}, not {entries}{kind}")


def members(text: str) -> list[Member]:
    """The members that a structure's text declares, in order."""
    result: list[Member] = []
    offset = 0
    for declaration in filter(None, (part.strip() for part in text.split(";"))):
        parsed = DECLARATION.fullmatch(declaration)
        assert parsed, declaration
        const, base, names = parsed.groups()
        for declarator in names.split(", "):
            match = NAME.fullmatch(declarator)
            assert match, declarator
            pointer, optional, name, entries = match.groups()
            kind = ("read" if const else "written") if pointer else {"struct sum": "sum"}.get(base, base)
            dtype = torch.float32 if kind == "sum" else TYPES[base] if pointer else None
            words, size = 3 if kind == "sum" else 1, int(entries or 1)
            may_be_missing = bool(optional) or name == "out_of_range"
            result.append(Member(name, kind, dtype, offset, words, size, may_be_missing))
            offset += words * size
    return result


class Library:
    """The kernels of one library, for matrices whose widths are multiples of `lanes`."""

    def __init__(self, path: Path, pool: ctypes.CDLL) -> None:
        self._library = ctypes.CDLL(str(path))
        entries = pool.GOMP_parallel, pool.omp_get_thread_num
        self._library.use_threads(*(ctypes.cast(entry, ctypes.c_void_p) for entry in entries))
        self.name, self.lanes = path.stem.removeprefix("kernel_"), self._library.lanes()
        self._kernels: dict[str, Kernel] = {}

    def __getitem__(self, name: str) -> Kernel:
        kernel = self._kernels.get(name)
        if kernel is None:
            kernel = self._kernels[name] = Kernel(self._library, name)
        return kernel


def library(x: Tensor, *widths: int) -> Library | None:
    """The fastest library for tensors like x of these widths; None if torch has to do the work."""
    if not x.is_cpu or x.dtype is not torch.float32 or traced():
        return None
    for kernels in installed():
        if not any(width % kernels.lanes for width in widths):
            return kernels
    return None


def filled(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Matrices of one width with columns of 0 on the right, up to a width that kernels take, if there are kernels."""
    n_zeros = -x.shape[1] % WIDEST
    if not n_zeros or library(x, x.shape[1] + n_zeros) is None:
        return x, *others
    return tuple(F.pad(matrix, (0, n_zeros)) for matrix in (x, *others))


@functools.cache
def installed() -> list[Library]:
    """The libraries that this machine can run, the fastest first; none if kernels are switched off."""
    if os.environ.get(SWITCH) == "0":
        return []
    folder = Path(__file__).parent
    paths = [folder / f"kernel_{name}.so" for name in BUILT.get(torch.backends.cpu.get_cpu_capability(), [])]
    paths = [path for path in paths if path.exists()]
    pool = _pool() if paths else None
    return [] if pool is None else [Library(path, pool) for path in paths]


def _pool() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded, if it is GNU's."""
    paths = [*map(str, sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))), "libgomp.so.1"]
    for path in paths:
        try:
            return ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:
            continue
    return None
