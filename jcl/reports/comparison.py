"""Several runs compared: which of them belong to one method, and their means over seeds."""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from jcl.errors import UserError
from jcl.reports.formatting import flatten, one_line, short_method_name
from jcl.reports.labels import DIFFERENCES, Identity, identity, labels
from jcl.reports.metrics import average_so_far, mean_and_interval, worst_just_learned
from jcl.reports.results import Results, metrics_of, score_matrix, score_of, whole_matrix


class Group(NamedTuple):
  """Runs of one method with the same settings, which differ in their seeds alone.

  Attributes:
    label: the method, and what tells the group from others of the same method.
    runs: one for each seed; the finished runs if there are any, else all.
    left_out: unfinished runs of a group that has finished ones.
  """

  label: str
  runs: list[Results]
  left_out: list[Results]

  @property
  def identity(self) -> Identity:
    """Method, stream and settings, seeds aside, that all runs of the group share."""
    return identity(self.runs[0])

  @property
  def end_only(self) -> bool:
    """Whether only the scores at the end are known, as for joint training."""
    *earlier, last = curve(self)
    return bool(earlier) and last is not None and not any(earlier)


Summary = dict[str, tuple[float | None, float | None]]  # of `summary`


class Spread(NamedTuple):
  """The mean of a score over seeds, its least and its greatest value."""

  mean: float
  least: float
  greatest: float


def group_runs(runs: Sequence[Results], places: Sequence[str] = ()) -> list[Group]:
  """Returns the runs by method and settings, in the order given.

  Args:
    runs: the contents of their `results.json`.
    places: folder of each run, as messages name it; empty, or '' for a run: it has none.

  Raises:
    UserError: there is no run, a run is given twice, the scores have different units, or the runs
      are of different streams.
  """
  if not runs:
    raise UserError('there are no runs to report on; give at least one results.json')
  places = [*places, *[''] * (len(runs) - len(places))]
  called = [_called(run, where) for run, where in zip(runs, places, strict=True)]
  by_score = {score_of(run): name for run, name in zip(runs, called, strict=True)}
  if len(by_score) > 1:
    said = ' and '.join(f'{score} ({name})' for score, name in sorted(by_score.items()))
    raise UserError(f'runs with the scores {said} cannot stand in one comparison')
  _check_one_stream(runs, called)
  _check_once(runs, places)
  groups: dict[str, list[Results]] = {}
  for run in runs:
    groups.setdefault(_as_key(identity(run)), []).append(run)
  names = labels([identity(members[0]) for members in groups.values()])
  return [_group(label, members) for label, members in zip(names, groups.values(), strict=True)]


def _check_once(runs: Sequence[Results], places: Sequence[str]) -> None:
  """Refuses a run that is given twice; arguments as of `group_runs`.

  Raises:
    UserError: names both places.
  """
  first: dict[str, int] = {}
  for i, run in enumerate(runs):
    other = first.setdefault(_as_key([identity(run), run.get('config')]), i)
    if run.get('config') and other != i:
      both = dict.fromkeys(places[j] or f'run {j + 1} of those given' for j in (other, i))
      raise UserError(
        f'a run of {_called(run)} is given twice ({" and ".join(both)}); give each run once'
      )


def _check_one_stream(runs: Sequence[Results], called: Sequence[str]) -> None:
  """Refuses runs of different streams.

  Args:
    runs: the contents of their `results.json`.
    called: the runs as messages name them.

  Raises:
    UserError: names the two runs and the difference.
  """
  for i, run in enumerate(runs):
    for other, name in zip(runs[:i], called, strict=False):
      if what := _difference_of_streams(other, run):
        raise UserError(
          f'{name} and {called[i]} are of different streams: {what}; compare runs of one stream'
        )


def _called(run: Results, where: str = '') -> str:
  """Returns how messages name a run, with its folder if that is known."""
  name = f'{short_method_name(run["method"])} with seed {run.get("seed")}'
  return one_line(f'{name} ({where})' if where else name)


