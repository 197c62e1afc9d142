"""AdamW with the settings that all methods share; the step multiplies the learning rate in."""

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jcl import notation
from jcl.config import TrainConfig, Unread
from jcl.errors import UserError
from jcl.step import losses
from jcl.step.adam import clip, scale_by_adam
from jcl.step.carried import resumed, scale_by_carried_adam
from jcl.step.trainable import Rules
from jcl.types import Params, Tree

VANISHING = 1e-20  # share of another rate at which float32 may lose a product of the two


def make_optimizer(
  config: TrainConfig, added: Sequence[int] = (), tables: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
  """Clips, applies Adam and decoupled weight decay -> updates before the learning rate.

  Its `update` takes `good`, whether the step is applied; if not, the state stays as it is.

  Args:
    config: the settings.
    added: ids of tokens that were added to the vocabulary.
    tables: names in the paths of leaves whose rows are tokens.
  """
  parts: list[optax.GradientTransformation] = [clip(config.clip_norm)] if config.clip_norm else []
  carries = config.optimizer_between_tasks == 'carried'
  parts.append((scale_by_carried_adam if carries else scale_by_adam)(config.beta2))
  parts.append(optax.add_decayed_weights(config.weight_decay, mask=_decays))
  if config.learning_rate is not None and (peak := peak_rate(config)):
    rates = {'head': config.head_learning_rate, 'lora': config.adapter_learning_rate}
    ratios = {name: rate / peak for name, rate in rates.items()}
    parts.append(_scale_groups(ratios, config.learning_rate / peak))
  if config.added_token_rate != 1 and len(added):
    parts.append(_scale_rows(config.added_token_rate, np.asarray(added), tuple(tables)))
  return optax.chain(*parts)


def peak_rate(config: TrainConfig) -> float:
  """Returns the learning rate in whose units a step's updates are, at the peak of the schedule.

  It is `train.learning_rate`, unless that is 0 or vanishes beside the rate of a head or adapters:
  then it is the largest of the three.
  """
  assert config.learning_rate is not None, 'a run has set it; see jcl/step/rates.py'
  largest = max(config.learning_rate, config.head_learning_rate, config.adapter_learning_rate)
  return config.learning_rate if config.learning_rate > VANISHING * largest else largest


def _decays(params: Params) -> Tree:
  """Returns a tree of bool: whether each leaf decays."""
  return jax.tree_util.tree_map_with_path(lambda path, _: losses.decays(path), params)


def _scale_groups(ratios: dict[str, float], rest: float) -> optax.GradientTransformation:
  """Multiplies the updates of parts of the model, so that each part has a learning rate of its own.

  Args:
    ratios: {name of a top-level entry of the parameters: its rate in units of the step's rate}.
    rest: that of all other entries.
  """

  def update(updates: Tree, state: Tree, params: Params = None) -> tuple[Tree, Tree]:
    def scaled(name: str, part: Tree) -> Tree:
      ratio = ratios.get(name, rest)
      return part if ratio == 1 else jax.tree.map(lambda x: ratio * x, part)

    return {name: scaled(name, part) for name, part in updates.items()}, state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale_rows(
  rate: float, ids: np.ndarray, tables: tuple[str, ...]
) -> optax.GradientTransformation:
  """Multiplies the updates of the rows `ids` of the token tables by `rate`."""

  def update(updates: Tree, state: Tree, params: Params = None) -> tuple[Tree, Tree]:
    def one(path, x):
      names = {str(getattr(k, 'key', k)) for k in path}
      return x.at[ids].multiply(rate) if names & set(tables) else x

    return jax.tree_util.tree_map_with_path(one, updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def learning_rate(
  config: TrainConfig, step: int, total: int, task: int = 0, tasks: int = 1,
  peak: float | None = None,
) -> float:  # fmt: skip
  """Returns the learning rate of one step of a task: linear warm-up, then the schedule.

  With `schedule_between_tasks` `continue` one schedule covers the whole run, and each task is an
  equal part of it, however many steps the task has.

  Args:
    config: the settings.
    step: number of the step in its task, from 0.
    total: number of steps of the task.
    task: index of the task.
    tasks: number of tasks of the run.
    peak: the rate at the peak of the schedule; None: `train.learning_rate`.
  """
  assert config.learning_rate is not None, 'a run has set it; see jcl/step/rates.py'
  peak = config.learning_rate if peak is None else peak
  if config.schedule_between_tasks == 'continue':
    step, total = task * total + step, tasks * total
  warmup = config.warmup_fraction * total
  if step + 1 < warmup:
    return peak * (step + 1) / warmup
  along = min((step - warmup) / max(total - warmup, 1), 1.0) if step > warmup else 0.0
  if config.schedule == 'cosine':
    return peak * 0.5 * (1 + np.cos(np.pi * along))
  if config.schedule == 'linear':
    return peak * (1 - along)
  if config.schedule == 'wsd':
    return peak * min((total - step) / (config.decay_fraction * total), 1.0)
  return peak


def rules_of(patterns: Sequence[str], planned: Rules) -> Rules:
  """Returns the rules of what trains: those that a task's plan has, or those of `train.trainable`.

  Raises:
    UserError: both are given, so that nothing would read the patterns.
  """
  if planned and tuple(patterns) != TrainConfig().trainable:
    raise UserError(f'train.trainable is {patterns}, but the method says what trains; drop it')
  return tuple(planned) or trainable_rules(patterns)


def trainable_rules(patterns: Sequence[str]) -> tuple[tuple[str, bool], ...]:
  """Returns the patterns of `train.trainable` as rules: `!` in front freezes, first match wins."""
  return tuple((p.removeprefix('!'), not p.startswith('!')) for p in patterns)


def without_effect(config: TrainConfig, trained: Params) -> Iterator[Unread]:
  """Yields the settings that are given and that no parameter in training depends on.

  Args:
    config: the settings as they were given.
    trained: the parameters that train, None in place of the others.
  """
  paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(trained)[0]]
  parts = {str(getattr(path[0], 'key', path[0])) for path in paths}
  why = {}
  if parts <= {'head'}:
    why['learning_rate'] = 'a head alone trains, at train.head_learning_rate'
  if 'head' not in parts:
    why['head_learning_rate'] = 'no head trains'
  if not parts & {'embed', 'unembed'}:
    why['added_token_rate'] = 'no embedding row trains'
  if not any(map(losses.decays, paths)):
    why |= dict.fromkeys(('weight_decay', 'l1', 'l2'), 'biases and norms alone train')
  for name, reason in why.items():
    if (value := getattr(config, name)) != getattr(TrainConfig, name):
      yield Unread(f'train.{name}', value, reason)


def check(config: TrainConfig) -> None:
  """Refuses settings of the schedule and `trainable` that are out of range.

  Raises:
    UserError: naming the field.
  """
  if config.schedule == 'wsd' and not 0 < config.decay_fraction <= 1 - config.warmup_fraction:
    raise UserError(
      f'train.decay_fraction is {config.decay_fraction}; with wsd it must be above 0 and, with '
      'train.warmup_fraction, at most 1'
    )
  if not config.trainable:
    raise UserError("train.trainable is empty, so nothing would train; '.*' trains all")
  for pattern, _ in trainable_rules(config.trainable):
    if why := notation.regex_fault(pattern) if pattern else 'is empty':
      raise UserError(f"train.trainable: {pattern!r} {why}; give patterns of names, '.*' for all")


def merged(
  fresh: Tree, carried: Mapping[str, jax.Array] | None, masks: Tree, step: int
) -> Tree:  # fmt: skip
  """Returns `fresh` optimiser state, in which leaves of the same path and shape are carried over.

  Args:
    fresh: optimiser state of the leaves that train now.
    carried: {path: leaf} of an earlier state; None: nothing is carried.
    masks: tree like the trained parameters, 0 where an entry does not train.
    step: steps taken in the task.
  """
  if carried is None:
    return fresh
  paths, structure = jax.tree_util.tree_flatten_with_path(fresh)
  leaves = []
  for path, leaf in paths:
    old = carried.get(jax.tree_util.keystr(path))
    fits = old is not None and jnp.shape(old) == jnp.shape(leaf)
    leaves.append(old if fits else leaf)
  return resumed(jax.tree.unflatten(structure, leaves), carried, masks, step)
