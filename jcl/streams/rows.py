"""From a plan to steps: which rows make up which step is a function of (seed, task, epoch) alone.

A batch is composed as a list of rows before anything is known of devices; nothing here has a state.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jcl.batch import Row
from jcl.streams.stream import Example, Plan


class Step(NamedTuple):
  """The rows of one step and the key data [R, 2] uint32 of each."""

  rows: list[Row]
  keys: np.ndarray


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
  """The host's random numbers of (seed, purpose, numbers)."""
  return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])


def draw(random: np.random.Generator, items: Sequence, count: int) -> list:
  """`count` of `items`: none twice before all were drawn once."""
  rounds = range(-(-count // max(len(items), 1)) if items else 0)
  return [items[i] for _ in rounds for i in random.permutation(len(items))][:count]


def steps(
  plan: Plan,
  rows_of: Callable[[Example, bool], Sequence[Row]],
  seed: int,
  task: int,
  epoch: int,
  batch_size: int,
) -> list[Step]:
  """The steps of one epoch.

  Args:
    plan: new and old examples (resolved) and how they mix.
    rows_of: (example, replay) -> its rows, which stay in one step.
    seed, task, epoch: what the order is a function of.
    batch_size: examples a step, new and old together.
  """
  random = generator(seed, 'order', task, epoch)
  noise = generator(seed, 'keys', task, epoch)
  steps = []
  for items in _compose(plan, rows_of, random, batch_size):
    rows = [row for example, replay in items for row in rows_of(example, replay)]
    steps.append(Step(rows, noise.integers(2**32, size=(len(rows), 2), dtype=np.uint32)))
  return steps


def _compose(plan: Plan, rows_of: Callable, random: np.random.Generator, size: int) -> list[list]:
  """[(example, replay), …] for every step."""
  new = [(e, False) for e in plan.new]
  old = [(e, True) for e in plan.old]
  cut = lambda items, n: [items[i : i + n] for i in range(0, len(items), n)]
  shuffled = lambda items: [items[i] for i in random.permutation(len(items))]
  if plan.level == 'batch' and old:
    # Half of a batch is new; as many are drawn from the past, none twice within a batch.
    halves = cut(shuffled(new), max(size // 2, 1))
    return [half + draw(random, old, len(half) * plan.candidates) for half in halves]
  if plan.level == 'task' and old:
    tasks = sorted({e.task for e, _ in old})
    of_turn = lambda i: [x for x in old if x[0].task == tasks[i % len(tasks)]]
    parts = cut(shuffled(new), size)
    return [b for i, part in enumerate(parts) for b in (part, draw(random, of_turn(i), len(part)))]
  if plan.ratio is not None and old:
    old = _mixed_in(plan, old, len(new), rows_of, random)
  return cut(shuffled(new + old), size)


def _mixed_in(plan: Plan, old: list, new: int, rows_of: Callable, random) -> list:
  """The old examples of one epoch at level `dataset`: `ratio` for each new one."""
  if plan.unit == 'rows':
    return draw(random, old, round(plan.ratio * new))
  tokens = lambda item: sum(len(r.tokens) for r in rows_of(*item))
  wanted = plan.ratio * sum(tokens((e, False)) for e in plan.new)
  chosen, count = [], 0
  while count < wanted:
    for item in draw(random, old, len(old)):
      if count >= wanted:
        break
      chosen.append(item)
      count += tokens(item)
  return chosen
