"""TorchRec with FBGEMM on a CPU: tables updated within the backward pass by fused row-wise AdaGrad, the rest by Adam.

FBGEMM has no Adam on CPUs. The layers above the tables are the bare loop's, but DeepFM's without first-order weights.
"""

from worker import Job, work, timed  # isort: skip  # starts the clock

import bare_models
import torch
import torch.nn.functional as F
from drive_bare import tensors
from torch import Tensor, nn
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad


class OverTables(nn.Module):
    """DeepFM or DCN v2 on the vectors of fused tables."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        settings, sizes, dim = job.settings, job.vocabulary, job.settings["embedding_dim"]
        self.names, self.shape = list(sizes), (len(sizes), dim)
        configs = [
            EmbeddingBagConfig(name=name, embedding_dim=dim, num_embeddings=size, feature_names=[name])
            for name, size in sizes.items()
        ]
        self.tables = FusedEmbeddingBagCollection(
            tables=configs, optimizer_type=RowWiseAdagrad, optimizer_kwargs={"lr": settings["learning_rate"]}
        )
        n, hidden = len(sizes) * dim, settings["hidden_sizes"]
        self.deepfm = job.model == "deepfm"
        self.above = bare_models.mlp(n, hidden) if self.deepfm else bare_models.Cross(n, hidden, settings["n_layers"])

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, F) -> logits (B,)."""
        lengths = torch.ones(ids.numel(), dtype=torch.int32)
        x = self.tables(KeyedJaggedTensor(self.names, ids.t().flatten(), lengths=lengths)).values()  # (B, F D)
        if not self.deepfm:
            return self.above(x)
        return bare_models.pairs(x.unflatten(1, self.shape)) + self.above(x)[:, 0]


class TorchRec:
    def __init__(self, job: Job, parts: dict[str, list[Tensor]]) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self.label, self.ids = parts["train"]
        self.batch_size = job.settings["batch_size"]
        self.n_rows = min(job.max_batches * self.batch_size or len(self.label), len(self.label))
        self.model = OverTables(job)
        self.optimizer = torch.optim.Adam(self.model.above.parameters(), lr=job.settings["learning_rate"], fused=True)
        self.n_test, self.parameters = len(parts["test"][0]), sum(each.numel() for each in self.model.parameters())

    def epoch(self) -> float:
        return timed(self.train)

    def train(self) -> None:
        for rows in torch.randperm(len(self.label))[: self.n_rows].split(self.batch_size):
            self.optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(self.model(self.ids[rows]), self.label[rows]).backward()
            self.optimizer.step()

    def auc(self, part: str) -> float:
        raise NotImplementedError("only its speed is measured")


def prepare(job: Job) -> dict[str, list[Tensor]]:
    return {part: tensors(rows) for part, rows in job.rows().items()}


if __name__ == "__main__":
    work(Job(), prepare, TorchRec)
