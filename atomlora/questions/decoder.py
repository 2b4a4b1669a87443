"""A small Llama decoder for many short continuations of few shared prefixes.

Every atom has one prefix and every candidate of it is a *row* that continues the prefix. The prefix's K/V
is kept once per atom and never expanded over rows: the queries of an atom's rows (and of the heads that
share a K/V head) are laid side by side and multiplied with it in one product, then merged with the scores
over the row's own short K/V in one softmax. Rows of one atom may have suffixes of different length;
finished rows leave the batch.

Weights are a private copy with an adapter's deltas merged (W + alpha/r B A), so that the base model that is
handed in stays untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

# (layer, module) -> (A (r, d_in), B (d_out, r) with the scaling in it); kept as factors, which are 30 times
# smaller.
Deltas = Mapping[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]
_Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_HEAD_ROWS = 512  # rows of logits at a time: 100 MB at a vocabulary of 49,152


@dataclass(frozen=True)
class _Layer:
    """Norms (d,), qkv ((H + 2 K) hd, d), o (d, H hd), gate_up (2 m, d), down (d, m)."""

    norm_attention: torch.Tensor
    qkv: torch.Tensor
    o: torch.Tensor
    norm_mlp: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass(frozen=True)
class Prefixes:
    """K/V of the atoms' prefixes: keys, values (layers, atoms, kv_heads, P, head_dim) float32; lengths
    (atoms,)."""

    keys: torch.Tensor
    values: torch.Tensor
    lengths: torch.Tensor


@dataclass
class Rows:
    """Continuations: `atom` (R,) is the prefix of each row, `position` (R,) its next position; keys, values
    (layers, R, kv_heads, S, head_dim) float32 and `filled` (R, S) of which the first `used` columns count."""

    atom: torch.Tensor
    position: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    filled: torch.Tensor
    used: int = 0

    def keep(self, rows: torch.Tensor) -> Rows:
        """Only the given rows (indices), in their order."""
        return Rows(
            self.atom[rows],
            self.position[rows],
            self.keys[:, rows],
            self.values[:, rows],
            self.filled[rows],
            self.used,
        )


class PrefixDecoder:
    """Forward passes of a Llama model with B A of `deltas[(layer, module)]` added to its linear weights.

    `model` is a loaded LlamaForCausalLM; the copy lives on its device in `dtype` (default: the model's own).
    """

    def __init__(self, model: Any, deltas: Deltas, dtype: torch.dtype | None = None) -> None:
        config, body = model.config, model.model
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.epsilon = config.rms_norm_eps
        self.dtype = dtype or body.embed_tokens.weight.dtype
        self.device = body.embed_tokens.weight.device
        self._rotary = body.rotary_emb
        self._embedding = self._copy(body.embed_tokens.weight)
        tied = model.lm_head.weight is body.embed_tokens.weight
        self._head = self._embedding if tied else self._copy(model.lm_head.weight)
        self._norm = self._copy(body.norm.weight)
        self._layers = [self._layer(number, layer, deltas) for number, layer in enumerate(body.layers)]

    def _copy(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.detach().to(self.dtype)

    def _layer(self, number: int, layer: Any, deltas: Deltas) -> _Layer:
        def merged(owner: Any, name: str) -> torch.Tensor:
            weight: torch.Tensor = getattr(owner, name).weight.detach()
            delta = deltas.get((number, name))
            if delta is not None:  # added in float32, rounded once
                a, b = (factor.to(device=weight.device, dtype=torch.float32) for factor in delta)
                weight = weight.float() + b @ a
            return weight.to(self.dtype)

        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            norm_attention=self._copy(layer.input_layernorm.weight),
            qkv=torch.cat([merged(attention, name) for name in ("q_proj", "k_proj", "v_proj")]),
            o=merged(attention, "o_proj"),
            norm_mlp=self._copy(layer.post_attention_layernorm.weight),
            gate_up=torch.cat([merged(mlp, name) for name in ("gate_proj", "up_proj")]),
            down=merged(mlp, "down_proj"),
        )

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefixes:
        """K/V of each prompt (token ids, at least one)."""
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        ids = torch.zeros(len(prompts), max(len(p) for p in prompts), dtype=torch.long, device=self.device)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(list(prompt), device=self.device)
        positions = torch.arange(ids.shape[1], device=self.device).expand(ids.shape)
        shape = (len(self._layers), len(prompts), self.kv_heads, ids.shape[1], self.head_dim)
        store = Prefixes(torch.zeros(shape, device=self.device), torch.zeros(shape, device=self.device), lengths)

        def attend(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            store.keys[number], store.values[number] = k.transpose(1, 2), v.transpose(1, 2)
            # Right padding and a causal mask: no real token sees padding.
            out = functional.scaled_dot_product_attention(
                q.transpose(1, 2), store.keys[number], store.values[number], is_causal=True, enable_gqa=True
            )
            return out.transpose(1, 2)

        self._forward(ids, positions, attend)
        return store

    def rows(self, prefixes: Prefixes, atom: Sequence[int], capacity: int) -> Rows:
        """Empty continuations of the given atoms' prefixes with room for `capacity` tokens each."""
        which = torch.tensor(list(atom), dtype=torch.long, device=self.device)
        shape = (len(self._layers), len(atom), self.kv_heads, capacity, self.head_dim)
        return Rows(
            atom=which,
            position=prefixes.lengths[which].clone(),
            keys=torch.zeros(shape, device=self.device),
            values=torch.zeros(shape, device=self.device),
            filled=torch.zeros(len(atom), capacity, dtype=torch.bool, device=self.device),
        )

    @torch.inference_mode()
    def extend(self, prefixes: Prefixes, rows: Rows, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Feed token ids (at least one a row, lengths may differ); logits (R, vocabulary) float32."""
        hidden = self._feed(prefixes, rows, ids)
        last = torch.tensor([len(part) - 1 for part in ids], device=self.device)
        return self._logits(hidden[torch.arange(len(ids), device=self.device), last])

    @torch.inference_mode()
    def mean_log_probability(
        self,
        prefixes: Prefixes,
        atom: Sequence[int],
        asked: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
    ) -> list[float]:
        """Mean log-probability per token of each row's target (at least one token) after prefix and
        `asked`."""
        ids = [[*a, *t][:-1] for a, t in zip(asked, targets, strict=True)]
        rows = self.rows(prefixes, atom, max(len(part) for part in ids))
        hidden = self._feed(prefixes, rows, ids)
        places = [
            (r, len(a) - 1 + n) for r, (a, t) in enumerate(zip(asked, targets, strict=True)) for n in range(len(t))
        ]
        row, column = (torch.tensor(part, device=self.device) for part in zip(*places, strict=True))
        wanted = torch.tensor([token for target in targets for token in target], device=self.device)
        values = []
        for start in range(0, len(places), _HEAD_ROWS):
            part = slice(start, start + _HEAD_ROWS)
            values.append(
                -functional.cross_entropy(self._logits(hidden[row[part], column[part]]), wanted[part], reduction="none")
            )
        sums = torch.zeros(len(ids), device=self.device).index_add_(0, row, torch.cat(values))
        return [total / len(target) for total, target in zip(sums.tolist(), targets, strict=True)]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(self._rms(hidden, self._norm), self._head).float()

    def _feed(self, prefixes: Prefixes, rows: Rows, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Hidden states (R, T, d) before the last norm; `rows` grows by the tokens."""
        count, width = len(ids), max(len(part) for part in ids)
        sizes = torch.tensor([len(part) for part in ids], device=self.device)
        padded = torch.zeros(count, width, dtype=torch.long, device=self.device)
        for row, part in enumerate(ids):
            padded[row, : len(part)] = torch.tensor(list(part), device=self.device)
        steps = torch.arange(width, device=self.device)
        positions = rows.position[:, None] + steps
        start, stop = rows.used, rows.used + width
        rows.filled[:, start:stop] = steps < sizes[:, None]
        own = rows.filled[:, None, :stop].expand(count, width, stop).clone()
        own[:, :, start:] &= steps[None, None, :] <= steps[None, :, None]
        own[:, :, start:] |= torch.eye(width, dtype=torch.bool, device=self.device)  # padding sees itself: no NaN
        within = torch.arange(prefixes.keys.shape[3], device=self.device) < prefixes.lengths[rows.atom][:, None]
        # The place of each row in a grid (atom, n-th row of the atom), for the shared product with the
        # prefix.
        one_hot = functional.one_hot(rows.atom, prefixes.lengths.shape[0])
        place = (one_hot.cumsum(0) * one_hot).sum(1) - 1
        depth = int(place.max()) + 1
        atoms, kv, group, dim = (
            prefixes.lengths.shape[0],
            self.kv_heads,
            self.heads // self.kv_heads,
            self.head_dim,
        )

        def attend(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            rows.keys[number, :, :, start:stop], rows.values[number, :, :, start:stop] = (
                k.transpose(1, 2),
                v.transpose(1, 2),
            )
            keys, values = rows.keys[number, :, :, :stop], rows.values[number, :, :, :stop]
            # (R, T, H, hd) -> (R, kv, T * group, hd)
            queries = q.reshape(count, width, kv, group, dim).transpose(1, 2).reshape(count, kv, width * group, dim)
            queries = queries * dim**-0.5
            grid = queries.new_zeros(atoms, depth, kv, width * group, dim)
            grid[rows.atom, place] = queries
            flat = grid.transpose(1, 2).reshape(atoms, kv, -1, dim)
            shared = (flat @ prefixes.keys[number].transpose(-1, -2)).view(atoms, kv, depth, width * group, -1)
            left = shared.transpose(1, 2)[rows.atom, place]
            left = left.masked_fill(~within[:, None, None, :], float("-inf"))
            right = (queries @ keys.transpose(-1, -2)).view(count, kv, width, group, stop)
            right = right.masked_fill(~own[:, None, :, None, :], float("-inf")).view(count, kv, width * group, stop)
            shares = torch.cat([left, right], dim=-1).softmax(-1)
            left, right = shares[..., : left.shape[-1]], shares[..., left.shape[-1] :]
            grid = left.new_zeros(atoms, depth, kv, width * group, left.shape[-1])
            grid[rows.atom, place] = left
            mixed = grid.transpose(1, 2).reshape(atoms, kv, -1, left.shape[-1]) @ prefixes.values[number]
            out = mixed.view(atoms, kv, depth, width * group, dim).transpose(1, 2)[rows.atom, place] + right @ values
            return out.view(count, kv, width, group, dim).transpose(1, 2).reshape(count, width, self.heads, dim)

        hidden = self._forward(padded, positions, attend)
        rows.used = stop
        rows.position += sizes
        return hidden

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, attend: _Attend) -> torch.Tensor:
        """Hidden states (R, T, d) before the last norm; `attend(layer, q, k, v)` returns (R, T, heads,
        head_dim)."""
        hidden = functional.embedding(ids, self._embedding)
        cos, sin = self._rotary(hidden.float(), positions)
        cos, sin = cos[:, :, None], sin[:, :, None]
        q_size, kv_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for number, layer in enumerate(self._layers):
            mixed = functional.linear(self._rms(hidden, layer.norm_attention), layer.qkv).float()
            q, k, v = torch.split(mixed, [q_size, kv_size, kv_size], dim=-1)
            q, k, v = (part.view(*part.shape[:2], -1, self.head_dim) for part in (q, k, v))
            context = attend(number, _rotate(q, cos, sin), _rotate(k, cos, sin), v)
            hidden = hidden + functional.linear(context.flatten(2).to(self.dtype), layer.o)
            gate, up = functional.linear(self._rms(hidden, layer.norm_mlp), layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, layer.down)
        return hidden

    def _rms(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(self.dtype) * weight


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (R, T, heads, hd), float32 (RoFormer, arXiv 2104.09864; half-split layout of
    Llama)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
