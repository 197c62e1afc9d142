"""Preflight: counts what a run will read and hold before it starts, and names what is wrong.

A run that cannot end well is refused in one line. What is likely to disappoint is a warning, one
line with its figures, the largest share first. Nothing here is sampled, timed or compiled: results
depend on the stream, the settings and the free space only.
"""

import collections
import dataclasses
import functools
import math
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from jcl.distributed import memory_limit
from jcl.errors import UserError, count_of
from jcl.preflight.faults import FAULTS, of_fault, share_of, unknown_by_split
from jcl.preflight.footprint import Footprint, footprint, short
from jcl.preflight.round_trip import RoundTrip, round_trip
from jcl.preflight.split_stats import Split, counted
from jcl.reports.formatting import one_line
from jcl.streams.escaping import shortened
from jcl.streams.many_objects import uncollected
from jcl.streams.stream import Stream
from jcl.streams.task_order import describe_order
from jcl.training.experiment import Experiment

FEW = 5  # training rows of a class
UNEVEN = 5  # times as many rows as another task has
FULL = 0.8  # of a device's memory, before the activations
SHOWN = 6  # warnings at the start of a run
_said: set[str] = set()  # by this process: runs on one stream need not say it all again


@dataclasses.dataclass(frozen=True)
class Checkup:
  """Counts of a run before it starts.

  Attributes:
    parts: of the run.
    splits: counts of every split of every task.
    footprint: bytes that the run will take.
  """

  parts: Experiment
  splits: tuple[Split, ...]
  footprint: Footprint

  @functools.cached_property
  def round_trip(self) -> RoundTrip:
    """The answers of the stream, encoded and decoded again."""
    return round_trip(self.parts.stream, self.parts.text)


@uncollected()
def checkup(parts: Experiment) -> Checkup:
  """Counts the rows, tokens and bytes of a run."""
  splits = tuple(counted(parts.stream, parts.text, parts.task_id_given))
  return Checkup(parts, splits, footprint(parts))


def refuse(checkup: Checkup, workdir: str | os.PathLike | None = None) -> None:
  """Refuses a run that cannot end well, before anything is written or compiled.

  Args:
    checkup: of the run.
    workdir: folder of the run, on whose disk there must be room; None: room is not looked at.

  Raises:
    UserError: the tokenizer does not know most of a split, or cannot tell two classes apart; all
      texts of a task read the same; there is no room for one snapshot, or on a device for what must
      stand there.
  """
  for split in checkup.splits:
    where = f'task {split.task!r}, {split.name}'
    if 2 * split.unknown > split.tokens:
      raise UserError(
        f'{where}: {share_of(split.unknown, split.tokens)} tokens are unknown to the tokenizer; '
        'take one that reads this text (backbone.tokenizer=bpe, or another backbone.path)'
      )
    if split.name == 'train' and split.different == 1 < split.texts:
      raise UserError(
        f'{where}: {split.texts} different texts read the same, {split.cut} of them cut to '
        f'{count_of(checkup.parts.text.max_length, "token")}; raise stream.max_length, or '
        'take another tokenizer'
      )
  checkup.round_trip.refuse()
  if workdir is None:
    return
  size = checkup.footprint
  snapshot, free = size.snapshot['total'], free_space(workdir)
  if free < snapshot:
    raise UserError(
      f'{workdir}: {short(free, "B")} are free, and a snapshot takes up to {short(snapshot, "B")}; '
      'make room, or give a workdir on another disk'
    )
  needed, limit = size.device['total'], device_limit(checkup.parts.tools.mesh)
  if limit is not None and needed > limit:
    raise UserError(
      f'parameters, gradients, optimiser and teacher take {short(needed, "B")} on each device, '
      f'which has {short(limit, "B")}; use more devices with train.fsdp, train fewer parameters '
      '(train.trainable, lora), or take a smaller backbone'
    )


def free_space(folder: str | os.PathLike) -> int:
  """Returns the free bytes of the disk of a folder that need not exist yet."""
  there = pathlib.Path(folder).absolute()
  while not there.exists():
    there = there.parent
  return shutil.disk_usage(there).free


def device_limit(mesh: Mesh) -> int | None:
  """Returns the memory of a device in bytes; None if the device does not report it."""
  return memory_limit(mesh.local_devices[0])


