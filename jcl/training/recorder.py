"""The record of a run: seconds, tokens, the accuracy matrix, `results.json`."""

import contextlib
import dataclasses
import json
import pathlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import flax
import jax
from jax.sharding import Mesh

import jcl
from jcl import distributed, methods
from jcl.batching.packed_text import Blocks
from jcl.distributed import is_first
from jcl.reports import report
from jcl.reports.answer_metrics import EXACT
from jcl.reports.formatting import format_number
from jcl.reports.metrics import metrics, negative_flips
from jcl.reports.results import Results
from jcl.storage.atomic import write_json
from jcl.streams.stream import Task
from jcl.training import answer_counts, kept_bytes, loss_check
from jcl.training.evaluate import LogPerplexity, Score
from jcl.training.experiment import Experiment
from jcl.training.hook_tools import HookTools
from jcl.training.model_digest import digest
from jcl.types import Json, Memory, Params

MIX = ('new', 'old', 'new_rows', 'old_rows')
KINDS = ('train', 'generate', 'evaluate', 'memory', 'compile')
_compiled = 0.0  # seconds that this process has spent in compilation


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
  global _compiled
  if event.startswith('/jax/core/compile/'):
    _compiled += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


class Clock:
  """Seconds by kind of work. Compilation is a kind of its own, not part of the work it delays."""

  def __init__(self):
    self.seconds = dict.fromkeys(KINDS, 0.0)
    self._kinds: list[str] = []
    self._since = (0.0, 0.0)

  def settle(self) -> None:
    """Adds the time since the last call to the kind of work under way."""
    wall, compiled = time.monotonic(), _compiled
    if self._kinds:
      compiling = compiled - self._since[1]
      self.seconds['compile'] += compiling
      self.seconds[self._kinds[-1]] += max(wall - self._since[0] - compiling, 0.0)
    self._since = wall, compiled

  @contextlib.contextmanager
  def of(self, kind: str) -> Iterator[None]:
    """Times what happens inside as `kind`; generation during an evaluation counts as evaluation."""
    self.settle()
    self._kinds.append('evaluate' if 'evaluate' in self._kinds else kind)
    try:
      yield
    finally:
      self.settle()
      self._kinds.pop()


