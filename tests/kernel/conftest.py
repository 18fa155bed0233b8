import pytest
import torch

from recexp.kernel import library as kernels


@pytest.fixture(params=kernels.installed(), ids=lambda library: library.name)
def library(request, monkeypatch):
    """Each library that this machine can run, alone."""
    monkeypatch.setattr(kernels, "installed", lambda: [request.param])
    return request.param


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def used(monkeypatch):
    """The names of the kernels that have run."""
    names = []
    run = kernels.Kernel.__call__
    monkeypatch.setattr(
        kernels.Kernel, "__call__", lambda self, **values: (names.append(self.name), run(self, **values))[1]
    )
    return names
