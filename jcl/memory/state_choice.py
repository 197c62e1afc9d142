"""Choice of the state that a solved head reads, by the dev rows of one task.

A candidate ends the model after some of its blocks, takes the state there or the mean of the states
after 0, 1, … blocks up to there, and pools the states of a row's tokens. The middle of a decoder
often tells classes apart better than its end; which depth is best depends on model and data.

Of the few classes of one task every candidate tells most rows right when all rows train its head.
Therefore heads are solved from few rows a class, which is about as hard as many classes are; the
score is the mean over several draws of these rows.

Letters in shapes: N rows, F of them drawn, H held out, D width, L blocks, Q poolings, C classes, I
draws.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones import Backbone
from jcl.backbones.heads import POOLINGS
from jcl.backbones.layers import depth
from jcl.batching.batch import Batch, Row
from jcl.errors import count_of
from jcl.memory.tools import Tools
from jcl.streams.stream import Example, Lazy, Reference, Task
from jcl.types import Json, Params

DEPTHS = 10  # most depths that are tried
SHOTS = 4  # rows of a class in a draw
DRAWS = 16
MOST = 1000  # training rows, and dev rows, that are looked at
HELD_OUT = 5  # one training row in so many stands in for dev rows
STRENGTH = 0.1  # ridge, in mean eigenvalues of Σ x xᵀ


class Candidate(NamedTuple):
  """One way to make the state of a row.

  Attributes:
    blocks: number of blocks after which the model ends.
    mean: whether the states after 0 … `blocks` blocks are averaged; else the last is taken.
    pooling: one of `POOLINGS`.
  """

  blocks: int
  mean: bool
  pooling: str

  def __str__(self) -> str:
    of = f'the mean over 0 to {self.blocks} blocks' if self.mean else f'block {self.blocks}'
    return f'{of}, pooling {self.pooling}'


class Found(NamedTuple):
  """Scores of a candidate on the held-out rows.

  Attributes:
    candidate: the candidate.
    accuracy: share of right answers, over all draws.
    margin: mean over rows and draws of m, divided by the mean of |m|, where m is the logit of the
      right class minus the largest other one; in [-1, 1], whatever the scale of the logits.
  """

  candidate: Candidate
  accuracy: float
  margin: float


def candidates(layers: int, poolings: Sequence[str]) -> list[Candidate]:
  """Returns all candidates of a model of L blocks, those of few blocks first."""
  depths = sorted({round(layers * (i + 1) / DEPTHS) for i in range(DEPTHS)} - {0})
  return [Candidate(d, mean, p) for d in depths for mean in (False, True) for p in poolings]


def weights(candidate: Candidate, layers: int) -> np.ndarray:
  """Returns the weights [L + 1, Q] float32 of the states after 0 … L blocks, with each pooling."""
  weights_LQ = np.zeros((layers + 1, len(POOLINGS)), np.float32)
  first = 0 if candidate.mean else candidate.blocks
  at = POOLINGS.index(candidate.pooling)
  weights_LQ[first : candidate.blocks + 1, at] = 1 / (candidate.blocks + 1 - first)
  return weights_LQ


def standardised(states_ND: np.ndarray) -> np.ndarray:
  """Returns states of mean 0 and variance 1 over their entries, as random features read them."""
  centred_ND = states_ND - states_ND.mean(-1, keepdims=True)
  spread_N1 = np.sqrt(np.square(centred_ND).mean(-1, keepdims=True))
  return centred_ND / np.maximum(spread_N1, 1e-6)


def drawn(mark_IN: np.ndarray, class_N: np.ndarray, held_N: np.ndarray) -> list[np.ndarray]:
  """Returns the rows of each of I draws: of each class the `SHOTS` with the least marks.

  Args:
    mark_IN: integers, marks of the rows in each draw.
    class_N: integers, class of each row.
    held_N: bools, rows that are held out and never drawn.
  """
  draws = []
  for mark_N in mark_IN:
    order_F = np.argsort(mark_N, kind='stable')
    order_F = order_F[~held_N[order_F]]
    of = [order_F[class_N[order_F] == c][:SHOTS] for c in np.unique(class_N)]
    draws.append(np.concatenate(of))
  return draws


def measured(
  candidate: Candidate, states_ND: np.ndarray, class_N: np.ndarray, held_N: np.ndarray,
  draws: Sequence[np.ndarray],
) -> Found:  # fmt: skip
  """Solves a head from each draw of rows, and scores it on the rows that are held out.

      Z = K (K_F + λ I)⁻¹ Y_F    K = Σ x xᵀ    λ = `STRENGTH` · tr(K_F) / D

  is ridge regression on the one-hot classes Y of a draw's rows F; x are standardised states.

  Args:
    candidate: the way in which the states were made.
    states_ND: states of the rows.
    class_N: integers, class of each row.
    held_N: bools, rows that are held out.
    draws: indices of the rows of each draw.
  """
  known, label_N = np.unique(class_N, return_inverse=True)
  x_ND, right_H = standardised(np.asarray(states_ND, np.float64)), label_N[held_N]
  at = np.arange(len(right_H)), right_H
  margins = []
  for drawn_F in draws:
    x_FD = x_ND[drawn_F]
    kernel_FF = x_FD @ x_FD.T
    kernel_FF[np.diag_indices_from(kernel_FF)] += STRENGTH * np.trace(kernel_FF) / x_ND.shape[1]
    weights_FC = np.linalg.solve(kernel_FF, np.eye(len(known))[label_N[drawn_F]])
    logits_HC = x_ND[held_N] @ (x_FD.T @ weights_FC)
    own_H = logits_HC[at]
    logits_HC[at] = -np.inf
    margins.append(own_H - logits_HC.max(1))
  margin = np.concatenate(margins)
  spread = np.abs(margin).mean()
  return Found(candidate, float((margin > 0).mean()), float(margin.mean() / (spread or 1)))


def best(found: Sequence[Found]) -> Found:
  """Returns the candidate of the highest accuracy, then of the widest margin, then the first."""
  return max(found, key=lambda one: (one.accuracy, one.margin))


def chooser(backbone: Backbone) -> Callable[[Params, Task, Tools], tuple[Params, Json]]:
  """Returns (params, task, tools) -> params whose head reads the best state, and its `Candidate`.

  Blocks that the best state does not need are cut. Where nothing is computed, as in a plan, the
  parameters stay and the candidate is empty.
  """
  poolings = ('last', 'mean') if backbone.decode else ('first', 'mean')

  def choice(params: Params, batch: Batch) -> jax.Array:
    assert backbone.states is not None
    states_MLQD = backbone.states(params, batch)
    layers = states_MLQD.shape[1] - 1
    weights_KLQ = np.stack([weights(one, layers) for one in candidates(layers, poolings)])
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum('klq,mlqd->mkd', weights_KLQ, states_MLQD, precision=highest)

  def choose(params: Params, task: Task, tools: Tools) -> tuple[Params, Json]:
    train, dev = (_some(rows_of(part, tools)) for part in (task.train, task.dev))
    rows, layers = [*train, *dev], depth(params)
    every = candidates(layers, poolings)
    mark_IN = np.array([[mark(row.tokens, i) for row in rows] for i in range(DRAWS)])
    held_N = np.arange(len(rows)) >= len(train)
    if not dev:
      held_N[np.argsort(mark_IN[0], kind='stable')[: len(rows) // HELD_OUT]] = True

    def body(states_NKD, members, values):
      states_NKD = states_NKD if states_NKD.flags.writeable else states_NKD.copy()
      states_NKD[members] = np.concatenate(values)
      return states_NKD

    start = np.zeros((len(rows), len(every), backbone.width), np.float32)
    states_NKD = tools.fold_targets(choice, params, rows, body, start)
    if not states_NKD.any():
      return params, {}
    class_N = np.array([row.wanted[0] for row in rows])
    given = class_N, held_N, drawn(mark_IN, class_N, held_N)
    found = [measured(one, states_NKD[:, k], *given) for k, one in enumerate(every)]
    _report(found, task, tools, count_of(int(held_N.sum()), f'{"dev" if dev else "training"} row'))
    one = best(found).candidate
    mix_LQ = weights(one, layers)[: one.blocks + 1].astype(params['head']['mix'].dtype)
    own = jax.tree.map(lambda leaf: leaf[: one.blocks], params['layers'])
    return {**params, 'layers': own, 'head': {**params['head'], 'mix': mix_LQ}}, one._asdict()

  return choose


def _report(found: Sequence[Found], task: Task, tools: Tools, held: str) -> None:
  """Reports the candidate that is taken, and what all candidates reach on the rows `held`."""
  one, accuracy, margin = best(found)
  tools.report(
    notes=f'the head reads {one}: {accuracy:.1%} of {held} of task {task.name} right from {SHOTS} '
    f'rows a class, the best of {count_of(len(found), "state")}',
    state={
      'task': task.name, **one._asdict(), 'accuracy': accuracy, 'margin': margin, 'held': held,
      'tried': [[*one, round(accuracy, 4), round(margin, 4)] for one, accuracy, margin in found],
    },
  )  # fmt: skip


def rows_of(examples: Sequence[Example | Reference], tools: Tools) -> Sequence[Row]:
  """Returns the row of each example, made as it is asked for."""
  return Lazy(examples, lambda _, one: tools.text.rows(tools.example(one))[0])


def _some(rows: Sequence[Row]) -> list[Row]:
  """Returns `MOST` rows at most, chosen by a hash of their tokens."""
  if len(rows) <= MOST:
    return list(rows)
  return sorted(rows, key=lambda row: (mark(row.tokens), row.tokens.tolist()))[:MOST]


def mark(tokens: np.ndarray, start: int = 0) -> int:
  """Returns a hash of a row's tokens; another one for another start."""
  return zlib.crc32(np.asarray(tokens, np.int32).tobytes(), start)
