"""The bare loop: plain PyTorch on prepared tensors, fused Adam, no framework, no logging, no metric except AUC."""

from worker import Job, Rows, timed, work  # isort: skip  # starts the clock

import bare_models
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor


def prepare(job: Job) -> dict[str, list[Tensor]]:
    return {part: tensors(rows) for part, rows in job.rows().items()}


def tensors(rows: Rows) -> list[Tensor]:
    """The label, then the inputs of the model's forward."""
    columns = {name: torch.from_numpy(column).long() for name, column in rows.columns.items()}
    label = torch.from_numpy(rows.label)
    if rows.history is None:
        return [label, torch.stack(list(columns.values()), 1)]
    return [label, columns["user"], columns["item"], torch.from_numpy(rows.history).long()]


class Loop:
    def __init__(self, job: Job, parts: dict[str, list[Tensor]]) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self.settings, self.parts = job.settings, parts
        self.model = bare_models.build(job.model, job.settings)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=job.settings["learning_rate"], fused=True)
        self.n_rows = len(parts["train"][0])
        if job.max_batches:
            self.n_rows = min(job.max_batches * job.settings["batch_size"], self.n_rows)
        self.n_test = len(parts["test"][0])
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def epoch(self) -> float:
        return timed(self.train)

    def train(self) -> None:
        self.model.train()
        for rows in torch.randperm(len(self.parts["train"][0]))[: self.n_rows].split(self.settings["batch_size"]):
            label, *inputs = (column[rows] for column in self.parts["train"])
            self.optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(self.model(*inputs), label).backward()
            self.optimizer.step()

    @torch.inference_mode()
    def auc(self, part: str) -> float:
        self.model.eval()
        label, *inputs = self.parts[part]
        batches = zip(*(column.split(self.settings["eval_batch_size"]) for column in inputs), strict=True)
        return roc_auc_score(label, torch.cat([self.model(*batch) for batch in batches]))


if __name__ == "__main__":
    work(Job(), prepare, Loop)
