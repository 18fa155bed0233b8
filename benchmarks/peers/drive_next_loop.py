"""A plain PyTorch loop for next items: windows padded to one length, losses at events alone, fused Adam.

B batch, L length, D size, T events of a batch that have a next one, V items, S negatives
"""

from worker import Job, work  # isort: skip  # starts the clock

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ranker import K, clock_of, measure, ranking_job, read_log
from torch import Tensor, nn


class SASRec(nn.Module):
    """One pre-norm block. Padding stands on the right, so the causal mask hides it from all events."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        dim, self.dropout = settings["embedding_dim"], settings["dropout"]
        self.n_heads = settings["n_heads"]
        self.position = nn.Embedding(settings["max_history"], dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.inner, self.outer = nn.Linear(dim, settings["hidden_size"]), nn.Linear(settings["hidden_size"], dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = self.drop(x + self.position.weight)
        heads = self.qkv(self.norms[0](x)).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(*heads, dropout_p=rate, is_causal=True)  # (B, heads, L, D / heads)
        x = x + self.drop(self.out(attended.transpose(1, 2).flatten(2)))
        x = x + self.drop(self.outer(self.drop(F.relu(self.inner(self.norms[1](x))))))
        return self.norms[2](x)

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class GRU4Rec(nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        dim = settings["embedding_dim"]
        self.dropout, self.gru = nn.Dropout(settings["dropout"]), nn.GRU(dim, dim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.dropout(self.gru(self.dropout(x))[0])


class Model(nn.Module):
    """Item vectors, 0 for padding, and an encoder whose output is multiplied by them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        encoder = {"sasrec": SASRec, "gru4rec": GRU4Rec}[settings["model"]]
        self.item = nn.Embedding(settings["n_items"] + 1, settings["embedding_dim"], padding_idx=0)
        nn.init.normal_(self.item.weight, std=0.02)
        self.encoder = encoder(settings)

    def forward(self, item: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        return self.encoder(self.item(item))


def prepare(job: Job) -> tuple[list[np.ndarray], Tensor, Tensor]:
    """The log, and the inputs and targets (n, L) of all windows with a next item."""
    log, length = read_log(job), job.settings["max_history"]
    training = [items[:-2][-length - 1 :] for items in log if len(items) > 3]
    return log, padded([items[:-1] for items in training], length), padded([items[1:] for items in training], length)


def padded(rows: list[np.ndarray], length: int) -> Tensor:
    """(n, L), 0 on the right."""
    table = np.zeros((len(rows), length), np.int64)
    for row, items in zip(table, rows, strict=True):
        row[: len(items)] = items
    return torch.from_numpy(table)


def loss_of(model: Model, item: Tensor, target: Tensor, settings: dict[str, Any]) -> Tensor:
    """Cross-entropy over all items, or over the target and S uniform negatives, an event's own or shared by all."""
    kept = target > 0
    states, target = model(item)[kept], target[kept]  # (T, D), (T,)
    table, n, loss = model.item.weight, settings["n_negatives"], settings["loss"]
    if loss == "full":
        return F.cross_entropy(states @ table[1:].T, target - 1)
    negatives = torch.randint(1, len(table), (n,) if loss == "shared" else (len(target), n))
    if loss == "shared":
        own, others = (states * model.item(target)).sum(1, keepdim=True), states @ model.item(negatives).T
        logits = torch.cat([own, others], 1)  # (T, 1 + S)
    else:
        vectors = model.item(torch.cat([target[:, None], negatives], 1))  # (T, 1 + S, D)
        logits = torch.bmm(vectors, states[:, :, None])[:, :, 0]
    hit = F.pad(negatives == target[:, None], (1, 0))
    return F.cross_entropy(logits.masked_fill(hit, -torch.inf), torch.zeros_like(target))


class Loop:
    def __init__(self, job: Job, prepared: tuple[list[np.ndarray], Tensor, Tensor]) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self.settings, self.clock = job.settings, clock_of(job)
        self.log, self.item, self.target = prepared
        self.model = Model(job.settings)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=job.settings["learning_rate"], fused=True)
        self.n_epoch, self.n_users = len(self.item), len(self.log)
        limit = job.max_batches * job.settings["batch_size"]
        self.n_rows = min(self.n_epoch, limit) if limit else self.n_epoch

    def epoch(self) -> float:
        began = self.clock()
        self.model.train()
        for rows in torch.randperm(self.n_epoch)[: self.n_rows].split(self.settings["batch_size"]):
            self.optimizer.zero_grad()
            loss_of(self.model, self.item[rows], self.target[rows], self.settings).backward()
            self.optimizer.step()
        return self.clock() - began

    @torch.inference_mode()
    def rank(self) -> float:
        """Users in blocks: scores of all items but those seen, and the best of them."""
        self.model.eval()
        length, size = self.settings["max_history"], self.settings["eval_batch_size"]
        hits = 0
        for start in range(0, self.n_users, size):
            users = self.log[start : start + size]
            past = [items[:-1] for items in users]
            item = padded([items[-length:] for items in past], length)
            last = (item > 0).sum(1) - 1
            scores = self.model(item)[torch.arange(len(users)), last] @ self.model.item.weight[1:].T  # (b, V)
            of = np.repeat(np.arange(len(users)), [len(items) for items in past])
            scores[torch.from_numpy(of), torch.from_numpy(np.concatenate(past)) - 1] = -torch.inf
            best = scores.topk(K).indices + 1
            hits += int((best == torch.tensor([[items[-1]] for items in users])).sum())
        return hits / self.n_users


if __name__ == "__main__":
    work(ranking_job(), prepare, Loop, measure)
