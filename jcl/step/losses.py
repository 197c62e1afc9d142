"""Loss terms and their sums: pure functions with one unreduced value for each target.

Shapes: B rows, T tokens, M targets, D width, V vocabulary (or C classes of a head). `where` [M, V]
bool says which classes count; None: all of them. Shapes and types are checked while a function is
traced.
"""

import functools
import os
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import KeyPath

from jcl.backbones import Backbone
from jcl.batching.batch import Batch
from jcl.distributed import memory_limit
from jcl.errors import UserError
from jcl.step.shapes import check_array, check_batch
from jcl.types import Params, Tree

FAR = -1e9  # in place of -inf, which would turn a masked difference into NaN
# Terms that are cross-entropies in nats per target, in the loss of every method.
CROSS_ENTROPIES = frozenset({'ce', 'qa', 'gen', 'new', 'old', 'old_qa', 'old_gen'})
Terms = dict[str, tuple[jax.Array, jax.Array | bool]]
"""{term: (value_M, where_M)}: a value for each target, and the targets that it is the mean of."""
LOGITS_SHARE = 2**-6  # of a device's memory: one array of logits that may stand at once
FEW = 2**22  # logits: fewer are computed for all targets, without a look at which of them count


def _check_logits(logits_MV: jax.Array, where: jax.Array | None, **others: jax.Array) -> None:
  """Refuses logits, a mask or further logits of other shapes or types.

  Raises:
    AssertionError: naming the argument.
  """
  check_array('logits_MV', logits_MV, (None, None), jnp.floating)
  check_array('where', where, logits_MV.shape, jnp.bool_, optional=True)
  for name, other_MV in others.items():
    check_array(name, other_MV, logits_MV.shape, jnp.floating)


def restrict(logits_MV: jax.Array, where: jax.Array | None) -> jax.Array:
  """Returns `logits_MV` with a large finite negative number where a class is not allowed."""
  _check_logits(logits_MV, where)
  return logits_MV if where is None else jnp.where(where, logits_MV, FAR)


