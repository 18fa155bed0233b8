"""Least squares of alternating matrix factorisation: the factors of all rows at once, with those of the columns fixed.

N observations of a matrix, each a row, a column and a value; O those of one row; D factors, Y (M, D) of the M columns
Zhou et al., ALS-WR, AAIM 2008      x = (Y_O^T Y_O + l |O| I)^-1 Y_O^T r,  r the values
Hu et al., ICDM 2008, eq. 4         x = (Y^T Y + Y_O^T (C - I) Y_O + l I)^-1 Y_O^T c,  c the confidences, C = diag(c)

The second is least squares over all cells of the row, p = 1 and confidence c where observed, p = 0 and confidence 1
elsewhere; Y^T Y is shared by all rows, so a half-step costs O(N D^2 + rows D^3) either way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 2**20  # elements of the largest tensor, 8 MiB of doubles: slower beyond the cache


class Rows:
    """The observations of each row of a matrix. A pair that is observed twice counts twice."""

    def __init__(self, row: Tensor, column: Tensor, n_rows: int) -> None:
        """row, column (N,) of each observation."""
        self.column = column
        self.order = torch.argsort(row, stable=True)
        self.count = torch.bincount(row, minlength=n_rows)
        self.start = self.count.cumsum(0) - self.count
        self.groups: list[tuple[int, Tensor]] = []
        longest, length = int(self.count.max()), 1
        while length < 2 * longest:  # groups of rows of similar count: at most half of what is gathered is padding
            rows = torch.nonzero((self.count > length // 2) & (self.count <= length))[:, 0]
            if len(rows):
                self.groups.append((length, rows))
            length *= 2

    def solve(self, factors: Tensor, weight: Tensor, target: Tensor, gram: Tensor, ridge: Tensor) -> Tensor:
        """x = (G + Y_O^T W Y_O + ridge I)^-1 Y_O^T t of each row, 0 without observations: (rows, D).

        factors Y (M, D), gram G (D, D), weight W and target t (N,) of each observation, ridge (rows,) above 0.
        """
        dim = factors.shape[1]
        solution = factors.new_zeros(len(self.count), dim)
        for length, rows in self.groups:
            for chunk in rows.split(max(1, LARGEST // (dim * max(length, dim)))):
                observed, mask = self._observations(chunk, length)
                y = F.embedding(self.column[observed], factors)  # (n, length, D)
                w, t = (value[observed].masked_fill(~mask, 0)[:, :, None] for value in (weight, target))
                matrix = torch.baddbmm(gram, (w * y).transpose(1, 2), y)  # (n, D, D)
                matrix.diagonal(dim1=1, dim2=2).add_(ridge[chunk][:, None])
                lower, _ = torch.linalg.cholesky_ex(matrix, check_errors=True)
                solution[chunk] = torch.cholesky_solve(y.transpose(1, 2) @ t, lower)[:, :, 0]
        return solution

    def _observations(self, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The observations (n, length) of n rows, right-padded, and the mask (n, length)."""
        step = torch.arange(length, device=rows.device)
        mask = step < self.count[rows][:, None]
        return self.order[torch.where(mask, self.start[rows][:, None] + step, 0)], mask


def weighted_ridge(rows: Rows, factors: Tensor, value: Tensor, strength: float) -> Tensor:
    """ALS-WR: values (N,) -> factors (rows, D). The ridge is proportional to a row's number of observations."""
    dim = factors.shape[1]
    ridge = strength * rows.count.to(factors.dtype)
    return rows.solve(factors, torch.ones_like(value), value, factors.new_zeros(dim, dim), ridge)


def confident_ridge(rows: Rows, factors: Tensor, confidence: Tensor, strength: float) -> Tensor:
    """Hu et al.: confidences (N,) above 1, one per pair -> factors (rows, D)."""
    ridge = torch.full_like(rows.count, strength, dtype=factors.dtype)
    return rows.solve(factors, confidence - 1, confidence, factors.T @ factors, ridge)
