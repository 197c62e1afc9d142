"""The arrays of one step, and how rows are laid out on devices. B rows, T tokens, M targets.

The next-token shift happens here, once: a target is the position of the state that predicts and the
token (or class) it should predict. Rows are right-padded; every shape is one of a small ladder.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jcl.errors import UserError

# Tokens: steps of a quarter of a power of two, so that at most a fifth of a batch is padding.
LENGTHS = tuple(
  sorted({2**e * q // 4 for e in range(4, 18) for q in (4, 5, 6, 7)})
)  # 16, 20, 24, 28, 32, 40, …
# Targets a device, likewise.
TARGETS = tuple(sorted({max(2**e * q // 4, 1) for e in range(2, 24) for q in (4, 6)}))


@dataclasses.dataclass(frozen=True)
class Row:
  """One row on the host: what it says, who it is, and where its targets are.

  Attributes:
    tokens: [t] int32 token ids.
    targets: [m] int32 positions of the states that predict.
    wanted: [m] int32 the token, or the class, to be predicted there.
    number: its identity, the same in every epoch and layout: 2 * example + generative.
    task: index of its task; -1 where unknown.
    replay: it comes from the past.
    generative: it trains generation, not question answering.
  """

  tokens: np.ndarray
  targets: np.ndarray
  wanted: np.ndarray
  number: int
  task: int
  replay: bool = False
  generative: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """The arrays of one step. Fields as in the table of shapes below.

  Attributes:
    tokens: [B, T] int32, right-padded.
    length: [B] int32, real tokens; 0 for a padding row.
    replay, generative: [B] bool.
    task: [B] int32, -1 where unknown.
    key: [B, 2] uint32, key data of the row's draws (dropout, sampled labels, ties).
    target_position: [M] int32 into the device's own flattened [B·T] hidden states.
    target_token: [M] int32, the token or class to be predicted there.
    target_weight: [M] float32, 1, or 0 for padding.
    allowed, known: [M, C] bool, heads only: classes that may be answered, and those of them that
      the teacher had learned; else None.
    fields: {name: [M, …]} what a method's tables add.
  """

  tokens: Any
  length: Any
  replay: Any
  generative: Any
  task: Any
  key: Any
  target_position: Any
  target_token: Any
  target_weight: Any
  allowed: Any = None
  known: Any = None
  fields: dict[str, Any] = dataclasses.field(default_factory=dict)

  replace = dataclasses.replace

  @property
  def target_row(self) -> jax.Array:
    """[M] the row of each target."""
    return self.target_position // self.tokens.shape[1]

  @property
  def replay_M(self) -> jax.Array:
    """[M] bool, the target's row comes from the past."""
    return self.replay[self.target_row]

  @property
  def generative_M(self) -> jax.Array:
    """[M] bool, the target's row trains generation."""
    return self.generative[self.target_row]

  @property
  def task_M(self) -> jax.Array:
    """[M] int32, the task of the target's row."""
    return self.task[self.target_row]

  def only(self, where_M: jax.Array) -> 'Batch':
    """The batch with the weight of all other targets 0."""
    return self.replace(target_weight=jnp.where(where_M, self.target_weight, 0))

  def row_mean(self, value_M: jax.Array) -> jax.Array:
    """[B] the mean of `value_M` over each row's targets; 0 where it has none."""
    sums = [
      jax.ops.segment_sum(x * self.target_weight, self.target_row, self.tokens.shape[0])
      for x in (value_M, jnp.ones_like(value_M))
    ]
    return sums[0] / jnp.maximum(sums[1], 1)


