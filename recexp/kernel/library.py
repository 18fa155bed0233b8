"""The kernels of kernel.c, which are compiled when recexp is installed, for threads of torch's own pool.

Where they are missing, as without a C compiler or on another system than Linux, torch's operations do the same in more
time. environment.json says which kernels a run found.
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

# By what torch says of the processor: the libraries it can run, the one with the widest vectors first.
BUILT = {"AVX512": ["avx512", "avx2"], "AVX2": ["avx2"]}
KNOWN = (torch.float32, torch.int64, torch.bool)  # what kernel.c calls float, long and unsigned char
SUMS = 8  # of kernel.c


class Kernels:
    """A library of kernels whose matrices have widths that are multiples of `lanes`."""

    def __init__(self, path: Path, pool: ctypes.CDLL):
        self._library = ctypes.CDLL(str(path))
        self._library.use_threads(ctypes.cast(pool.GOMP_parallel, ctypes.c_void_p))
        self.name, self.lanes = path.stem.removeprefix("kernel_"), self._library.lanes()

    def __call__(self, name: str, *members: Tensor | float | None, sums: Sequence[Tensor | None] = ()) -> list[int]:
        """Runs a kernel on the members of its structure in kernel.c, in order, null for None; what it leaves there.

        sums: tensors that it fills with sums over rows, as gradients of weights are. Those and others that it writes
        to have to be contiguous; of what is read and is not it gets a copy.
        """
        alive = [each if each is None or isinstance(each, int | float) else each.contiguous() for each in members]
        words = [*map(_word, alive)]
        if sums:
            assert all(each is None or each.is_contiguous() for each in sums)
            none = [0] * (SUMS - len(sums))
            sizes = [0 if each is None else each.numel() for each in sums]
            words += [*map(_word, sums), *none, *sizes, *none, 0]
        structure = (ctypes.c_int64 * len(words))(*words)
        getattr(self._library, name)(structure, ctypes.c_long(torch.get_num_threads()))
        return structure[: len(members)]


def _word(member: Tensor | float | None) -> int:
    """The 8 bytes of a pointer, a long or a double."""
    if isinstance(member, int):
        return member
    if member is None:
        return 0
    if isinstance(member, float):
        return ctypes.c_int64.from_buffer(ctypes.c_double(member)).value
    assert member.dtype in KNOWN, member.dtype
    return member.data_ptr()


def kernels(x: Tensor, *widths: int) -> Kernels | None:
    """The fastest kernels for x and tensors like it of these widths, None where torch has to do the work."""
    if x.device.type != "cpu" or x.dtype is not torch.float32:
        return None
    return next((each for each in installed() if all(width % each.lanes == 0 for width in widths)), None)


def known_kernels(x: Tensor, *widths: int) -> Kernels:
    """What `kernels` gives where it gives some."""
    found = kernels(x, *widths)
    assert found is not None, widths
    return found


@functools.cache
def installed() -> list[Kernels]:
    """What this machine can run, the fastest first."""
    folder = Path(__file__).parent
    paths = [folder / f"kernel_{each}.so" for each in BUILT.get(torch.backends.cpu.get_cpu_capability(), [])]
    paths = [path for path in paths if path.exists()]
    pool = _pool() if paths else None
    return [] if pool is None else [Kernels(path, pool) for path in paths]


def _pool() -> ctypes.CDLL | None:
    """The OpenMP that torch has loaded, if it is GNU's."""
    paths = [*map(str, sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))), "libgomp.so.1"]
    for path in paths:
        try:
            return ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:
            continue
    return None