class Recorder:
  """Everything that `results.json` is made of, as plain data that a snapshot can hold."""

  def __init__(self, parts: Experiment):
    self._parts = parts
    self._state: Json = {
      'matrix': [], 'matrix_train': [], 'invalid': [], 'right': {}, 'last': {}, 'reports': {},
      'mix': {}, 'refused': {}, 'doubtful': {}, 'answer_scores': {}, 'weights': {}, 'answered': {},
      'by_class': [], 'norms': {'task': -1, 'shapes': []},
    }  # fmt: skip
    self.seconds = dict.fromkeys(KINDS, 0.0)
    self.tokens = {'train': 0, 'generate': 0}
    self.resumes: list[dict] = []  # of all times, read from a file: no snapshot is as new
    self._memory_bytes: int | None = None

  def state(self) -> Json:
    """Returns the record as a snapshot holds it."""
    return {**self._state, 'seconds': dict(self.seconds), 'tokens': dict(self.tokens)}

  def restore(self, state: Json) -> None:
    """Sets the record to that of a snapshot."""
    state = dict(state)
    self.seconds, self.tokens = state.pop('seconds'), state.pop('tokens')
    self._state |= state

  def resume(self, phase: int, step: int, snapshot: int, repeated: tuple[int, int]) -> dict:
    """Returns the entry of `resumes` for a run that goes on from a snapshot.

    Args:
      phase: phases done.
      step: steps taken in the task under way.
      snapshot: number of the snapshot.
      repeated: steps and chunks that were done after the snapshot and are done again.
    """
    inside = max(phase - 2, 0)
    names = ('before_task', 'train', 'after_task', 'evaluate')
    return {
      'phase': names[inside % 4] if phase >= 2 else ('init', 'evaluate')[phase],
      'task': inside // 4 if phase >= 2 else None,
      'step': step if phase >= 2 and inside % 4 == 1 else 0,
      'from_snapshot': snapshot,
      'steps_repeated': repeated[0],
      'chunks_repeated': repeated[1],
    }

  def take(self, tools: HookTools, clock: Clock) -> None:
    """Moves what hooks reported, sampled tokens and seconds into the record."""
    mine = self._state['reports']
    self._state['reports'] = mine | {k: [*mine.get(k, []), *v] for k, v in tools.reports.items()}
    tools.reports.clear()
    self.tokens['generate'] += tools.folds.generated
    tools.folds.generated = 0
    clock.settle()
    for kind, seconds in clock.seconds.items():
      self.seconds[kind] += seconds
      clock.seconds[kind] = 0.0

  def trained(self, task: Task, tokens: int, old: int, rows: tuple[int, int] = (0, 0)) -> None:
    """Counts the `tokens` of a step, of which `old` come from the past, and its (new, old) rows."""
    self.tokens['train'] += tokens
    mix, step = self._state['mix'], (tokens - old, old, *rows)
    before = [*mix.get(task.index, ()), 0, 0, 0, 0]  # an older snapshot counts no rows
    self._state['mix'] = {**mix, task.index: [a + b for a, b in zip(before, step, strict=False)]}

  def weighed(self, task: Task, weights: Mapping[str, float]) -> None:
    """Notes the weight of each term of a task's loss."""
    if self._state['weights'].get(task.index) != weights:
      self._state['weights'] = {**self._state['weights'], task.index: dict(weights)}

  def kept(self, memory: Memory) -> None:
    """Notes the bytes that the method carries from task to task."""
    self._memory_bytes = kept_bytes.bytes_kept(memory, self._parts.stream)

  def refused(self, task: Task) -> int:
    """Counts a step that was not applied; returns the count of such steps in the task."""
    count = self._state['refused'].get(task.index, 0) + 1
    self._state['refused'] = {**self._state['refused'], task.index: count}
    return count

  def doubtful(
    self, task: Task, values: Mapping[str, float], uniform: float, step: int, last: bool
  ) -> list[str]:
    """Returns the terms of a step that no model has and that are warned of now.

    Args:
      task: the task under way.
      values: {term: value} of the step.
      uniform: nats of a uniform guess.
      step: number of the step in its task, from 1.
      last: whether it is the last of its task.
    """
    counts = {} if step == 1 else self._state['doubtful']
    found, self._state['doubtful'] = loss_check.doubtful(values, uniform, counts, step, last)
    for term in found:
      line = loss_check.describe(task.name, step, term, values[term], uniform)
      reports = self._state['reports']
      self._state['reports'] = reports | {'warnings': [*reports.get('warnings', []), line]}
    return found

  def has_norms(self, task: Task, shape: str | None = None) -> bool:
    """Returns whether gradients of terms were measured in this task, or in batches of a shape."""
    norms = self._state['norms']
    return norms['task'] == task.index if shape is None else shape in norms['shapes']

  def took_norms(self, task: Task, shape: str) -> None:
    """Notes a measure of the gradients of terms."""
    shapes = dict.fromkeys([*self._state['norms']['shapes'], shape])
    self._state['norms'] = {'task': task.index, 'shapes': list(shapes)}

  def _pad(self, values: Sequence) -> list:
    return [*values, *[None] * (len(self._parts.stream) - len(values))]

  def skip_row(self) -> None:
    """Adds a row of nulls for a task after which nothing was trained."""
    for name in ('matrix', 'invalid', 'matrix_train'):
      self._state[name] = [*self._state[name], self._pad([])]

  def add_row(
    self,
    task: Task | None,
    scores: Sequence[Score | LogPerplexity],
    trained: Sequence[Score | LogPerplexity] | None,
  ) -> None:
    """Adds a row: the scores on the first tasks of the stream.

    Args:
      task: the task just learned; None: before any training.
      scores: on the test splits.
      trained: on the training splits, in scenario iil.
    """
    state = self._state
    state['matrix'] = [*state['matrix'], self._pad([s.value for s in scores])]
    state['invalid'] = [*state['invalid'], self._pad([s.invalid for s in scores])]
    state['answer_scores'] = self._with_row(scores, len(state['matrix']))
    on_train = self._pad([s.value for s in trained or ()])
    state['matrix_train'] = [*state['matrix_train'], on_train]
    if task is not None and scores[task.index].right is not None:
      right = lambda t: [bool(r) for r in scores[t].right or ()]
      state['right'] = {**state['right'], task.index: right(task.index)}
      state['last'] = {t: right(t) for t in state['right']}
      state['answered'] = {
        t: answer_counts.wrong_now(
          self._parts.stream, state['right'][t], state['last'][t], scores[t]
        )
        for t in state['right']
      }
      state['by_class'] = [
        line
        for t in range(task.index + 1)
        for line in answer_counts.by_class(self._parts.stream, t, scores[t])
      ]

  def _with_row(self, scores: Sequence[Score | LogPerplexity], rows: int) -> Json:
    """Returns {metric: matrix} of `rows` rows, of which `scores` are the last."""
    measured = [s.measured for s in scores if isinstance(s, Score)]
    found, earlier = {}, self._state['answer_scores']
    for name in dict.fromkeys(name for values in measured for name in values):
      known = earlier.get(name, [])
      skipped = [self._pad([])] * (rows - 1 - len(known))
      found[name] = [*known, *skipped, self._pad([values.get(name) for values in measured])]
    return found

  def line(self, task: Task | None) -> str:
    """The newest row as a line of text."""
    names = [t.name for t in self._parts.stream.tasks]
    row = self._state['matrix'][-1]
    score = self._parts.score
    cells = [
      f'{n} {format_number(v, score)}' for n, v in zip(names, row, strict=True) if v is not None
    ]
    after = 'before training' if task is None else f'after {task.name}'
    own = dict.fromkeys(t.metric for t in self._parts.stream.tasks)
    right = '% right' if list(own) == [EXACT] else f'%: {", ".join(own)}'
    unit = right if score == 'accuracy' else 'nats per token'
    return f'{after}: {", ".join(cells)} ({unit})'

  def _flips(self) -> Json | None:
    """The test examples that were right after their task and are wrong now."""
    if self._parts.score == 'log_perplexity':
      return None
    tasks, right, last = self._parts.stream.tasks, self._state['right'], self._state['last']
    flips = negative_flips([right.get(t.index) for t in tasks], [last.get(t.index) for t in tasks])
    return {
      'count': len(flips),
      'of': sum(map(sum, right.values())),
      'examples': answer_counts.flips(self._parts.stream, flips, self._state['answered']),
    }

  def results(self, params: Params, finished: bool) -> Results:
    """The contents of `results.json`."""
    parts, state = self._parts, self._state
    text = parts.score == 'log_perplexity'
    tests = [t.test for t in parts.stream.tasks]
    sizes = [test.targets if isinstance(test, Blocks) else len(test) for test in tests]
    iil = parts.config.scenario == 'iil'
    missing = len(parts.stream) + 1 - len(state['matrix'])
    whole = lambda rows: [*rows, *[self._pad([])] * missing]
    matrix, on_train = whole(state['matrix']), whole(state['matrix_train'])
    pseudo = state['reports'].get('pseudo', [])
    cost = {k: v for line in state['reports'].get('cost', []) for k, v in line.items()}
    kept = {} if self._memory_bytes is None else {'memory_bytes': self._memory_bytes}
    found = {
      'jcl': jcl.__version__,
      'method': methods.name_of(parts.config.method),
      'stream': parts.stream.name,
      'scenario': parts.config.scenario,
      'seed': parts.config.train.seed,
      'tasks': [t.name for t in parts.stream.tasks],
      'sizes': sizes,
      'score': parts.score,
      'matrix': matrix,
      'matrix_train': on_train if iil else None,
      'metrics': self._metrics(matrix, sizes),
      **({'metrics_train': self._metrics(on_train)} if iil else {}),
      'invalid': None if text else whole(state['invalid']),
      'task_metrics': None if text else [t.metric for t in parts.stream.tasks],
      'answer_scores': {
        name: [*rows, *[self._pad([])] * (len(parts.stream) + 1 - len(rows))]
        for name, rows in state['answer_scores'].items()
      },
      'negative_flips': self._flips(),
      'by_class': state['by_class'],
      'seconds': {k: round(v, 2) for k, v in self.seconds.items()},
      'tokens': dict(self.tokens),
      'mix': self._by_task('mix', lambda n: dict(zip(MIX, n, strict=False))),
      'weights': self._by_task('weights', lambda terms: {'terms': terms}),
      'refused_steps': self._by_task('refused', lambda count: {'count': count}),
      'drift': state['reports'].get('drift', []),
      'probe': state['reports'].get('probe', []),
      'pseudo': pseudo,
      'buffer': state['reports'].get('buffer', []),
      'cost': {'models': 1, **kept, **cost},
      'warnings': state['reports'].get('warnings', []),
      'cut_rows': len(parts.text.cut),
      'overlap': dict(parts.stream.overlap),
      'machine': machine(parts.tools.mesh),
      'resumes': self.resumes,
      'config': dataclasses.asdict(parts.config),
      'params_sha256': digest(params) if finished else None,
      'finished': finished,
    }
    own = {kind: lines for kind, lines in state['reports'].items() if kind not in found}
    return cast(Results, found | own)  # lists that a method from outside reports

  def _by_task(self, name: str, fields: Callable[[Any], Json]) -> list[Json]:
    """Returns a line for each task that has an entry in a part of the record.

    Args:
      name: of the part, {index of a task: entry}.
      fields: entry -> the fields of its line.
    """
    found, tasks = self._state[name], self._parts.stream.tasks
    return [{'task': t.name, **fields(found[t.index])} for t in tasks if t.index in found]

  def _metrics(self, matrix: list, sizes: list[int] | None = None) -> Json:
    found = metrics(matrix, self._parts.score, sizes)
    by_label = self._parts.config.evaluate.answer == 'score' or self._parts.tools.heads is not None
    if by_label and not self._parts.task_id_given:
      found['forward_transfer'] = None  # labels of a task to come may not be answered
    return found

  def write(
    self, workdir: pathlib.Path, params: Params, finished: bool, lines: Sequence[Json]
  ) -> Results:
    """Writes `results.json` and the page, after the last task the picture; returns the results.

    Args:
      workdir: of the run.
      params: after the newest task.
      finished: whether that was the last.
      lines: of `metrics.jsonl`.
    """
    results = self.results(params, finished)
    if not is_first():
      return results
    if (file := workdir / 'config_changes.jsonl').is_file():
      lines_of_config = file.read_text('utf-8').splitlines()
      results['config_changes'] = [json.loads(line) for line in lines_of_config]
    write_json(workdir / 'results.json', results)
    report.html_report([results], workdir / 'report.html', [lines], [str(workdir)])
    if finished:
      (workdir / 'figures').mkdir(exist_ok=True)
      report.heat_map(results, workdir / 'figures' / 'accuracy.png')
    return results


def machine(mesh: Mesh) -> Json:
  """Returns the versions, the system and the devices that a run works on."""
  return {
    **distributed.machine(mesh),
    'processes': jax.process_count(),
    'flax': flax.__version__,
    'python': platform.python_version(),
    'system': f'{platform.system()} {platform.release()} {platform.machine()}',
  }
