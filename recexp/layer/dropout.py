"""Dropout as a layer. Srivastava et al., JMLR 2014."""

from torch import Tensor, nn

from recexp.kernel.dropout import dropout


class Dropout(nn.Dropout):
    """As nn.Dropout, but on a CPU a seed is kept for the gradient instead of a mask."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return dropout(x, self.p) if self.training else x