def warnings(checkup: Checkup, workdir: str | os.PathLike | None = None) -> list[str]:
  """Returns a line for each thing that is likely to disappoint, the largest share first.

  Args:
    checkup: of the run.
    workdir: as in `refuse`.
  """
  splits = checkup.splits
  found = [line for fault in FAULTS for line in of_fault(fault, splits)]
  found += [*_of_classes(checkup.parts.stream), *_of_sizes(checkup), *checkup.round_trip.lines()]
  if dropped := checkup.parts.text.dropped:
    rows = dropped + sum(s.rows for s in splits)
    line = f'left out for a special token of the tokenizer: {count_of(dropped, "row")}'
    found.append((dropped / rows, f'{line} (stream.special_tokens_in_text=drop)'))
  if workdir is not None:
    found += _of_room(checkup, free_space(workdir))
  return [line for _, line in sorted(found, key=lambda pair: -pair[0])]


def _of_classes(stream: Stream) -> Iterator[tuple[float, str]]:
  """Yields a line about classes without test rows, and one about classes with few training rows."""
  every, untested, few = 0, [], []
  shown = lambda label: shortened(stream.shown('', label))
  for task in stream.tasks:
    trained = collections.Counter(e.label for e in task.train) if task.classes else {}
    tested = {e.label for e in task.test} if task.classes else set()
    every += len(task.classes)
    untested += [shown(c) for c in task.classes if c not in tested]
    few += [(trained[c], shown(c)) for c in task.classes if trained[c] < FEW]
  numbers: dict[float, list[int]] = {}
  for label, written in enumerate(stream.labels):
    if (number := _number(written)) is not None:
      numbers.setdefault(number, []).append(label)
  if alike := [labels for labels in numbers.values() if len(labels) > 1]:
    names = ' and '.join(map(shown, alike[0][:3]))
    yield (
      sum(map(len, alike)) / len(stream.classes),
      f'labels {names} are one number and several classes: write it in one way if one is meant',
    )
  if untested:
    names = ', '.join(untested[:3]) + (', …' if len(untested) > 3 else '')
    yield (
      len(untested) / every,
      f'{share_of(len(untested), every)} classes have no test row ({names}): nothing says whether '
      'they are kept',
    )
  if few:
    count, name = min(few)
    yield (
      len(few) / every,
      f'{share_of(len(few), every)} classes have fewer than {FEW} training rows (least: {name}, '
      f'{count}): one row more or less may decide their accuracy',
    )


def _number(label: str) -> float | None:
  """Returns the value of a label that is written as a finite number; None for any other label."""
  try:
    number = float(label) if label.isascii() and '_' not in label else math.nan
  except ValueError:
    return None
  return number if math.isfinite(number) else None


def _of_sizes(checkup: Checkup) -> Iterator[tuple[float, str]]:
  """Yields a line if the tasks are of very uneven size."""
  unit = 'tokens' if checkup.parts.score == 'log_perplexity' else 'rows'
  sizes = [(getattr(s, unit), s.task) for s in checkup.splits if s.name == 'train']
  (least, small), (most, large) = min(sizes), max(sizes)
  if most < UNEVEN * least:
    return
  steps = checkup.parts.config.train.steps
  how = f'both train for {count_of(steps, "step")}' if steps else 'it trains for as many more steps'
  yield (
    least / sum(size for size, _ in sizes),
    f'{large} has {most / least:.1f} times the training {unit} of {small} ({most:,} and '
    f'{least:,}): {how}, and in the averages both count alike',
  )


def _of_room(checkup: Checkup, free: int) -> Iterator[tuple[float, str]]:
  """Yields a line for a disk or a device that the run nearly fills."""
  size = checkup.footprint
  if free < 2 * size.disk:
    yield (
      min(size.disk / max(free, 1), 1.0),
      f'{short(free, "B")} are free for the workdir, and its snapshots take up to '
      f'{short(size.disk, "B")}: make room, or keep fewer (checkpoint.keep_tasks=false)',
    )
  needed, limit = size.device['total'], device_limit(checkup.parts.tools.mesh)
  if limit is not None and needed > FULL * limit:
    yield (
      needed / limit,
      f'{short(needed, "B")} of the {short(limit, "B")} of each device are taken before the first '
      'batch: activations may not fit; lower train.batch_size, or raise train.microbatches',
    )


