"""Workloads beside the steps: Fisher, draws of replay, snapshots."""

import shutil
import statistics
from collections.abc import Sequence

from jcl.batching import epochs
from jcl.batching.batch import Row
from jcl.benchmarks.bench import Bench
from jcl.benchmarks.setting import PSEUDO, longest_row
from jcl.benchmarks.timing import OURS, Case, Work
from jcl.benchmarks.work import Contender, Importance, check_near
from jcl.streams.stream import Example, TaskPlan

DISTINCT = 64  # examples whose tokens the held rows have


def fisher(bench: Bench) -> list[Case]:
  """Times the mean squared gradient of single examples, which all contenders show first."""
  one = bench.setting
  examples = one.task.train[: one.request.drawn]
  rows = [one.parts.text.rows(e) for e in examples]
  work = Importance(examples, rows, longest_row(one.parts))
  most = 2 * bench.tolerance  # it is a square
  check_near('Fisher information', {c.name: c.fisher(work) for c in bench.contenders}, most)

  def taking(contender: Contender) -> Work:
    def squares() -> float:
      contender.fisher(work)
      return float(len(examples))

    return squares

  seconds = bench.alternate('fisher', {c.name: taking(c) for c in bench.contenders})
  return [Case('fisher', 'example', seconds, {'examples': float(len(examples))})]


def replay(bench: Bench) -> list[Case]:
  """Times how a step is composed of new rows and rows drawn from a buffer, by what it holds."""
  one = bench.setting
  held = sorted(one.request.held)
  cases = [_draws(bench, f'replay/{count}', count) for count in held]
  largest = cases.pop()
  return [Case('replay', largest.unit, largest.seconds, largest.facts), *cases]


def _draws(bench: Bench, name: str, held: int) -> Case:
  """Times the steps of an epoch whose batches are half drawn from `held` rows."""
  one = bench.setting
  some = [e for e in one.past[:DISTINCT] if e.tokens is not None]
  rows: list[Sequence[Row]] = [one.parts.text.rows(e, True) for e in some]
  old = [Example(PSEUDO + i, '', '', 0, tokens=some[i % len(some)].tokens) for i in range(held)]
  size, steps = one.request.batch_size, one.request.steps
  new = (list(one.task.train) * steps)[: max(size // 2, 1) * steps]
  plan = TaskPlan(new, old, level='batch')
  kept = lambda example, replay: rows[example.number % len(rows)]
  numbers = iter(range(bench.rounds + 1))

  def draw() -> float:
    epoch = next(numbers)
    return float(sum(1 for _ in epochs.steps(plan, kept, 0, 1, epoch, size)))

  draw()
  seconds = bench.alternate(name, {OURS: draw})
  return Case(name, 'step', seconds, {'held': float(held), 'examples': float(size)})


def snapshot(bench: Bench) -> list[Case]:
  """Times how model and moments are written to the disk, to the end, and how they are read."""
  stored = {c.name: bench.new_folder() for c in bench.contenders}
  for contender in bench.contenders:
    contender.store(stored[contender.name])

  def storing(contender: Contender) -> Work:
    return lambda: contender.store(stored[contender.name])

  def restoring(contender: Contender) -> Work:
    return lambda: contender.restore(stored[contender.name])

  cases = []
  for name, doing in (('snapshot', storing), ('snapshot/restore', restoring)):
    seconds = bench.alternate(name, {c.name: doing(c) for c in bench.contenders})
    cases.append(Case(name, 'snapshot', seconds))
  facts = {}
  for name, folder in stored.items():
    kept = sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())
    facts[f'{name}: bytes on the disk'] = float(kept)
    shutil.rmtree(folder)
  for contender in bench.contenders:
    if waits := contender.waits[-bench.rounds :]:
      facts[f'{contender.name}: seconds before the next step'] = statistics.median(waits)
  cases[0].facts.update(facts)
  return cases
