"""A contender of `glm.py`: GLM written plainly, as its publication and the original's description read.

One fused projection, a float mask [rows, 1, queries, keys] that is multiplied and added, the softmax written out,
logits at every token, a memory of hidden states whose keys and values are computed again for each new token, AdamW as
it comes. It knows nothing of flagai.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from glm_peer_case import LEARNING_RATE, MAX_NORM, WEIGHT_DECAY, Case, batch, load, prompt
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.heads = case.heads
        self.query_key_value = nn.Linear(case.hidden, 3 * case.hidden)
        self.dense = nn.Linear(case.hidden, case.hidden)
        self.dropout = nn.Dropout(case.dropout)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None) -> Tensor:
        rows, queries, hidden = x.shape
        whole = x if memory is None else torch.cat([memory, x], 1)
        q, k, v = (
            part.view(rows, -1, self.heads, hidden // self.heads).transpose(1, 2)
            for part in self.query_key_value(whole).chunk(3, -1)
        )
        scores = q[:, :, -queries:] @ k.mT / math.sqrt(hidden // self.heads)
        scores = scores * mask - 65504.0 * (1 - mask)
        mixed = self.dropout(torch.softmax(scores, -1)) @ v
        return self.dense(mixed.transpose(1, 2).reshape(rows, queries, hidden))


class Inner(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(case.hidden, 4 * case.hidden)
        self.dense_4h_to_h = nn.Linear(4 * case.hidden, case.hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dense_h_to_4h(x)
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return self.dense_4h_to_h(x)


class Layer(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(case.hidden)
        self.attention = Attention(case)
        self.post_attention_layernorm = nn.LayerNorm(case.hidden)
        self.mlp = Inner(case)
        self.dropout = nn.Dropout(case.dropout)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None) -> Tensor:
        before = None if memory is None else self.input_layernorm(memory)
        x = x + self.dropout(self.attention(self.input_layernorm(x), mask, before))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Transformer(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.position_embeddings = nn.Embedding(case.positions + 1, case.hidden)
        self.block_position_embeddings = nn.Embedding(case.positions + 1, case.hidden)
        self.layers = nn.ModuleList(Layer(case) for _ in range(case.layers))
        self.final_layernorm = nn.LayerNorm(case.hidden)
        self.dropout = nn.Dropout(case.dropout)


class GLM(nn.Module):
    """(input_ids, position_ids, context_length, memory) → logits, and the memory with the new tokens in it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(case.vocab, case.hidden)
        self.transformer = Transformer(case)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, context_length: Tensor, memory: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        inner = self.transformer
        x = self.word_embeddings(input_ids) + inner.position_embeddings(position_ids[:, 0])
        x = inner.dropout(x + inner.block_position_embeddings(position_ids[:, 1]))
        mask = _mask(x, context_length, 0 if memory is None else memory[0].shape[1])
        kept = [x.detach()]
        for number, layer in enumerate(inner.layers):
            x = layer(x, mask, None if memory is None else memory[number])
            kept.append(x.detach())
        if memory is not None:
            kept = [torch.cat(both, 1) for both in zip(memory, kept, strict=True)]
        return F.linear(inner.final_layernorm(x), self.word_embeddings.weight), kept


def _mask(x: Tensor, context_length: Tensor, past: int) -> Tensor:
    rows, queries, _ = x.shape
    columns = torch.arange(queries, device=x.device)
    seen = (columns <= columns[:, None]) | (columns < context_length[:, None, None])
    return torch.cat([x.new_ones(rows, queries, past), seen.to(x.dtype).expand(rows, -1, -1)], -1)[:, None]


class Dense:
    """The contender."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model = GLM(case)
        load(self.model, case)
        self.model.to(case.device)
        self.batch = batch(case)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=LEARNING_RATE,
        )

    @torch.no_grad()
    def forward(self) -> Tensor:
        self.model.eval()
        return self.model(self.batch["input_ids"], self.batch["position_ids"], self.batch["context_length"])[0]

    def train(self) -> float:
        self.model.train()
        logits, _ = self.model(self.batch["input_ids"], self.batch["position_ids"], self.batch["context_length"])
        loss = F.cross_entropy(logits.flatten(0, 1), self.batch["labels"].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    @torch.no_grad()
    def generate(self) -> list[int]:
        self.model.eval()
        device = self.case.device
        context = torch.tensor([prompt(self.case)], device=device)
        place = context.shape[1] - 1
        positions = torch.stack([torch.arange(place + 1, device=device), torch.zeros_like(context[0])])[None]
        _, memory = self.model(context, positions, torch.tensor([place + 1], device=device))
        last, answer = self.case.command("sop"), []
        while len(answer) < self.case.answer:
            positions = torch.tensor([[[place], [len(answer) + 1]]], device=device)
            token = torch.tensor([[last]], device=device)
            logits, memory = self.model(token, positions, torch.zeros(1, dtype=torch.long, device=device), memory)
            last = int(logits[0, -1].argmax())
            answer.append(last)
        return answer
