"""What was measured, as a table for people and as JSON for programs."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import jax

from jcl.benchmarks.setting import Setting
from jcl.benchmarks.timing import OURS, Case
from jcl.errors import count_of
from jcl.reports.report import align_columns
from jcl.types import Json


def head(made: Setting, around: Json, clocks: Json) -> list[str]:
  """Returns lines on model, data and machine."""
  parts = made.parts
  count = sum(x.size for x in jax.tree.leaves(made.params))
  stream = parts.stream
  torch = around.get('torch_threads')
  threads = '' if torch is None else f', torch {count_of(torch, "thread")}'
  versions = ', '.join(f'{k} {around[k]}' for k in ('jcl', 'jax', 'torch') if k in around)
  mhz = clocks['mhz']
  clock = f', {min(mhz)}–{max(mhz)} MHz' if mhz else ''
  return [
    f'model: {made.request.model or "a small GPT-2, random weights"}, {count:,} parameters, '
    f'{parts.decoder_config.dtype}',
    f'data: {made.request.data or "the synthetic stream"}, task {made.task.name} after '
    f'{stream.tasks[0].name}, {count_of(len(made.task.train), "training row")}',
    f'machine: {around["processor"]}, {count_of(around["cores"], "core")}{threads}, devices '
    f'{around["devices"][0]} x {around["device"]}{clock}, load {clocks["load"]}',
    f'versions: {versions}, python {around["python"]}; {clocks["date"]}',
  ]


def rates_line(rates: Mapping[str, float]) -> str:
  """Returns the rates of matmuls as a line."""
  single = ', '.join(f'{k} {v / 1e9:,.0f}' for k, v in rates.items() if k != 'all')
  return f'matmuls of the model, GFLOP/s: {rates["all"] / 1e9:,.0f} ({single})'


def as_json(
  made: Setting, around: Json, clocks: tuple[Json, Json], rates: Mapping[str, float],
  cases: Sequence[Case], notes: Sequence[str],
) -> Json:  # fmt: skip
  """Returns the results as plain data.

  Returns:
    `ratios` {workload: {contender: median of theirs / ours}}, `spread` {workload: {contender:
    [least, largest]}}, `cases` with all times in seconds a unit, `request`, `machine`, `clocks`
    before and after, `matmul` in operations a second, `notes`.
  """
  ratios: dict[str, dict[str, float]] = {}
  spread: dict[str, dict[str, list[float]]] = {}
  for case in cases:
    for name, found in case.ratios().items():
      ratios.setdefault(case.name, {})[name] = statistics.median(found)
      spread.setdefault(case.name, {})[name] = [min(found), max(found)]
  request = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(made.request).items()}
  return {
    'ratios': ratios, 'spread': spread, 'cases': [dataclasses.asdict(case) for case in cases],
    'request': request, 'parameters': sum(x.size for x in jax.tree.leaves(made.params)),
    'machine': around, 'clocks': list(clocks), 'matmul': dict(rates), 'notes': list(notes),
  }  # fmt: skip


def as_text(results: Json) -> str:
  """Returns the table: a line a case, jcl's time, and theirs as multiples of it with the spread."""
  cases = [Case(**case) for case in results['cases']]
  others = list(dict.fromkeys(n for case in cases for n in case.seconds if n != OURS))
  lines = [['workload', 'jcl', 'rate', *(f'{name} / jcl' for name in others)]]
  for case in cases:
    lines.append([case.name, _time(case), _rate(case), *(_ratio(case, n) for n in others)])
  foot = ['the median of the rounds; in brackets the least and the largest ratio of a round']
  return '\n'.join([align_columns(lines), *foot, *results['notes']])


def _time(case: Case) -> str:
  """Returns jcl's median time a unit, in a unit of time that fits."""
  seconds = case.median()
  for size, name in ((1.0, 's'), (1e-3, 'ms'), (1e-6, 'µs')):
    if seconds >= size or name == 'µs':
      article = 'an' if case.unit[0] in 'aeiou' else 'a'
      return f'{seconds / size:,.3g} {name} {article} {case.unit}'
  raise AssertionError


def _rate(case: Case) -> str:
  """Returns jcl's tokens a second, and its share of the matmul rate where steps are taken."""
  tokens = case.facts.get(f'{OURS}: tokens a second')
  share = case.facts.get(f'{OURS}: share of the matmul rate')
  said = [] if tokens is None else [f'{tokens:,.0f} tokens/s']
  return ', '.join([*said, *([] if share is None else [f'{share:.0%} of matmul'])])


def _ratio(case: Case, name: str) -> str:
  """Returns theirs / ours as `1.32 (1.28–1.35)`; empty: it does not do this work."""
  if name not in case.ratios():
    return ''
  least, median, most = case.spread(name)
  return f'{median:.2f} ({least:.2f}–{most:.2f})'
