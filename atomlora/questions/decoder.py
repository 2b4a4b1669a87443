"""A small Llama decoder for many short continuations of few shared prefixes.

Every atom has one prefix and every candidate of it is a *row* that continues the prefix. The prefix's K/V
is kept once per atom and never expanded over rows: the queries of an atom's rows (and of the heads that
share a K/V head) are laid side by side and multiplied with it in one product, then merged with the scores
over the row's own short K/V in one softmax. Rows of one atom may have suffixes of different length: the
linear layers, which are nearly all of the work, see real tokens only. A row can be forked, so that what
several lines have in common is fed once.

Weights are a private copy with an adapter's deltas merged (W + alpha/r B A), so that the base model that is
handed in stays untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from atomlora.quantised import dense_weight

# (layer, module) -> (A (r, d_in), B (d_out, r) with the scaling in it); kept as factors, which are 30 times
# smaller.
Deltas = Mapping[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]
_Linear = tuple[torch.Tensor, torch.Tensor | None]
_Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# Model types of transformers whose blocks are Llama's, with or without biases; others norm, scale or gate otherwise.
KINDS = ("llama", "mistral", "qwen2")
_HEAD_ROWS = 128  # rows of logits at a time: 25 MB at a vocabulary of 49,152; larger ones cost page faults


@dataclass(frozen=True)
class _Layer:
    """Norms (d,); weights qkv ((H + 2 K) hd, d), o (d, H hd), gate_up (2 m, d), down (d, m), each with its bias or
    None."""

    norm_attention: torch.Tensor
    qkv: _Linear
    o: _Linear
    norm_mlp: torch.Tensor
    gate_up: _Linear
    down: _Linear


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

    @property
    def full(self) -> bool:
        """True if there is no room for another token."""
        return self.used == self.filled.shape[1]

    def fork(self, rows: Sequence[int], room: int) -> Rows:
        """A copy of the given rows (indices, also repeated ones) in their order, with room for `room` more
        tokens."""
        which = torch.tensor(list(rows), dtype=torch.long, device=self.atom.device)
        used, layers = self.used, self.keys.shape[0]
        shape = (layers, len(which), self.keys.shape[2], used + room, self.keys.shape[4])
        keys, values = self.keys.new_empty(shape), self.values.new_empty(shape)
        for number in range(layers):  # one layer at a time: no second copy of all
            keys[number, :, :, :used] = self.keys[number, :, :, :used][which]
            values[number, :, :, :used] = self.values[number, :, :, :used][which]
        # Columns not yet filled are multiplied by a share of zero, which only mends finite numbers.
        keys[:, :, :, used:], values[:, :, :, used:] = 0.0, 0.0
        filled = functional.pad(self.filled[which, :used], (0, room))
        return Rows(self.atom[which], self.position[which], keys, values, filled, used)


@dataclass(frozen=True)
class _Packed:
    """Real tokens of ragged rows, side by side: `ids`, `row` and `column` (N,), `last` the place of each fed
    row's last token; (R, T) is the padded shape."""

    ids: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    last: torch.Tensor
    sizes: torch.Tensor

    @property
    def width(self) -> int:
        return int(self.sizes.max())


