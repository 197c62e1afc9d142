"""What learns: models as records of pure functions, their heads, adapters and files."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

Params = Any


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A model as pure functions of its parameters. B rows, T tokens, M targets, S cache positions.

  A model that cannot generate (an encoder) has no `decode` and no `cache`, and no vocabulary.

  The functions read depth, rank and classes off the leaves of `params` and hold no such number.

  Attributes:
    init: key -> params, float32 nested dict.
    hidden: (params, batch, train=False) -> hidden_MD, the final state (after the last norm) at each
      target, or with mean pooling its row's mean; dropout only with `train`, keyed by `batch.key`.
    project: (params, hidden_MD) -> logits_MV in float32 over the real vocabulary, or logits_MC over
      the classes of a head.
    unembedding: params -> the part of them that `project` reads.
    decode: (params, tokens_BT, valid_BS, cache, index) -> (logits_BV of the last position, cache);
      tokens are left-padded and stand at cache positions index … index+T-1; `valid` says which of
      the S cache positions hold real tokens (or will).
    cache: (params, rows, length) -> an empty cache of `length` positions.
    width: D.
    classes: C of a head; 0 where the vocabulary is projected to.
    vocabulary: V, token ids that can be predicted (padding ids never are); 0 where none can.
  """

  init: Callable[..., Params]
  hidden: Callable[..., jax.Array]
  project: Callable[..., jax.Array]
  unembedding: Callable[..., Params]
  decode: Callable[..., Any] | None
  cache: Callable[..., Any] | None
  width: int
  classes: int
  vocabulary: int

  @property
  def outputs(self) -> int:
    """Numbers a target's logits have: C or V."""
    return self.classes or self.vocabulary

  def logits(self, params: Params, batch: Any, train: bool = False) -> jax.Array:
    """Logits [M, V or C] at the targets of `batch`."""
    return self.project(params, self.hidden(params, batch, train))
