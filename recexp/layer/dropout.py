"""Dropout as a layer. Srivastava et al., JMLR 2014."""

from torch import Tensor, nn

from recexp.kernel.dropout import dropout


class Dropout(nn.Dropout):
    """Torch's, but a CPU keeps no array of what it drops."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return dropout(x, self.p) if self.training else x
