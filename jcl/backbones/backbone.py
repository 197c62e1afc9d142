"""A model as a record of pure functions: what decoders and encoders have in common.

Letters in shapes: B rows, T tokens, M targets, D width, V vocabulary, C classes, S positions of a
key-value cache.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from jcl.batching.batch import Batch

Params = Mapping[str, Any]
"""A tree of parameters: nested dicts whose leaves are arrays, such as {'embed': {'embedding': …}}.

`Any` stands for "array or such a mapping": Python's types cannot follow an index into it."""

Cache = tuple[jax.Array, jax.Array]
"""Keys and values of all layers, each [L, B, S, K, head] for L layers and K key-value heads."""


class HiddenFn(Protocol):
  """(params, batch, train) -> hidden states [M, D]."""

  def __call__(self, params: Params, batch: Batch, train: bool = False) -> jax.Array: ...


class StatesFn(Protocol):
  """(params, batch) -> states after 0 … L blocks, with each pooling, [M, L + 1, Q, D]."""

  def __call__(self, params: Params, batch: Batch) -> jax.Array: ...


class InitFn(Protocol):
  """key -> fresh parameters."""

  def __call__(self, key: jax.Array) -> dict[str, Any]: ...


class ProjectFn(Protocol):
  """(params, hidden_MD) -> logits [M, V or C]."""

  def __call__(self, params: Params, hidden_MD: jax.Array) -> jax.Array: ...


class UnembeddingFn(Protocol):
  """params -> the part of them that `project` reads."""

  def __call__(self, params: Params) -> Params: ...


class DecodeFn(Protocol):
  """(params, tokens, valid, cache, index) -> logits [B, V] of the last position, and the cache."""

  def __call__(
    self,
    params: Params,
    tokens: jax.Array,
    valid: jax.Array,
    cache: Cache,
    index: jax.Array | int,
  ) -> tuple[jax.Array, Cache]: ...


class CacheFn(Protocol):
  """(params, rows, length) -> an empty cache of `length` positions."""

  def __call__(self, params: Params, rows: int, length: int) -> Cache: ...


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A model as pure functions of its parameters.

  The functions read depth, adapter rank and number of classes off the leaves of `params`, so that
  one backbone serves a model whose tree grows.

  An encoder cannot generate: its `decode` and `cache` are None and its `vocabulary` is 0.

  Attributes:
    init: key -> params, a nested dict of float32 arrays.
    hidden: (params, batch, train=False) -> [M, D], the final state (after the last norm) at each
      target; with mean pooling, the mean state of the target's row. Dropout acts only with
      `train=True` and draws from `batch.key`.
    project: (params, hidden_MD) -> float32 logits, [M, V] over the real vocabulary or [M, C] over
      the classes of a head.
    unembedding: params -> the subtree of params that `project` reads.
    decode: (params, tokens_BT, valid_BS, cache, index) -> ([B, V] logits of the last position,
      cache). The tokens are left-padded and take cache positions index … index+T-1; `valid_BS`
      says which cache positions hold, or will hold, real tokens.
    cache: (params, rows, length) -> an empty cache of `length` positions.
    width: D.
    classes: C, classes of the head; 0 for a model without a head.
    vocabulary: V, token ids that can be predicted (padding rows never are); 0 for an encoder.
    packs: whether `hidden` keeps apart the rows of a line by `batch.segment`; False: it is given
      unpacked batches alone.
    shares: whether the beginning of a text is computed alike however long the text is; False: some
      rotary scalings depend on the length.
    dtype: in which kernels of layers are multiplied; None: their own.
    states: (params, batch) -> [M, L + 1, Q, D], what `hidden` would give of a model that ends after
      0 … L blocks, with each of `heads.POOLINGS`; None: the model does not offer it.
  """

  init: InitFn
  hidden: HiddenFn
  project: ProjectFn
  unembedding: UnembeddingFn
  decode: DecodeFn | None
  cache: CacheFn | None
  width: int
  classes: int
  vocabulary: int
  packs: bool = False
  shares: bool = False
  dtype: str | None = None
  states: StatesFn | None = None

  @property
  def outputs(self) -> int:
    """Number of logits of a target: C with a head, else V."""
    return self.classes or self.vocabulary

  def logits(self, params: Params, batch: Batch, train: bool = False) -> jax.Array:
    """Logits [M, V or C] at the targets of `batch`."""
    return self.project(params, self.hidden(params, batch, train))
