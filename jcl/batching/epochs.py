"""From the plan of a task to steps: the rows of each step are a function of (seed, task, epoch).

A step is composed as a list of rows before anything is known of devices; nothing here has a state.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar, cast

import numpy as np

from jcl.batching.batch import Row
from jcl.batching.corpus import Corpus
from jcl.batching.outlines import SizedRow
from jcl.seeds import generator
from jcl.streams.stream import Example, OnlineBuffer, Reference, TaskPlan

Item = TypeVar('Item')
MANY = 2**14  # items from which on a draw must not cost as much as an order of all
Drawn = tuple[Example | Reference, bool]
"""An example, and whether it is replayed."""

RowsOf = Callable[[Example | Reference, bool], Sequence[Row]]
"""(example, replay) -> the rows of the example, which stay in one step."""

SizesOf = Callable[[Example | Reference, bool], Sequence[SizedRow]]
"""The same, where only the lengths of rows are read."""


class Step(NamedTuple):
  """The rows of one step, and the key data of each, [R, 2] uint32."""

  rows: list[Row]
  keys: np.ndarray


def draw(random: np.random.Generator, items: Sequence[Item], count: int) -> list[Item]:
  """Returns `count` of `items`; none is drawn twice before all were drawn once.

  Of more than `MANY` items a few are drawn without an order of all of them.
  """
  if len(items) > max(MANY, count):
    return [items[i] for i in random.choice(len(items), count, replace=False)]
  drawn: list[Item] = []
  while items and len(drawn) < count:
    order = random.permutation(len(items))
    drawn += [items[i] for i in order[: count - len(drawn)]]
  return drawn


def steps(
  plan: TaskPlan, rows_of: RowsOf, seed: int, task: int, epoch: int, batch_size: int,
  corpus: Corpus | None = None,
) -> Iterator[Step]:  # fmt: skip
  """Yields the steps of one epoch, each composed when it is asked for.

  Args:
    plan: new and old examples, and how they are mixed. New examples are given as `Example`, old
      ones too, unless they are those of an online buffer.
    rows_of: returns the rows of an example.
    seed: seed of the run.
    task: index of the task.
    epoch: number of the epoch, from 0.
    batch_size: number of examples of a step, new and old together.
    corpus: text of which the plan's `corpus_ratio` counts; None: there is none.
  """
  noise = generator(seed, 'keys', task, epoch)
  for items in composed(plan, rows_of, seed, task, epoch, batch_size, corpus):
    rows = [row for example, replay in items for row in rows_of(example, replay)]
    yield Step(rows, noise.integers(2**32, size=(len(rows), 2), dtype=np.uint32))


def composed(
  plan: TaskPlan, rows_of: SizesOf, seed: int,
  task: int, epoch: int, batch_size: int, corpus: Corpus | None = None,
) -> Iterator[list[Drawn]]:  # fmt: skip
  """Yields the examples of each step of one epoch; arguments as in `steps`.

  Args:
    rows_of: is asked for the lengths of rows alone, where replay is counted in tokens.
  """
  if plan.online_buffer is not None and epoch:
    first = composed(plan, rows_of, seed, task, 0, batch_size)
    order = [example for items in first for example, replay in items if not replay]
    filled = plan.online_buffer.take(list(_examples(order)), seed)
    plan = plan._replace(old=filled.examples, online_buffer=None)
  random, general = generator(seed, 'order', task, epoch), list[Example | Reference]()
  if corpus is not None and plan.corpus_ratio:
    new = sum(_count(plan.unit, rows_of(e, False)) for e in plan.new)
    general += corpus.drawn(plan.corpus_ratio * new, plan.unit, seed, task, epoch)
  return _compose(plan, rows_of, seed, random, batch_size, general)


def _count(unit: str, rows: Iterable[SizedRow]) -> int:
  """Returns the number of tokens or of targets of some rows."""
  return sum(len(row.targets if unit == 'targets' else row.tokens) for row in rows)


def trained(plan: TaskPlan, first: Iterable[Step]) -> list[Example]:
  """Returns the new examples of a plan in the order in which the `first` steps train on them."""
  examples = {e.number: e for e in _examples(plan.new)}
  order = dict.fromkeys(r.number // 2 for s in first for r in s.rows if not r.replay)
  return [examples[number] for number in order]


def _examples(new: Iterable[Example | Reference]) -> Iterable[Example]:
  """Returns the new examples of a plan, which are no references here."""
  return cast(Iterable[Example], new)


def in_parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
  """Returns the items in parts of `size`; the last one may be shorter."""
  return [items[i : i + size] for i in range(0, len(items), size)]


def _shuffled(random: np.random.Generator, items: Sequence[Item]) -> list[Item]:
  """Returns the items in a random order."""
  return [items[i] for i in random.permutation(len(items)).tolist()]


def _replayed(examples: Iterable[Example | Reference]) -> list[Drawn]:
  """Returns examples as those that are replayed."""
  return [(example, True) for example in examples]


def _fresh(examples: Iterable[Example | Reference]) -> list[Drawn]:
  """Returns examples as those that are not replayed."""
  return [(example, False) for example in examples]


def _compose(
  plan: TaskPlan, rows_of: SizesOf, seed: int,
  random: np.random.Generator, size: int, general: Sequence[Example | Reference] = (),
) -> Iterator[list[Drawn]]:  # fmt: skip
  """Yields the examples of every step of an epoch; `general` are those of a corpus."""
  new, old = plan.new, plan.old
  if plan.online_buffer is not None and plan.online_buffer.every:
    order = _shuffled(random, new)
    yield from _compose_online(plan, plan.online_buffer, order, rows_of, seed, random, size)
  elif plan.level == 'batch' and old:
    # Half of a batch is new; as many are drawn from the past, none twice within a batch.
    for half in in_parts(_shuffled(random, new), max(size // 2, 1)):
      yield _fresh(half) + _replayed(draw(random, old, len(half) * plan.candidates))
  elif plan.level == 'task' and old:
    of_task: dict[int, list[Example | Reference]] = {}
    for example in old:
      task = example.task if isinstance(example, Example) else example[0]
      of_task.setdefault(task, []).append(example)
    tasks = sorted(of_task)
    for i, part in enumerate(in_parts(_shuffled(random, new), size)):
      yield _fresh(part)
      yield _replayed(draw(random, of_task[tasks[i % len(tasks)]], len(part)))
  else:
    if plan.ratio is not None and old:
      old = _mixed_in(plan, plan.ratio, old, rows_of, random)
    old = [*old, *general] if general else old
    order_N = random.permutation(len(new) + len(old))
    for first in range(0, len(order_N), size):
      places = order_N[first : first + size].tolist()
      yield [(new[i], False) if i < len(new) else (old[i - len(new)], True) for i in places]


def _compose_online(
  plan: TaskPlan, online_buffer: OnlineBuffer, new: list[Example | Reference],
  rows_of: SizesOf, seed: int,
  random: np.random.Generator, size: int,
) -> Iterator[list[Drawn]]:  # fmt: skip
  """Yields the examples of every step of the first epoch of an online buffer.

  The steps between two updates of the buffer are composed; then the buffer takes in their new
  examples, and the next steps are composed with what it holds.
  """
  room, first = online_buffer.every * size, 0
  while first < len(new):
    old, count = online_buffer.examples, room
    if old and plan.level == 'batch':
      count = online_buffer.every * max(size // 2, 1)
    elif old and plan.ratio is not None:
      count = max(int(room / (1 + plan.ratio)), 1)
    part = plan._replace(new=new[first : first + count], old=old, online_buffer=None)
    some = list(_compose(part, rows_of, seed, random, size))
    yield from some
    fresh = [e for step in some for e, replay in step if not replay]
    online_buffer = online_buffer.take(list(_examples(fresh)), seed)
    first += count


def _mixed_in(
  plan: TaskPlan, ratio: float, old: Sequence[Example | Reference],
  rows_of: SizesOf,
  random: np.random.Generator,
) -> list[Example | Reference]:  # fmt: skip
  """Returns the old examples of one epoch at level `dataset`: `ratio` for each new one.

  Counted in tokens or targets, examples are drawn in the same way while two of the longest fit; the
  rest is filled as exactly as whole examples can fill it.
  """
  if plan.unit == 'rows':
    return draw(random, old, round(ratio * len(plan.new)))
  tokens = lambda *item: _count(plan.unit, rows_of(*item))
  size_of = {example: tokens(example, True) for example in old}
  left = ratio * sum(tokens(e, False) for e in plan.new)
  chosen: list[Example | Reference] = []
  rest: list[Example | Reference] = []
  longest = max(size_of.values())
  while left >= 2 * longest:
    rest = rest or draw(random, old, len(old))
    chosen.append(rest.pop())
    left -= size_of[chosen[-1]]
  filling = sum(size_of[example] for example in rest)
  while filling < 3 * longest:
    more = draw(random, old, len(old))
    rest, filling = rest + more, filling + sum(size_of[example] for example in more)
  return chosen + [rest[i] for i in _nearest([size_of[example] for example in rest], left)]


def _nearest(sizes: Sequence[int], wanted: float) -> tuple[int, ...]:
  """Returns indices of sizes whose sum is as near to `wanted` as that of any of the first sizes."""
  reached: dict[int, tuple[int, ...]] = {0: ()}
  for i, size in enumerate(sizes):
    if min(abs(total - wanted) for total in reached) <= 0.5:
      break
    for total, places in list(reached.items()):
      if total < wanted:
        reached.setdefault(total + size, (*places, i))
  return reached[min(reached, key=lambda total: abs(total - wanted))]
