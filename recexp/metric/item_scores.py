"""Scores many items for each user, by the cheapest of the methods that a model has.

b users of a block, N candidates, S of them for each user, V item ids
    query(batch) (B, D) and item_vectors() (V, D)         the logit is their product; vectors_of(items) (N, D) instead
                                                          of item_vectors if they depend on the fields of items
    scores(batch) (B, V)                                  the logits of all ids at once
    score(batch, items)                                   what depends only on the user is computed once
    forward(batch)                                        of each pair of user and item
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch, Batches, Samples
from recexp.kernel.linear import times
from recexp.model import Output, reads_history

LARGEST = 2**23  # scores of a block of users; choosing the best of them takes some 200 MB


class ItemScores:
    """Scores the candidates for any rows of the log. The size of a step changes scores by rounding at most."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        split: str,
        candidates: Tensor,
        size: int,
        precision: AbstractContextManager | None = None,
        task: int = 0,
    ) -> None:
        """candidates: (N,) rows of items. size: users, or pairs of a user and an item, in one step.

        task: which of several labels the logits are of, counted from 0.
        """
        model.eval()
        self.model = cast(Any, model)
        self.batches, self.split, self.candidates, self.size, self.task = batches, split, candidates, size, task
        self.precision = precision or nullcontext()
        self.longest = None if reads_history(model) else 0
        self.vectors: Tensor | None = None  # (N, D)
        self.ids = batches.catalogue.items.ids[candidates, 0]  # (N,)
        with torch.inference_mode():
            if hasattr(self.model, "item_vectors"):
                self.vectors = self.model.item_vectors().float()[self.ids]
            elif hasattr(self.model, "vectors_of"):
                with self.precision:
                    self.vectors = self.model.vectors_of(batches.catalogue.items.at(candidates)).float()

    @property
    def block(self) -> int:
        """The number of users whose scores are held at once."""
        return max(1, LARGEST // max(1, len(self.candidates)))

    @torch.inference_mode()
    def of(self, row: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Logits (b, N) for the users of some rows (b,); minus infinity for what is not chosen (b, N).

        Raises FloatingPointError if one is not finite.
        """
        if self.vectors is not None:
            scores = self._products(row, self.vectors)
        elif hasattr(self.model, "scores"):
            scores = self._all(row)
        elif chosen is None:
            scores = self._some(row, self.candidates.expand(len(row), -1))
        else:
            n_each = int(chosen.sum(1).max())
            columns = chosen.byte().topk(n_each, dim=1).indices  # (b, S), also others for a user with fewer
            some = self._some(row, self.candidates[columns])
            scores = some.new_zeros(chosen.shape).scatter_(1, columns, some)
        if not scores.sum(1).isfinite().all():
            raise FloatingPointError(f"scores of {self.split} are not finite")
        return scores if chosen is None else scores.masked_fill_(~chosen, -torch.inf)

    def _products(self, row: Tensor, vectors: Tensor) -> Tensor:
        queries = []
        for rows in row.split(self.size):
            with self.precision:
                queries.append(self.model.query(self._gathered(Samples(rows))).float())
        return times(torch.cat(queries), vectors)

    def _all(self, row: Tensor) -> Tensor:
        scores = []
        for rows in row.split(self.size):
            with self.precision:
                scores.append(self.model.scores(self._gathered(Samples(rows))).float()[:, self.ids])
        return torch.cat(scores)

    def _some(self, row: Tensor, items: Tensor) -> Tensor:
        """Logits (b, S) of items, rows of the catalogue's table (b, S)."""
        scores = torch.empty(items.shape, device=items.device)
        if hasattr(self.model, "score"):
            self._fill_by_user(scores, row, items)
        else:
            self._fill_by_pair(scores.view(-1), row, items)
        return scores

    def _fill_by_user(self, scores: Tensor, row: Tensor, items: Tensor) -> None:
        n_users = max(1, self.size // max(1, items.shape[1]))
        for start in range(0, len(row), n_users):
            users = slice(start, start + n_users)
            batch = self._gathered(Samples(row[users]))
            for first in range(0, items.shape[1], self.size):
                columns = slice(first, first + self.size)
                with self.precision:
                    scores[users, columns] = self.model.score(batch, items[users, columns]).float()

    def _fill_by_pair(self, scores: Tensor, row: Tensor, items: Tensor) -> None:
        """scores: (b S,)."""
        for start in range(0, len(scores), self.size):
            user, column = unravel(torch.arange(start, min(start + self.size, len(scores)), device=row.device), items)
            samples = Samples(row[user], item=items[user, column])
            with self.precision:
                scores[start : start + self.size] = self._of_task(self.model(self._gathered(samples)))

    def _of_task(self, output: Output) -> Tensor:
        return output.by_task[:, self.task].float()

    def _gathered(self, samples: Samples) -> Batch:
        return self.batches.gather(samples, self.split, self.longest)


def unravel(pair: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of pairs (n,) numbered along the rows of a matrix."""
    return pair // items.shape[1], pair % items.shape[1]