def opening(checkup: Checkup, workdir: str | os.PathLike | None) -> list[str]:
  """Returns the lines that a run prints first; its warnings go to `results.json` too.

  Args:
    checkup: of the run.
    workdir: of the run.

  Raises:
    UserError: see `refuse`.
  """
  refuse(checkup, workdir)
  found = warnings(checkup, workdir)
  for line in found:
    checkup.parts.tools.report(warnings=line)
  new = [line for line in found if line not in _said]
  _said.update(new)
  free = None if workdir is None else free_space(workdir)
  lines = [_summary(checkup), _totals(checkup), _sizes(checkup, free), *choices(checkup.parts)]
  lines += [f'note: {line}' for line in checkup.parts.notes]
  lines += [f'warning: {line}' for line in new[:SHOWN]]
  if len(new) > SHOWN:
    lines.append(f'warning: {len(new) - SHOWN} more are in results.json')
  if len(new) < len(found):
    lines.append(f'warning: {len(found) - len(new)} more, as an earlier run of this command said')
  return lines


def choices(parts: Experiment) -> list[str]:
  """Returns lines about the order of tasks, the learning rates and how the data was read."""
  return [
    f'order of tasks: {order_of_tasks(parts)}',
    f'learning rate: {learning_rates(parts)}',
    *parts.stream.notes,
  ]


def order_of_tasks(parts: Experiment) -> str:
  """Returns the order of tasks, and whether it is shuffled, in one line."""
  settings = parts.config.stream
  names = [one_line(task.name) for task in parts.stream.tasks]
  return describe_order(names, settings.name, settings.order_seed, settings.task_order)


def learning_rates(parts: Experiment) -> str:
  """Returns the learning rates of what trains, in one line."""
  config, train, rates = parts.config, parts.config.train, []
  if not config.method.takes_steps:
    return 'none, for no training step is taken'
  if config.method.adapters:
    rates.append(f'{train.adapter_learning_rate:g} of adapters')
  else:
    rates.append(f'{train.learning_rate:g} ({parts.rate_origin})')
  if config.backbone.head:
    rates.append(f'{train.head_learning_rate:g} of the head')
  return ', '.join(rates)


def _summary(checkup: Checkup) -> str:
  """One line: tasks, classes, rows, parameters and devices."""
  stream, splits = checkup.parts.stream, checkup.splits
  text = checkup.parts.score == 'log_perplexity'
  unit = 'targets' if text else 'rows'
  count = lambda name: sum(getattr(s, unit) for s in splits if s.name == name)
  kinds = ('training', 'train'), ('dev', 'dev'), ('test', 'test')
  counts = [(number, words) for words, name in kinds if (number := count(name))]
  number, words = counts.pop()
  last = count_of(number, f'{words} {"token" if text else "row"}')
  what = ', '.join([*(f'{number:,} {words}' for number, words in counts), last])
  what = what if text else f'{count_of(len(stream.classes), "class")}, {what}'
  shapes = jax.eval_shape(checkup.parts.backbone.init, jax.random.key(0))
  params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  devices = count_of(checkup.parts.tools.mesh.size, f'{jax.devices()[0].platform} device')
  return (
    f'{stream.name}: {count_of(len(stream), "task")}, {what}; {params / 1e6:.2f} million '
    f'parameters on {devices}'
  )


def _totals(checkup: Checkup) -> str:
  """One line: tokens and faults of all rows."""
  splits = checkup.splits
  total = lambda field: sum(getattr(s, field) for s in splits)
  unknown = ', '.join(unknown_by_split(splits)) or '0.0 %'
  unknown = f'unknown {unknown}'
  if checkup.parts.score == 'log_perplexity':
    blocks = f'{count_of(total("rows"), "block")} of {checkup.parts.text.max_length} tokens'
    return f'{count_of(total("tokens"), "token")} in {blocks}, {unknown}'
  leaked = sum(s.leaked + s.elsewhere for s in splits if s.name != 'train')
  return (
    f'{total("tokens"):,} tokens, {total("targets"):,} of them targets, {unknown}; of '
    f'{count_of(total("rows"), "row")}: {total("cut"):,} cut, {total("repeated"):,} with a '
    f'repeated text, {leaked:,} in train too, {total("conflicting"):,} in conflict'
  )


def _sizes(checkup: Checkup, free: int | None) -> str:
  """One line: bytes on disk and on a device."""
  size = checkup.footprint
  most = 'up to' if size.whole else 'at least'
  device = f'{most} {short(size.device["total"], "B")} on each device beside activations'
  if free is None:
    return f'without a workdir nothing is saved; the run takes {device}'
  return (
    f'snapshots take {most} {short(size.disk, "B")} ({short(size.snapshot["total"], "B")} each; '
    f'{short(free, "B")} are free), the run {device}'
  )
