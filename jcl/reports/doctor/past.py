"""Checks of what is kept of the past: replay, buffer, pseudo samples."""

import statistics
from collections.abc import Iterator, Mapping

from jcl.errors import count_of
from jcl.reports.doctor.finding import Finding, Run, named, percent
from jcl.reports.results import is_number

REPLAYED = 0.02  # least share of old tokens among the training tokens of a later task
ASKED = 0.5  # least share of the old rows asked for that a later task is trained on
RATIO = 0.3  # old rows for each new one that a smaller share is raised to, the default of replay
BUFFERED = 0.2  # share of the examples seen that a larger buffer holds
AGE = (0.5, 1.5)  # bounds of the mean age in a buffer, in multiples of that with all tasks alike
SAMPLED = 30  # least number of examples in a buffer whose age is judged: fewer are chance
KEPT = 0.5  # least share of drawn pseudo samples that are well formed
DISTINCT = 0.5  # least share of kept pseudo samples that differ from each other
MOST_SAMPLES = 1.0  # pseudo samples for each new example, up to which more are advised
VERBATIM = 0.2  # largest share of kept pseudo samples that are training inputs word for word
WRITTEN = 0.25  # least share of kept pseudo samples of an old task, in multiples of an equal one
LABELLED = 0.8  # least share of kept pseudo samples that end in a label of their task


def replay(run: Run) -> Iterator[Finding]:
  """Yields replay that is too small to matter, or much less than was asked for."""
  later = [line for line in run.results.get('mix') or () if line['new'] + line['old']][1:]
  if not any(line['old'] for line in later):
    return
  tokens = statistics.fmean(line['old'] / (line['new'] + line['old']) for line in later)
  counted = [line for line in later if line.get('new_rows')]
  ratios = [line['old_rows'] / line['new_rows'] for line in counted]
  rows = statistics.fmean(r / (1 + r) for r in ratios) if ratios else None
  if tokens < REPLAYED:
    of_rows = '' if rows is None else f' ({percent(rows)} of the rows)'
    yield Finding(
      'little replay',
      f'{percent(tokens)} of the tokens{of_rows} that train a later task are old',
      'so few old tokens hold off little forgetting',
      *more_old_rows(run),
    )
  name = 'gamma' if run.setting('gamma') else 'replay_ratio'
  asked, by_rows = run.setting(name), _text(run, 'unit') in ('', 'rows')
  # Ratios of each task, general text and half-batches are no ratio of rows to the buffer's.
  if not asked or not ratios or not by_rows or _text(run, 'level') not in ('', 'dataset'):
    return
  if _text(run, 'corpus') or _setting(run, 'mix_by_task') or _text(run, 'answers') == 'own':
    return
  if (effective := statistics.fmean(ratios)) < ASKED * asked:
    yield Finding(
      'less replay than asked',
      f'later tasks train on {effective:.3g} old rows for each new one, and {name} is {asked:g}',
      'what was kept of the past does not suffice for the ratio',
      *(_more_generated(run) if name == 'gamma' else _larger(run)),
    )


def more_old_rows(run: Run) -> tuple[str, str]:
  """Returns advice to replay more, and the command."""
  if _setting(run, 'mix_by_task'):
    return f'set mix_by_task={RATIO:g}', run.again('mix', mix_by_task=f'{RATIO:g}')
  name = next((n for n in ('gamma', 'replay_ratio') if run.setting(n)), None)
  if name is None or _text(run, 'level') == 'batch':  # half of each batch is old whatever the ratio
    return _larger(run)
  now = run.setting(name) or 0.0
  better = max(10 * now, RATIO) if now < RATIO else 3 * now
  return f'raise {name}, now {now:g}, to {better:g}', run.sweep(name, [better])


def _more_generated(run: Run) -> tuple[str, str]:
  """Returns advice to learn to generate better, and the command."""
  now = run.setting('lambda_gen') or 0.0
  values = [2 * now, 4 * now] if now else [0.25, 1.0]
  return f'raise lambda_gen, now {now:g}', run.sweep('lambda_gen', values)


def _larger(run: Run) -> tuple[str, str]:
  """Returns advice to keep more examples, and the command."""
  if (now := run.setting('buffer_size')) is None:
    return 'see which old tasks are answered wrongly', run.wrong_answers()
  seen = [line['seen'] for line in run.results.get('buffer') or () if is_number(line.get('seen'))]
  better = max(10 * int(now), int(seen[-1] * BUFFERED) if seen else 0)
  return f'raise buffer_size, now {now:g}, to {better}', run.sweep('buffer_size', [better])


def _fairer(run: Run) -> tuple[str, str]:
  """Returns advice to keep all tasks alike, and the command."""
  if (policy := _text(run, 'policy')) in ('', 'reservoir', 'class_balanced'):
    return _larger(run)
  command = run.again('reservoir', policy='reservoir')
  return f'set policy=reservoir, which keeps all tasks alike, not {policy}', command


def _more_random(run: Run) -> tuple[str, str]:
  """Returns advice to sample more different texts, and the command."""
  now = run.setting('temperature') or 1.0
  return f'raise temperature, now {now:g}', run.sweep('temperature', [1.25 * now, 1.5 * now])


