"""Our own heads on top of Hugging Face bodies: `head(outputs, attention_mask) -> {"logits": …}`.

It knows no task and no loss: a head turns hidden states (or a body's own logits) into tensors and holds their weights.
Linear-chain CRF and GlobalPointer have modules of their own and are named here too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flagai.errors import ModelError
from flagai.models.crf import CRF
from flagai.models.global_pointer import GlobalPointer
from flagai.models.pooling import check_pooling, pool, require_output

if TYPE_CHECKING:
    import numpy as np
    from transformers.utils.generic import ModelOutput

__all__ = ["CRF", "Cosine", "GlobalPointer", "Pooled", "PooledLinear", "pool", "start_from_class_means"]

# The usual spread for a new layer on a pretrained body (BERT, appendix A.2 of its code release: 0.02).
_INIT_STD = 0.02


class PooledLinear(nn.Module):
    """Pooling, dropout, one linear layer: logits [B, num_labels].

    Args:
        hidden_size: H of the body.
        num_labels: number of classes.
        pooling: see `pool`.
        dropout: applied to the pooled vector in training.
    """

    def __init__(self, hidden_size: int, num_labels: int, *, pooling: str = "mean", dropout: float = 0.1) -> None:
        super().__init__()
        check_pooling(pooling)
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_labels)
        nn.init.normal_(self.classifier.weight, std=_INIT_STD)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, outputs: ModelOutput, attention_mask: Tensor) -> dict[str, Tensor]:
        """last_hidden_state [B, L, H], attention_mask [B, L] → logits [B, C]."""
        pooled = pool(require_output(outputs, "last_hidden_state"), attention_mask, self.pooling)
        return {"logits": self.classifier(self.dropout(pooled).to(self.classifier.weight.dtype))}


class Cosine(nn.Module):
    """Cosine between the pooled vector and one vector a class, times a scale.

    Outputs: logits [B, num_labels] and embedding [B, H], the pooled vector of length one.

    logit_c = scale · ⟨x/‖x‖, w_c/‖w_c‖⟩ (NormFace: Wang et al. 2017, section 3.3). With class vectors started from the
    class means (`start_from_class_means`) the untrained head is already the nearest-centroid classifier.

    Args:
        hidden_size: H of the body.
        num_labels: number of classes.
        pooling: see `pool`.
        dropout: applied to the pooled vector in training.
        scale: the factor, or where it starts when learned; must be positive.
        learn_scale: whether the scale is trained (as its logarithm, so that it stays positive).
    """

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        *,
        pooling: str = "mean",
        dropout: float = 0.0,
        scale: float = 20.0,
        learn_scale: bool = False,
    ) -> None:
        super().__init__()
        check_pooling(pooling)
        if not scale > 0:
            raise ModelError(f"the scale of a cosine head is {scale}", expected="a positive number", fix="try 20")
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.fixed_scale = scale
        self.class_vectors = nn.Parameter(nn.functional.normalize(torch.randn(num_labels, hidden_size), dim=-1))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if learn_scale else None

    def forward(self, outputs: ModelOutput, attention_mask: Tensor) -> dict[str, Tensor]:
        """last_hidden_state [B, L, H], attention_mask [B, L] → logits [B, C], embedding [B, H]."""
        pooled = pool(require_output(outputs, "last_hidden_state"), attention_mask, self.pooling)
        unit = nn.functional.normalize(self.dropout(pooled), dim=-1)
        classes = nn.functional.normalize(self.class_vectors.to(unit.dtype), dim=-1)
        scale = self.fixed_scale if self.log_scale is None else self.log_scale.exp()
        return {"logits": scale * nn.functional.linear(unit, classes), "embedding": unit}


@torch.no_grad()
def start_from_class_means(head: Cosine, embeddings: np.ndarray | Tensor, labels: np.ndarray | Tensor) -> None:
    """Set each class vector to the direction of the mean of its normalised examples.

    Args:
        head: changed in place.
        embeddings: [N, H], pooled the way the head pools (its output `embedding` in evaluation mode).
        labels: [N] class ids. A class without an example keeps its random start.
    """
    vectors = head.class_vectors
    unit = nn.functional.normalize(torch.as_tensor(embeddings).to(vectors.device, torch.float32), dim=-1)
    labels = torch.as_tensor(labels).to(vectors.device, torch.int64)
    sums = torch.zeros(vectors.shape, device=vectors.device).index_add_(0, labels, unit)
    seen = torch.bincount(labels, minlength=len(sums)) > 0
    means = nn.functional.normalize(sums, dim=-1).to(vectors.dtype)
    vectors.copy_(torch.where(seen[:, None], means, vectors))


class Pooled(nn.Module):
    """The pooled vector itself, without parameters: embedding [B, H], of length one if `normalize`.

    `num_labels` is taken because every head is made alike; it has no influence.
    """

    def __init__(self, hidden_size: int, num_labels: int = 0, *, pooling: str = "mean", normalize: bool = True) -> None:
        super().__init__()
        check_pooling(pooling)
        self.pooling, self.normalize = pooling, normalize

    def forward(self, outputs: ModelOutput, attention_mask: Tensor) -> dict[str, Tensor]:
        """last_hidden_state [B, L, H], attention_mask [B, L] → embedding [B, H]."""
        pooled = pool(require_output(outputs, "last_hidden_state"), attention_mask, self.pooling)
        return {"embedding": nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled}
