"""The compiled kernels, called by the names that their C structures have.

kernel.h's STRUCT gives each structure to the C compiler and, as text, to this file: a member that is misspelt, missing or
of another type than C's is a TypeError here. Without a library, as without a C compiler or on another system than Linux,
torch's operations do the same in more time; so they do with RECEXP_KERNELS=0, for comparison.
"""

import ctypes
import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SWITCH = "RECEXP_KERNELS"  # environment variable: 0 leaves all work to torch
# By what torch says of the processor: the libraries it can run, the one with the widest vectors first.
BUILT = {"AVX512": ["avx512", "avx2"], "AVX2": ["avx2"]}
TYPES = {"float": torch.float32, "long": torch.int64, "unsigned char": torch.bool}  # C's, of pointers
DECLARATION = re.compile(r"(const )?(unsigned char|float|long|double|struct sum) (.*)")
NAME = re.compile(r"(\*?)(OPTIONAL )?(\w+)(?:\[(\d+)\])?")

Value = Tensor | float | None | Sequence[Tensor | float | None]


@dataclass(frozen=True)
class Member:
    """A member of a structure: its place in words of 8 bytes, and what it holds."""

    name: str
    kind: str  # long, double, read, written or sum
    dtype: torch.dtype | None
    place: int
    size: int  # entries; an array has more than one
    optional: bool


class Kernel:
    """A function of the library. It takes the members of its C structure by name."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name, self._function = name, getattr(library, name)
        text = ctypes.c_char_p.in_dll(library, f"{name}_text").value
        assert text is not None
        self.members = members(text.decode())
        self._by_name = {member.name: member for member in self.members}
        self._required = frozenset(member.name for member in self.members if not member.optional)
        last = self.members[-1]
        self._structure = ctypes.c_int64 * (last.place + last.size * _words(last.kind))
        self._out_of_range = self._by_name["out_of_range"].place if "out_of_range" in self._by_name else None

    def __call__(self, **values: Value) -> bool:
        """Runs it on as many threads as torch has. Returns whether it met an index that is out of range.

        Tensors that it reads may have any strides; those that it writes to, and sums, must be contiguous.
        Raises TypeError for members that are not as C has them.
        """
        if missing := self._required - values.keys():
            raise TypeError(f"{self.name}: missing {', '.join(sorted(missing))}")
        structure, alive = self._structure(), []
        for name, value in values.items():
            member = self._by_name.get(name)
            if member is None:
                raise TypeError(f"{self.name}: no member {name} among {', '.join(self._by_name)}")
            place, step = member.place, _words(member.kind)
            for entry in value if isinstance(value, list | tuple) else (value,):
                if isinstance(entry, Tensor):
                    entry = self._checked(member, entry)
                    alive.append(entry)
                    structure[place] = entry.data_ptr()
                    if member.kind == "sum":
                        structure[place + 1] = entry.numel()
                elif entry is not None:
                    structure[place] = self._number(member, entry)
                elif not member.optional:
                    raise TypeError(f"{self.name}: {name} is None")
                place += step
        self._function(structure, ctypes.c_long(torch.get_num_threads()))
        return self._out_of_range is not None and bool(structure[self._out_of_range])

    def _checked(self, member: Member, tensor: Tensor) -> Tensor:
        if tensor.dtype is not member.dtype or tensor.device.type != "cpu":
            raise TypeError(f"{self.name}: {member.name} is {tensor.dtype} on {tensor.device}, not {member.dtype}")
        if member.kind == "read":
            return tensor.contiguous()
        if not tensor.is_contiguous():
            raise TypeError(f"{self.name}: {member.name} is written to, but is not contiguous")
        return tensor

    def _number(self, member: Member, number: float) -> int:
        if member.kind == "double":
            return ctypes.c_int64.from_buffer(ctypes.c_double(number)).value
        if member.kind != "long" or not isinstance(number, int):
            raise TypeError(f"{self.name}: {member.name} is {number!r}, not {member.kind}")
        return number


def members(text: str) -> list[Member]:
    """The members that a structure's text declares, in order."""
    result: list[Member] = []
    place = 0
    for declaration in filter(None, (part.strip() for part in text.split(";"))):
        parsed = DECLARATION.fullmatch(declaration)
        assert parsed, declaration
        const, base, names = parsed.groups()
        for word in names.split(", "):
            match = NAME.fullmatch(word)
            assert match, word
            pointer, optional, name, size = match.groups()
            kind = ("read" if const else "written") if pointer else {"struct sum": "sum"}.get(base, base)
            dtype = torch.float32 if kind == "sum" else TYPES[base] if pointer else None
            optional_too = bool(optional) or name == "out_of_range"
            result.append(Member(name, kind, dtype, place, int(size or 1), optional_too))
            place += int(size or 1) * _words(kind)
    return result


def _words(kind: str) -> int:
    return 3 if kind == "sum" else 1


class Library:
    """The kernels of one library, whose matrices have widths that are multiples of `lanes`."""

    def __init__(self, path: Path, pool: ctypes.CDLL) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.use_threads(ctypes.cast(pool.GOMP_parallel, ctypes.c_void_p))
        self.name, self.lanes = path.stem.removeprefix("kernel_"), self._library.lanes()
        self._kernels: dict[str, Kernel] = {}

    def __getitem__(self, name: str) -> Kernel:
        kernel = self._kernels.get(name)
        if kernel is None:
            kernel = self._kernels[name] = Kernel(self._library, name)
        return kernel


def library(x: Tensor, *widths: int) -> Library | None:
    """The fastest library for x and tensors like it of these widths, None if torch has to do the work."""
    if x.device.type != "cpu" or x.dtype is not torch.float32:
        return None
    return next((each for each in installed() if all(width % each.lanes == 0 for width in widths)), None)


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
    """The OpenMP that torch has loaded, if it is GNU's."""
    paths = [*map(str, sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))), "libgomp.so.1"]
    for path in paths:
        try:
            return ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:
            continue
    return None
