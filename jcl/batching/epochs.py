"""From a plan to steps: which rows make up which step is a function of (seed, task, epoch) alone.

A batch is composed as a list of rows before anything is known of devices; nothing here has a state.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jcl.batching.batch import Row
from jcl.seeds import generator
from jcl.streams.stream import Example, TaskPlan


class Step(NamedTuple):
  """The rows of one step and the key data [R, 2] uint32 of each."""

  rows: list[Row]
  keys: np.ndarray


def draw(random: np.random.Generator, items: Sequence, count: int) -> list:
  """`count` of `items`: none twice before all were drawn once."""
  rounds = range(-(-count // max(len(items), 1)) if items else 0)
  return [items[i] for _ in rounds for i in random.permutation(len(items))][:count]


def steps(
  plan: TaskPlan,
  rows_of: Callable[[Example, bool], Sequence[Row]],
  seed: int,
  task: int,
  epoch: int,
  batch_size: int,
) -> list[Step]:
  """The steps of one epoch.

  Args:
    plan: new and old examples (resolved, but for those of a filling buffer) and how they mix.
    rows_of: (example, replay) -> its rows, which stay in one step.
    seed, task, epoch: what the order is a function of.
    batch_size: examples a step, new and old together.
  """
  if plan.online_buffer is not None and epoch:
    first = steps(plan, rows_of, seed, task, 0, batch_size)
    plan = plan._replace(
      old=plan.online_buffer.take(trained(plan, first), seed).examples, online_buffer=None
    )
  random = generator(seed, 'order', task, epoch)
  noise = generator(seed, 'keys', task, epoch)
  made = []
  for items in _compose(plan, rows_of, seed, random, batch_size):
    rows = [row for example, replay in items for row in rows_of(example, replay)]
    made.append(Step(rows, noise.integers(2**32, size=(len(rows), 2), dtype=np.uint32)))
  return made


def trained(plan: TaskPlan, first: Sequence[Step]) -> list[Example]:
  """The new examples of a plan in the order in which the `first` steps train on them."""
  examples = {e.number: e for e in plan.new}
  order = dict.fromkeys(r.number // 2 for s in first for r in s.rows if not r.replay)
  return [examples[number] for number in order]


def _compose(
  plan: TaskPlan, rows_of: Callable, seed: int, random: np.random.Generator, size: int
) -> list[list]:
  """[(example, replay), …] for every step."""
  new = [(e, False) for e in plan.new]
  old = [(e, True) for e in plan.old]
  cut = lambda items, n: [items[i : i + n] for i in range(0, len(items), n)]
  shuffled = lambda items: [items[i] for i in random.permutation(len(items))]
  if plan.online_buffer is not None and plan.online_buffer.every:
    return _compose_filling(plan, [e for e, _ in shuffled(new)], rows_of, seed, random, size)
  if plan.level == 'batch' and old:
    # Half of a batch is new; as many are drawn from the past, none twice within a batch.
    halves = cut(shuffled(new), max(size // 2, 1))
    return [half + draw(random, old, len(half) * plan.candidates) for half in halves]
  if plan.level == 'task' and old:
    task_of = lambda e: e.task if isinstance(e, Example) else e[0]
    tasks = sorted({task_of(e) for e, _ in old})
    of_turn = lambda i: [x for x in old if task_of(x[0]) == tasks[i % len(tasks)]]
    parts = cut(shuffled(new), size)
    return [b for i, part in enumerate(parts) for b in (part, draw(random, of_turn(i), len(part)))]
  if plan.ratio is not None and old:
    old = _mixed_in(plan, old, len(new), rows_of, random)
  return cut(shuffled(new + old), size)


def _compose_filling(
  plan: TaskPlan, new: list, rows_of: Callable, seed: int, random: np.random.Generator, size: int
) -> list[list]:
  """The first epoch of a buffer that fills every few steps: they are composed, then it takes in."""
  online_buffer, composed, room = plan.online_buffer, [], plan.online_buffer.every * size
  while new:
    old, count = online_buffer.examples, room
    if old and plan.level == 'batch':
      count = online_buffer.every * max(size // 2, 1)
    elif old:
      count = max(int(room / (1 + plan.ratio)), 1)
    part = plan._replace(new=new[:count], old=old, online_buffer=None)
    some, new = _compose(part, rows_of, seed, random, size), new[count:]
    composed += some
    online_buffer = online_buffer.take(
      [e for step in some for e, replay in step if not replay], seed
    )
  return composed


def _mixed_in(plan: TaskPlan, old: list, new: int, rows_of: Callable, random) -> list:
  """The old examples of one epoch at level `dataset`: `ratio` for each new one.

  In tokens they are drawn likewise as long as two of the longest fit, and the rest of `ratio` is
  filled as exactly as whole examples can.
  """
  if plan.unit == 'rows':
    return draw(random, old, round(plan.ratio * new))
  tokens = lambda item: sum(len(r.tokens) for r in rows_of(*item))
  size_of = {item: tokens(item) for item in old}
  left = plan.ratio * sum(tokens((e, False)) for e in plan.new)
  chosen, rest, longest = [], [], max(size_of.values())
  while left >= 2 * longest:
    rest = rest or draw(random, old, len(old))
    chosen.append(rest.pop())
    left -= size_of[chosen[-1]]
  while sum(size_of[item] for item in rest) < 3 * longest:
    rest += draw(random, old, len(old))
  return chosen + [rest[i] for i in _nearest([size_of[item] for item in rest], left)]


def _nearest(sizes: Sequence[int], wanted: float) -> tuple[int, ...]:
  """The first places whose sizes add up to as near `wanted` as any do."""
  reached: dict[int, tuple[int, ...]] = {0: ()}
  for i, size in enumerate(sizes):
    if min(abs(total - wanted) for total in reached) <= 0.5:
      break
    for total, places in list(reached.items()):
      if total < wanted:
        reached.setdefault(total + size, (*places, i))
  return reached[min(reached, key=lambda total: abs(total - wanted))]
