"""Memory of tables is asked for in large pages."""

import sys
from pathlib import Path

import pytest
import torch

from recexp.kernel.pages import PAGE, in_large_pages


def advised(address: int) -> bool:
    """Whether the system has been asked for large pages at an address of this process."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            start, end = (int(part, 16) for part in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return "hg" in line.split()
    raise AssertionError(f"no memory at {address:#x}")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
def test_all_whole_pages_of_a_tensor_are_asked_for() -> None:
    tensor = torch.empty(5 * PAGE // 4)  # floats: five pages' worth, so at least four whole ones
    assert in_large_pages(tensor) is tensor
    first = -(-tensor.data_ptr() // PAGE) * PAGE
    assert all(advised(first + page * PAGE) for page in range(4))
    assert not tensor.zero_().any()


@pytest.mark.parametrize("tensor", [torch.ones(3), torch.empty(0), torch.empty(2**20, device="meta")])
def test_small_and_distant_tensors_stay_as_they_are(tensor: torch.Tensor) -> None:
    assert in_large_pages(tensor) is tensor
