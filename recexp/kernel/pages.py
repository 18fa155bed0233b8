"""Memory in large pages, for tables whose rows are read in no order.

A page of 4 KB holds 64 rows of 16 numbers, so nearly each row of a large table is in another page than the one before,
and finding the page takes as long as reading the row. Of pages of 2 MB there are few enough for the processor's TLB.
"""

import ctypes
import sys

from torch import Tensor

ADVICE, PAGE = 14, 2**21  # MADV_HUGEPAGE of Linux; the page's bytes


def in_large_pages(tensor: Tensor) -> Tensor:
    """Asks the system for large pages, for a tensor on a CPU whose memory is new: nothing has been written to it yet.

    The tensor itself; on other systems nothing else happens.
    """
    if tensor.nbytes < PAGE or not tensor.is_cpu or sys.platform != "linux":
        return tensor
    start = -(-tensor.data_ptr() // PAGE) * PAGE
    size = (tensor.data_ptr() + tensor.nbytes - start) // PAGE * PAGE
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), ADVICE)
    return tensor