def cross_entropy(
  logits_MV: jax.Array, token_M: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """-log softmax(logits)[token] -> [M], nats per target."""
  check_array('token_M', token_M, logits_MV.shape[:1], jnp.integer)
  logits_MV = restrict(logits_MV, where)
  wanted_M = jnp.take_along_axis(logits_MV, token_M[:, None], 1)[:, 0]
  return jax.nn.logsumexp(logits_MV, -1) - wanted_M


def distillation(
  logits_MV: jax.Array,
  teacher_MV: jax.Array,
  temperature: float,
  where: jax.Array | None = None,
) -> jax.Array:
  """T²·KL(softmax(teacher/T) ‖ softmax(logits/T)) -> [M], nats per target (Hinton et al. 2015).

  The teacher's logits have no gradient.
  """
  _check_logits(logits_MV, where, teacher_MV=teacher_MV)
  log_MV, teacher_MV = (
    jax.nn.log_softmax(restrict(x, where) / temperature)
    for x in (logits_MV, jax.lax.stop_gradient(teacher_MV))
  )
  return temperature**2 * (jnp.exp(teacher_MV) * (teacher_MV - log_MV)).sum(-1)


def divergence(
  logits_MV: jax.Array,
  teacher_MV: jax.Array,
  reverse: bool = False,
  top_k: int = 0,
  where: jax.Array | None = None,
) -> jax.Array:
  """KL(teacher ‖ model), with `reverse` KL(model ‖ teacher) -> [M], nats per target.

  The teacher's logits have no gradient.

  Args:
    logits_MV: logits of the model.
    teacher_MV: logits of the teacher.
    reverse: the order of the two.
    top_k: the model's likeliest tokens that count one by one; all others count as one. 0: all
      count one by one. By the log-sum inequality no value is larger than that of all tokens.
    where: the classes that count.
  """
  _check_logits(logits_MV, where, teacher_MV=teacher_MV)
  both = [restrict(x, where) for x in (logits_MV, jax.lax.stop_gradient(teacher_MV))]
  if 0 < top_k < logits_MV.shape[1]:
    _, chosen_MK = lax.top_k(jax.lax.stop_gradient(both[0]), top_k)
    both = [_others_as_one(x, chosen_MK) for x in both]
  log_MV, teacher_MV = map(jax.nn.log_softmax, both)
  first_MV, second_MV = (log_MV, teacher_MV) if reverse else (teacher_MV, log_MV)
  return (jnp.exp(first_MV) * (first_MV - second_MV)).sum(-1)


def _others_as_one(logits_MV: jax.Array, chosen_MK: jax.Array) -> jax.Array:
  """Returns the logits of the chosen classes, and the logit of all others together: [M, K + 1]."""
  kept_MK = jnp.take_along_axis(logits_MV, chosen_MK, 1)
  others_MV = jnp.put_along_axis(logits_MV, chosen_MK, FAR, 1, inplace=False)
  others_M1 = jax.nn.logsumexp(others_MV, -1, keepdims=True)
  return jnp.concatenate([kept_MK, others_M1], 1)


def mean_squared_error(
  logits_MV: jax.Array, teacher_MV: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """mean_v (logits_v − teacher_v)² -> [M], squared logits per target (Buzzega et al. 2020).

  The mean is over the vocabulary, or over the classes in `where`; 0 where there are none. The
  teacher's logits have no gradient.
  """
  _check_logits(logits_MV, where, teacher_MV=teacher_MV)
  apart_MV = logits_MV - jax.lax.stop_gradient(teacher_MV)
  if where is None:
    return jnp.square(apart_MV).mean(-1)
  return jnp.square(jnp.where(where, apart_MV, 0)).sum(-1) / jnp.maximum(where.sum(-1), 1)


@functools.cache
def held_logits() -> int:
  """Returns how many logits may be held at once: more of them go in chunks.

  They are float32 numbers that take `LOGITS_SHARE` of the memory that a device reports; where it
  reports none, of its share of the machine's memory.
  """
  limit = memory_limit(jax.local_devices()[0])
  if limit is None:
    limit = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // jax.local_device_count()
  return int(limit * LOGITS_SHARE) // 4


def per_target(
  fn: Callable[..., Tree], backbone: Backbone, params: Params, hidden_MD: jax.Array, *rest_M: Tree
) -> Tree:
  """Applies fn(logits_mV, *rest_m) -> tree of [m, …] to all targets -> tree of [M, …].

  Where M·V is more than `held_logits()` the targets go in chunks, whose logits are computed again
  in the backward pass: memory never holds the logits of more than one chunk.

  Args:
    fn: function of some targets' logits; may project a teacher's states, given in `rest_M`.
    backbone: the model that projects.
    params: parameters to project with.
    hidden_MD: final states at the targets.
    *rest_M: trees of [M, …] (or None) that `fn` is given after the logits.
  """
  check_array('hidden_MD', hidden_MD, (None, backbone.width), jnp.floating)
  for number, values in enumerate(jax.tree.leaves(rest_M)):
    check_array(f'rest_M, leaf {number}', values, (len(hidden_MD), *[None] * (values.ndim - 1)))
  part = backbone.unembedding(params)
  call = lambda hidden_mD, *rest_m: fn(backbone.project(part, hidden_mD), *rest_m)
  count, size = len(hidden_MD), max(held_logits() // backbone.outputs, 1)
  if count <= size:
    return call(hidden_MD, *rest_M)
  size = -(-count // -(-count // size))  # as even as can be
  chunks = -(-count // size)

  def cut(x):
    padded = jnp.pad(x, [(0, chunks * size - count)] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(chunks, size, *x.shape[1:])

  values = lax.map(
    lambda xs: jax.checkpoint(call, prevent_cse=False)(*xs), jax.tree.map(cut, (hidden_MD, *rest_M))
  )
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], values)


def where_it_counts(
  fn: Callable[..., jax.Array], where_M: jax.Array, logits_MV: jax.Array, *rest_M: Tree
) -> jax.Array:
  """Computes a value at the targets that count, where they are few at their cost alone -> [M].

  The targets that count are gathered into a quarter or a half of M where they fit; `fn` is computed
  for those, again in the backward pass. The values of the others have no meaning.

  Args:
    fn: (logits_mV, *rest_m) -> [m], a value for each target by itself; without collectives, for
      each device chooses the size for itself.
    where_M: [M] bool, the targets that count.
    logits_MV: logits at all targets.
    *rest_M: trees of [M, …] (or None) that `fn` is given after the logits.
  """
  check_array('where_M', where_M, logits_MV.shape[:1], jnp.bool_)
  count = len(where_M)
  if logits_MV.size <= FEW:
    return fn(logits_MV, *rest_M)

  def gathered(size: int, args: Tree) -> jax.Array:
    index_m = jnp.nonzero(where_M, size=size, fill_value=count)[0]
    value_m = fn(*jax.tree.map(lambda x: x.at[index_m].get(mode='clip'), args))
    return jnp.zeros(count, value_m.dtype).at[index_m].set(value_m, mode='drop')

  sizes = [-(-count // 4), -(-count // 2)]
  ways: list[Callable[[Tree], jax.Array]] = [functools.partial(gathered, n) for n in sizes]
  ways.append(lambda args: fn(*args))
  fits = jnp.searchsorted(jnp.array(sizes), where_M.sum())
  # Of a branch that is not recomputed all others would return what it keeps, as zeros.
  return lax.switch(fits, [jax.checkpoint(way) for way in ways], (logits_MV, *rest_M))


def target_cross_entropy(
  backbone: Backbone, params: Params, batch: Batch, train: bool = True
) -> jax.Array:
  """Returns the cross-entropy of every target of `batch`, [M] in nats; dropout with `train`."""
  check_batch(batch)
  hidden_MD = backbone.hidden(params, batch, train=train)
  return per_target(cross_entropy, backbone, params, hidden_MD, batch.target_token, batch.allowed)


def plain(backbone: Backbone) -> Callable[[Params, Tree, Batch], Terms]:
  """Returns the loss of plain fine-tuning: the cross-entropy of every target, one term `ce`."""

  def loss_fn(params: Params, teacher_params: Tree, batch: Batch) -> Terms:
    return {'ce': (target_cross_entropy(backbone, params, batch), True)}

  return loss_fn


def by_probability(loss_fn: Callable[[Params, Tree, Batch], Terms]) -> Callable:
  """Returns a loss whose cross-entropies are weighed target by target: dynamic fine-tuning, DFT.

      −sg(p) · log p     nats per target

  p is the probability of the target, and no gradient goes through sg(p). Terms other than
  `CROSS_ENTROPIES` stay as they are. Source: Wu et al. 2025, "On the Generalization of SFT".

  Args:
    loss_fn: (params, teacher_params, batch) -> {term: (value_M, where_M)}.

  Raises:
    UserError: when the loss is called, if it has no term of `CROSS_ENTROPIES`.
  """

  def weighed(params: Params, teacher_params: Tree, batch: Batch) -> Terms:
    terms = loss_fn(params, teacher_params, batch)
    if not CROSS_ENTROPIES & terms.keys():
      raise UserError(
        f'train.dft is true, but the loss has no term called {", ".join(sorted(CROSS_ENTROPIES))}; '
        f'it has {", ".join(sorted(terms))}'
      )
    probable = lambda nats_M: lax.stop_gradient(jnp.exp(-nats_M)) * nats_M
    return {
      term: (probable(value_M) if term in CROSS_ENTROPIES else value_M, where_M)
      for term, (value_M, where_M) in terms.items()
    }

  return weighed


def norms(params: Params) -> dict[str, jax.Array]:
  """{l1_norm: Σ|θ|, l2_norm: Σθ²}, scalars over all leaves that `decays` names."""
  leaves = [x for path, x in jax.tree_util.tree_leaves_with_path(params) if decays(path)]
  add = lambda each: sum((each(x).sum() for x in leaves), jnp.float32(0))
  return {'l1_norm': add(jnp.abs), 'l2_norm': add(jnp.square)}


def decays(path: KeyPath) -> bool:
  """Whether decay and norms pull a leaf towards 0: all leaves but biases and scales of norms."""
  return str(getattr(path[-1], 'key', path[-1])) not in ('bias', 'scale')


def checked(terms: object, batch: Batch) -> Terms:
  """Returns the terms of a loss, after a check of their form.

  Args:
    terms: what the `loss_fn` of a method, perhaps of another package, returned.
    batch: the batch that `loss_fn` was given.

  Raises:
    UserError: `terms` is not {term: (value_M, where_M)}; the message names the term.
  """
  if not isinstance(terms, Mapping):
    kind = type(terms).__name__
    raise UserError(f'the loss is a {kind}; it must be {{term: (value_M, where_M)}}')
  targets = batch.target_weight.shape
  for term, pair in terms.items():
    if not isinstance(pair, tuple) or len(pair) != 2:
      raise UserError(f'term {term} of the loss is {_kind(pair)}; it must be (value_M, where_M)')
    value_M, where_M = pair
    if not _is_array(value_M, targets, jnp.floating):
      raise UserError(
        f'term {term} of the loss: value_M is {_kind(value_M)}; it must be a float for each '
        f'target, {list(targets)} here'
      )
    if not isinstance(where_M, bool) and not _is_array(where_M, targets, jnp.bool_):
      raise UserError(
        f'term {term} of the loss: where_M is {_kind(where_M)}; it must be True, or a bool for '
        f'each target, {list(targets)} here'
      )
  return dict(terms)


def _is_array(x: object, shape: tuple[int, ...], kind: type) -> bool:
  """Whether `x` is an array of a shape and a kind of dtype, such as `jnp.floating`."""
  return getattr(x, 'shape', None) == shape and jnp.issubdtype(getattr(x, 'dtype', object), kind)


def _kind(x: object) -> str:
  """Returns dtype and shape of an array in words, or the type of any other object."""
  if isinstance(x, np.generic | np.ndarray | jax.Array):
    return f'{x.dtype} {list(x.shape)}'
  return type(x).__name__


def total(
  value_M: jax.Array, where_M: jax.Array | bool, batch: Batch, tasks: int = 0
) -> tuple[jax.Array, jax.Array]:
  """Returns sum and count of a value over the targets that count.

  Args:
    value_M: one value a target.
    where_M: [M] bool, or one for all: the targets of the sum; depends on the batch alone.
    batch: its `target_weight` weighs values and count.
    tasks: 0: scalars; otherwise vectors [tasks], a sum and a count for each task.
  """
  targets = batch.target_weight.shape
  check_array('value_M', value_M, targets, jnp.floating)
  if not isinstance(where_M, bool):
    check_array('where_M', where_M, targets, jnp.bool_)
  weight_M = jnp.where(where_M, batch.target_weight, 0)
  value_M = jnp.where(weight_M > 0, value_M, 0) * weight_M
  if not tasks:
    return value_M.sum(), weight_M.sum()
  task_MK = jax.nn.one_hot(batch.task_M, tasks)
  return value_M @ task_MK, weight_M @ task_MK
