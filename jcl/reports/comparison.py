"""What several runs say together: which belong to one method, and their means over seeds.

Here a run is the contents of its `results.json`.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jcl.errors import UserError
from jcl.reports.metrics import average_so_far, mean_and_interval, metrics, worst_just_learned

Run = Mapping[str, Any]
NULL = '·'
DIFFERENCES = 2  # settings that a label names at most


class Group(NamedTuple):
  """Runs that differ in their seeds alone.

  Attributes:
    label: the method, and what tells the group from others of the same method.
    runs: one a seed; the finished ones where there are any, else all.
    left_out: those under way that finished ones stand in for.
  """

  label: str
  runs: list[Run]
  left_out: list[Run]


def grouped(runs: Sequence[Run]) -> list[Group]:
  """Runs by method and settings, in the order given.

  Raises:
    UserError: there is none, one is given twice, or their scores have different units.
  """
  if not runs:
    raise UserError('there are no runs to report on; give at least one results.json')
  scores = sorted({score_of(run) for run in runs})
  if len(scores) > 1:
    raise UserError(f'runs with the scores {" and ".join(scores)} cannot stand in one comparison')
  groups: dict[str, list[Run]] = {}
  for run in runs:
    groups.setdefault(json.dumps(_identity(run), sort_keys=True, default=str), []).append(run)
  for members in groups.values():
    whole = Counter(
      json.dumps(r['config'], sort_keys=True, default=str) for r in members if r.get('config')
    )
    if whole and max(whole.values()) > 1:
      raise UserError(
        f'a run of {members[0]["method"]} with seed {members[0].get("seed")} is given twice; '
        'give each run once'
      )
  labels = _labels([_identity(members[0]) for members in groups.values()])
  return [_group(label, members) for label, members in zip(labels, groups.values(), strict=True)]


def _group(label: str, members: list[Run]) -> Group:
  finished = [run for run in members if run.get('finished', True)]
  if not finished:
    return Group(label, members, [])
  return Group(label, finished, [run for run in members if run not in finished])


def score_of(run: Run) -> str:
  """`accuracy` or `log_perplexity`."""
  return run.get('score', 'accuracy')


def whole_matrix(run: Run, name: str = 'matrix') -> list[list[float | None]]:
  """The run's matrix; rows that a run under way has not written yet are null."""
  rows, tasks = list(run[name]), len(run['tasks'])
  return [*rows, *[[None] * tasks] * (tasks + 1 - len(rows))]


def metrics_of(run: Run, suffix: str = '') -> Mapping[str, float | None]:
  """The run's metrics as it wrote them, else worked out from its matrix.

  Args:
    run: its results.
    suffix: `_train` for those on the training questions.
  """
  if run.get('metrics' + suffix):
    return run['metrics' + suffix]
  return metrics(whole_matrix(run, 'matrix' + suffix), score_of(run), run.get('sizes'))


def quantities(run: Run) -> dict[str, float | None]:
  """What a comparison shows of one run: scores in the matrix's unit, seconds, shares."""
  found = metrics_of(run)
  seconds = run.get('seconds') or {}
  pseudo = run.get('pseudo') or []
  drawn, kept, distinct = (
    sum(p.get(k) or 0 for p in pseudo) for k in ('drawn', 'kept', 'distinct')
  )
  return {
    'average': found.get('average_accuracy'),
    'incremental': found.get('average_incremental_accuracy'),
    'forgetting': found.get('forgetting'),
    'backward': found.get('backward_transfer'),
    'worst': worst_just_learned(whole_matrix(run), score_of(run)),
    'train': seconds.get('train'),
    'generate': seconds.get('generate') or None,
    'invalid': _mean_of_row(whole_matrix(run, 'invalid')[-1]) if run.get('invalid') else None,
    'kept': kept / drawn if drawn else None,
    'distinct': distinct / kept if kept else None,
  }


def summary(group: Group) -> dict[str, tuple[float | None, float | None]]:
  """{quantity: (mean over seeds, half-width of its 95 % interval)}."""
  rows = [quantities(run) for run in group.runs]
  return {name: mean_and_interval([row[name] for row in rows]) for name in rows[0]}


def curve(group: Group) -> list[tuple[float, float, float] | None]:
  """[T] (mean, least, greatest) over seeds of the average score of the tasks seen so far."""
  by_seed = [average_so_far(whole_matrix(run), score_of(run)) for run in group.runs]
  return [
    None if None in values else (math.fsum(values) / len(values), min(values), max(values))
    for values in zip(*by_seed, strict=True)
  ]


def learned_and_kept(group: Group) -> list[tuple[float | None, float | None]]:
  """[T] (score right after the task was learned, score at the end), means over seeds."""
  matrices = [whole_matrix(run) for run in group.runs]
  return [
    (mean_and_interval([m[j + 1][j] for m in matrices])[0],
     mean_and_interval([m[-1][j] for m in matrices])[0])
    for j in range(len(matrices[0]) - 1)
  ]  # fmt: skip


def shown(value: float | None, unit: str) -> str:
  """A number in words: shares and accuracy in %, nats with three decimals, seconds with one."""
  if value is None:
    return NULL
  scale, digits = {'log_perplexity': (1, 3), 'seconds': (1, 1)}.get(unit, (100, 1))
  return f'{round(scale * value, digits) + 0.0:.{digits}f}'  # + 0.0: no -0.0


def in_one_line(text: Any) -> str:
  """A name without line breaks or control characters."""
  return ' '.join(''.join(c if c.isprintable() else ' ' for c in str(text)).split())


def flat(config: Mapping[str, Any], path: str = '') -> dict[str, Any]:
  """Nested settings by dotted name."""
  found = {}
  for name, value in config.items():
    inner = flat(value, f'{path}{name}.') if isinstance(value, Mapping) else {path + name: value}
    found.update(inner)
  return found


def _identity(run: Run) -> dict[str, Any]:
  """What is the same in all seeds of one method; seeds of data and order are seeds too."""
  settings = flat(run.get('config') or {})
  return {
    'method': run['method'],
    'where': f'{run.get("stream", "")} {run.get("scenario", "")}'.strip(),
    'tasks': len(run['tasks']),
    'settings': {k: v for k, v in settings.items() if not k.endswith('seed')},
  }


def _labels(identities: Sequence[Mapping[str, Any]]) -> list[str]:
  several = len({i['where'] for i in identities}) > 1
  names = [f'{i["method"]}, {i["where"]}' if several else i['method'] for i in identities]
  labels: list[str] = []
  for name, identity in zip(names, identities, strict=True):
    same = [i['settings'] for n, i in zip(names, identities, strict=True) if n == name]
    words = _differences(identity['settings'], same) if len(same) > 1 else ''
    label = in_one_line(f'{name} ({words})' if words else name)
    labels.append(label if label not in labels else f'{label} #{labels.count(label) + 1}')
  return labels


def _differences(mine: Mapping[str, Any], all_settings: Sequence[Mapping[str, Any]]) -> str:
  """`gamma 0.5, epochs 3`: the settings in which groups of one method differ."""
  names = [k for k in mine if any(k not in other or other[k] != mine[k] for other in all_settings)]
  words = [f'{name.rpartition(".")[2]} {mine[name]}' for name in names[:DIFFERENCES]]
  return ', '.join([*words, *(['…'] if len(names) > DIFFERENCES else [])])


def _mean_of_row(row: Sequence[float | None]) -> float | None:
  return mean_and_interval(row)[0]