class PrefixDecoder:
    """Forward passes of a Llama model with B A of `deltas[(layer, module)]` added to its linear weights.

    `model` is a loaded causal LM of one of KINDS; the copy lives on its device in `dtype` (default: the model's own).
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
            weight: torch.Tensor = dense_weight(getattr(owner, name))
            delta = deltas.get((number, name))
            if delta is not None:  # added in float32, rounded once
                a, b = (factor.to(device=weight.device, dtype=torch.float32) for factor in delta)
                weight = weight.float() + b @ a
            return weight.to(self.dtype)

        def joined(owner: Any, *names: str) -> _Linear:
            weights = [merged(owner, name) for name in names]
            biases = [getattr(owner, name).bias for name in names]
            bias = None if biases[0] is None else self._copy(torch.cat(biases))
            return torch.cat(weights) if len(weights) > 1 else weights[0], bias

        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            norm_attention=self._copy(layer.input_layernorm.weight),
            qkv=joined(attention, "q_proj", "k_proj", "v_proj"),
            o=joined(attention, "o_proj"),
            norm_mlp=self._copy(layer.post_attention_layernorm.weight),
            gate_up=joined(mlp, "gate_proj", "up_proj"),
            down=joined(mlp, "down_proj"),
        )

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefixes:
        """K/V of each prompt (token ids, at least one)."""
        fed = self._pack(prompts)
        count, width = len(prompts), fed.width
        shape = (len(self._layers), count, self.kv_heads, width, self.head_dim)
        store = Prefixes(torch.zeros(shape, device=self.device), torch.zeros(shape, device=self.device), fed.sizes)

        def attend(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            store.keys[number].transpose(1, 2)[fed.row, fed.column] = k
            store.values[number].transpose(1, 2)[fed.row, fed.column] = v
            queries = q.new_zeros(count, self.heads, width, self.head_dim)
            queries.transpose(1, 2)[fed.row, fed.column] = q
            # Right padding and a causal mask: no real token sees padding.
            out = functional.scaled_dot_product_attention(
                queries, store.keys[number], store.values[number], is_causal=True, enable_gqa=True
            )
            return out.transpose(1, 2)[fed.row, fed.column]

        self._forward(fed.ids, fed.column, attend)
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
        """Feed token ids (lengths may differ, rows with none rest); logits (rows fed, vocabulary) float32."""
        fed = self._pack(ids)
        return self._logits(self._feed(prefixes, rows, fed)[fed.last])

    @torch.inference_mode()
    def log_probabilities(
        self, prefixes: Prefixes, rows: Rows, first: torch.Tensor, targets: Sequence[Sequence[int]]
    ) -> list[float]:
        """Sum of the log-probabilities of each row's target (at least one token).

        `first` (R, vocabulary) are the logits for its first token; the `rows` grow by all but the last.
        """
        sums = log_shares(first, torch.tensor([target[0] for target in targets], device=self.device))
        if max(len(target) for target in targets) == 1:
            return [float(value) for value in sums.tolist()]
        fed = self._pack([target[:-1] for target in targets])
        hidden = self._feed(prefixes, rows, fed)
        wanted = torch.tensor([token for target in targets for token in target[1:]], device=self.device)
        for start in range(0, len(wanted), _HEAD_ROWS):
            part = slice(start, start + _HEAD_ROWS)
            sums.index_add_(0, fed.row[part], log_shares(self._logits(hidden[part]), wanted[part]))
        return [float(value) for value in sums.tolist()]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(self._rms(hidden, self._norm), self._head).float()

    def _pack(self, ids: Sequence[Sequence[int]]) -> _Packed:
        sizes = torch.tensor([len(part) for part in ids], device=self.device)
        ends = sizes.cumsum(0)
        row = torch.repeat_interleave(torch.arange(len(ids), device=self.device), sizes)
        flat = torch.tensor([token for part in ids for token in part], dtype=torch.long, device=self.device)
        column = torch.arange(len(flat), device=self.device) - (ends - sizes)[row]
        return _Packed(flat, row, column, ends[sizes > 0] - 1, sizes)

    def _feed(self, prefixes: Prefixes, rows: Rows, fed: _Packed) -> torch.Tensor:
        """Hidden states (N, d) of the real tokens before the last norm; `rows` grows by them.

        Only real tokens pass through the linear layers; attention alone knows rows and columns.
        """
        count, width, row, column = len(fed.sizes), fed.width, fed.row, fed.column
        start, stop = rows.used, rows.used + width
        rows.filled[:, start:stop] = torch.arange(width, device=self.device) < fed.sizes[:, None]
        own = rows.filled[row, :stop] & (torch.arange(stop, device=self.device) <= start + column[:, None])
        within = torch.arange(prefixes.keys.shape[3], device=self.device) < prefixes.lengths[rows.atom[row]][:, None]
        present, atom = torch.unique(rows.atom[row], return_inverse=True)
        some = len(present) < len(prefixes.lengths) / 2  # else copying costs more than leaving the others out saves
        if not some:
            present, atom = torch.arange(len(prefixes.lengths), device=self.device), rows.atom[row]
        # The place of each token in a grid (atom, n-th token of the atom), for the shared product with the
        # prefix.
        one_hot = functional.one_hot(atom, len(present))
        place = (one_hot.cumsum(0) * one_hot).sum(1) - 1
        kv, group, dim = self.kv_heads, self.heads // self.kv_heads, self.head_dim
        grid = (len(present), kv, int(place.max()) + 1, group)
        ragged = (count, kv, width, group)

        def spread(x: torch.Tensor, shape: tuple[int, ...], at: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            """(N, kv, group, c) into zeros (B, kv, C, group, c) at [b, :, c], as (B, kv, C * group, c)."""
            wide = x.new_zeros(*shape, x.shape[-1])
            wide.transpose(1, 2)[at] = x
            return wide.flatten(2, 3)

        def gather(x: torch.Tensor, shape: tuple[int, ...], at: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            """The inverse of `spread`."""
            return x.view(*shape, x.shape[-1]).transpose(1, 2)[at]

        def attend(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            rows.keys[number].transpose(1, 2)[row, start + column] = k
            rows.values[number].transpose(1, 2)[row, start + column] = v
            keys, values = rows.keys[number, :, :, :stop], rows.values[number, :, :, :stop]
            queries = q.view(-1, kv, group, dim) * dim**-0.5
            past_keys, past_values = prefixes.keys[number], prefixes.values[number]
            if some:
                past_keys, past_values = past_keys[present], past_values[present]
            left = spread(queries, grid, (atom, place)) @ past_keys.transpose(-1, -2)
            left = gather(left, grid, (atom, place)).masked_fill_(~within[:, None, None], float("-inf"))
            right = spread(queries, ragged, (row, column)) @ keys.transpose(-1, -2)
            right = gather(right, ragged, (row, column)).masked_fill_(~own[:, None, None], float("-inf"))
            left, right = torch.cat([left, right], dim=-1).softmax(-1).split([left.shape[-1], stop], dim=-1)
            out = gather(spread(left, grid, (atom, place)) @ past_values, grid, (atom, place))
            out += gather(spread(right, ragged, (row, column)) @ values, ragged, (row, column))
            return out.flatten(1, 2)

        hidden = self._forward(fed.ids, rows.position[row] + column, attend)
        rows.used = stop
        rows.position += fed.sizes
        return hidden

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, attend: _Attend) -> torch.Tensor:
        """Hidden states (N, d) before the last norm; `attend(layer, q, k, v)` takes and returns (N, heads,
        head_dim)."""
        hidden = functional.embedding(ids, self._embedding)
        cos, sin = (part[0, :, None] for part in self._rotary(hidden.float(), positions[None]))
        q_size, kv_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for number, layer in enumerate(self._layers):
            mixed = functional.linear(self._rms(hidden, layer.norm_attention), *layer.qkv).float()
            q, k, v = torch.split(mixed, [q_size, kv_size, kv_size], dim=-1)
            q, k, v = (part.view(len(part), -1, self.head_dim) for part in (q, k, v))
            context = attend(number, _rotate(q, cos, sin), _rotate(k, cos, sin), v)
            hidden = hidden + functional.linear(context.flatten(1).to(self.dtype), *layer.o)
            gate, up = functional.linear(self._rms(hidden, layer.norm_mlp), *layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, *layer.down)
        return hidden

    def _rms(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(self.dtype) * weight


def log_shares(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability (R,) of one token (R,) in each row of logits (R, vocabulary)."""
    return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (N, heads, hd), float32 (RoFormer, arXiv 2104.09864; half-split layout of
    Llama)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