def _setting(run: Run, name: str) -> object:
  """Returns any setting of the method by the last part of its dotted name; None: there is none."""
  found = (v for path, v in run.settings.items() if path.split('.')[0] == 'method'
           and path.rpartition('.')[2] == name)  # fmt: skip
  return next(found, None)


def _text(run: Run, name: str) -> str:
  """Returns a setting of the method that is a text; empty where there is none."""
  return str(_setting(run, name) or '')


def buffer(run: Run) -> Iterator[Finding]:
  """Yields old tasks without an example in the newest buffer, and a buffer of an odd age."""
  buffers = [line for line in run.results.get('buffer') or () if isinstance(line, dict)]
  names = run.results['tasks']
  if not buffers or len(names) < 2:
    return
  last = buffers[-1]
  held = last.get('tasks')
  counts = held if isinstance(held, Mapping) else {}
  seen = names[: names.index(last['after']) + 1] if last.get('after') in names else []
  if lost := [name for name in seen if not counts.get(name)]:
    rows = last['examples'] if is_number(last.get('examples')) else 0
    yield Finding(
      'tasks not in the buffer',
      f'the buffer holds {count_of(rows, "example")} and none of {named(lost)}',
      'nothing of these tasks is replayed',
      *_fairer(run),
    )
  numbers = [counts[name] if is_number(counts.get(name)) else 0 for name in seen]
  if lost or len(seen) < 3 or sum(numbers) < SAMPLED:
    return
  age = sum(n * (len(seen) - 1 - i) for i, n in enumerate(numbers)) / sum(numbers)
  alike = (len(seen) - 1) / 2
  if not AGE[0] * alike <= age <= AGE[1] * alike:
    young = age < alike
    yield Finding(
      'a young buffer' if young else 'an old buffer',
      f'an example in the buffer is {age:.2g} tasks old on average, where {alike:.2g} would be '
      'that of a buffer with all tasks alike',
      'the first tasks are hardly replayed' if young else 'the last tasks are hardly replayed',
      *_fairer(run),
    )


def pseudo_samples(run: Run) -> Iterator[Finding]:
  """Yields shares of pseudo samples that are rejected, alike, copied or without a label."""
  lines = [line for line in run.results.get('pseudo') or () if line.get('drawn')]
  total = lambda name: sum(line[name] for line in lines if is_number(line.get(name)))
  drawn, kept = total('drawn'), total('kept')
  if not lines:
    return
  if kept < KEPT * max(drawn, 1):
    yield Finding(
      'pseudo samples rejected',
      f'{kept} of {drawn} pseudo samples ({percent(kept / max(drawn, 1))}) are well formed',
      'the model has not learned to write the form of its tasks, so little of them is replayed',
      *_more_generated(run),
    )
  if kept and total('distinct') < DISTINCT * kept:
    yield Finding(
      'pseudo samples alike',
      f'{total("distinct")} of {kept} kept pseudo samples ({percent(total("distinct") / kept)}) '
      'differ from each other',
      'a few texts are replayed again and again',
      *_more_random(run),
    )
  if kept and total('verbatim') > VERBATIM * kept:
    yield Finding(
      'pseudo samples copied',
      f'{total("verbatim")} of {kept} kept pseudo samples ({percent(total("verbatim") / kept)}) '
      'are training inputs word for word',
      'the model gives its training data away, which matters where old data may not be kept',
      *_more_random(run),
    )
  yield from _unwritten(run, lines[-1])
  labelled = [line for line in lines if is_number(line.get('valid_label')) and line.get('kept')]
  if labelled:
    count, of = (sum(line[name] for line in labelled) for name in ('valid_label', 'kept'))
    if count < LABELLED * of:
      yield Finding(
        'pseudo samples without a label',
        f'{count} of {of} kept pseudo samples ({percent(count / of)}) end in a label of their task',
        'wrong answers are replayed as right ones',
        'set require_known_label=true',
        run.again('known-labels', require_known_label='true'),
      )


def _unwritten(run: Run, line: Mapping[str, object]) -> Iterator[Finding]:
  """Yields old tasks of which the generator writes hardly anything any more.

  Args:
    run: the run.
    line: newest line of `pseudo`, which counts samples by task where one token serves all tasks.
  """
  found = line.get('by_task')
  counts = {k: v for k, v in found.items() if is_number(v)} if isinstance(found, Mapping) else {}
  total = sum(counts.values())
  if total < SAMPLED or len(counts) < 2:
    return
  alike = total / len(counts)
  if few := [name for name, count in counts.items() if count < WRITTEN * alike]:
    yield Finding(
      'tasks not written',
      f'{sum(counts[name] for name in few)} of the {total} pseudo samples before {line["before"]} '
      f'are of {named(few)}, where {len(few) * alike:.3g} would be an equal share',
      'the generator forgets these tasks, and what it does not write is not replayed',
      *better_generator(run),
    )


def better_generator(run: Run) -> tuple[str, str]:
  """Returns advice to generate old tasks alike, then more of them, and the command."""
  if _setting(run, 'task_tokens') is False:
    return (
      'set task_tokens=true, so that the generator has a token for each old task',
      run.again('task-tokens', task_tokens='true'),
    )
  now = run.setting('gamma') or 0.0
  if now < MOST_SAMPLES:
    better = min(max(2 * now, 0.5), MOST_SAMPLES)
    return f'raise gamma, now {now:g}, to {better:g}', run.sweep('gamma', [better])
  return _more_generated(run)