def _difference_of_streams(one: Results, other: Results) -> str:
  """Returns in words in what the streams of two runs differ; empty where they do not.

  Which tasks a stream has may depend on the seed of its order, and how large they are on any seed,
  so these are compared only where the seeds are the same.
  """
  names = [one_line(run.get('stream')) for run in (one, other)]
  if names[0] != names[1]:
    return f'{names[0]} and {names[1]}'
  order = [flatten(run.get('config') or {}).get('stream.order_seed') for run in (one, other)]
  first, second = ([one_line(task) for task in run['tasks']] for run in (one, other))
  if order[0] == order[1] and set(first) != set(second):
    only = [f'{task!r} in one alone' for task in sorted({*first} ^ {*second})]
    return f'{len(first)} and {len(second)} tasks, {", ".join(only[:DIFFERENCES])}'
  sizes = [dict(zip(run['tasks'], run.get('sizes') or (), strict=False)) for run in (one, other)]
  if score_of(one) == 'accuracy' and seeds_of(one) == seeds_of(other):
    for task in sizes[0].keys() & sizes[1].keys():
      if sizes[0][task] != sizes[1][task]:
        return (
          f'task {one_line(task)!r} has {sizes[0][task]} test examples in one and '
          f'{sizes[1][task]} in the other'
        )
  return ''


def seeds_of(run: Results) -> tuple[tuple[str, object], ...]:
  """Returns all seeds of a run by name: that of the run, and those among its settings."""
  settings = flatten(run.get('config') or {})
  named = {k: v for k, v in settings.items() if k.endswith('seed')}
  return tuple(sorted({**named, 'seed': run.get('seed')}.items(), key=str))


def _as_key(value: object) -> str:
  """Returns a text that is the same for equal plain data."""
  return json.dumps(value, sort_keys=True, default=str)


def _group(label: str, members: list[Results]) -> Group:
  """Returns the group of these runs; finished ones stand in for those under way."""
  finished = [run for run in members if run.get('finished', True)]
  if not finished:
    return Group(label, members, [])
  return Group(label, finished, [run for run in members if run not in finished])


def quantities(run: Results) -> dict[str, float | None]:
  """Returns what a comparison shows of one run.

  Returns:
    {quantity: value}: scores in the unit of the matrix, `train` and `generate` in seconds,
    `invalid`, `kept` and `distinct` as shares.
  """
  found = metrics_of(run)
  seconds = run.get('seconds') or {}
  pseudo = run.get('pseudo') or []
  drawn, kept, distinct = (
    sum(line.get(k) or 0 for line in pseudo) for k in ('drawn', 'kept', 'distinct')
  )
  invalid = run.get('invalid')
  return {
    'average': found.get('average_accuracy'),
    'incremental': found.get('average_incremental_accuracy'),
    'forgetting': found.get('forgetting'),
    'backward': found.get('backward_transfer'),
    'worst': worst_just_learned(score_matrix(run), score_of(run)),
    'train': seconds.get('train'),
    'generate': seconds.get('generate') or None,
    'invalid': mean_and_interval(whole_matrix(run, invalid)[-1])[0] if invalid else None,
    'kept': kept / drawn if drawn else None,
    'distinct': distinct / kept if kept else None,
  }


def summary(group: Group) -> Summary:
  """Returns {quantity: (mean over seeds, half-width of its 95 % interval)}."""
  rows = [quantities(run) for run in group.runs]
  return {name: mean_and_interval([row[name] for row in rows]) for name in rows[0]}


def curve(group: Group) -> list[Spread | None]:
  """Returns [T] after each task, the average score of the tasks so far; None where not known."""
  by_seed = [average_so_far(score_matrix(run), score_of(run)) for run in group.runs]
  points: list[Spread | None] = []
  for column in zip(*by_seed, strict=True):
    values = [value for value in column if value is not None]
    mean = math.fsum(values) / len(values) if len(values) == len(column) else None
    points.append(None if mean is None else Spread(mean, min(values), max(values)))
  return points


def learned_and_kept(group: Group) -> list[tuple[float | None, float | None]]:
  """Returns [T] (score right after the task was learned, score at the end), means over seeds."""
  matrices = [score_matrix(run) for run in group.runs]
  mean = lambda values: mean_and_interval(values)[0]
  return [
    (mean([R[j + 1][j] for R in matrices]), mean([R[-1][j] for R in matrices]))
    for j in range(len(matrices[0]) - 1)
  ]
