"""What a `results.json` must hold to be reported on: the file may be old, damaged or another's."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from jcl.errors import UserError
from jcl.reports import report


class Optional:
  """A part that may be missing or null."""

  def __init__(self, inner: Any):
    self.inner = inner


class Each:
  """A dict with any keys, of parts of one kind."""

  def __init__(self, inner: Any):
    self.inner = inner


NUMBER = 'a finite number'
CELLS = [[Optional(NUMBER)]]
FIGURES = Optional(Each(Optional(NUMBER)))
RUN = {
  'method': str, 'tasks': [str], 'matrix': CELLS, 'stream': Optional(str),
  'scenario': Optional(str), 'seed': Optional(NUMBER), 'score': Optional(str),
  'matrix_train': Optional(CELLS), 'invalid': Optional(CELLS), 'sizes': Optional([NUMBER]),
  'metrics': FIGURES, 'metrics_train': FIGURES, 'seconds': FIGURES, 'tokens': FIGURES,
  'cost': FIGURES, 'config': Optional(dict), 'finished': Optional(bool),
  'params_sha256': Optional(str), 'resumes': Optional([dict]),
  'negative_flips': Optional({'count': NUMBER, 'of': NUMBER, 'examples': Optional(list)}),
  'refused_steps': Optional([{'task': str, 'count': NUMBER}]),
  'mix': Optional([{'task': str, 'new': NUMBER, 'old': NUMBER}]),
  'drift': Optional([{'task': str, 'kl': NUMBER, 'perplexity': NUMBER}]),
  'pseudo': Optional([{'drawn': Optional(NUMBER), 'kept': Optional(NUMBER),
                       'distinct': Optional(NUMBER), 'samples': Optional(list)}]),
}  # fmt: skip


def read(file: pathlib.Path) -> dict[str, Any]:
  """The results of a run.

  Raises:
    UserError: the file is damaged, or holds something else; it names the part.
  """
  try:
    found = json.loads(file.read_text('utf-8'))
  except (ValueError, RecursionError):
    raise UserError(f'{file} is not JSON; leave this run out') from None
  if fault := _fault(found, RUN, ''):
    raise UserError(f'{file}: {fault}; leave this run out')
  if not found['tasks'] or len(found['matrix']) > len(found['tasks']) + 1:
    raise UserError(f'{file}: tasks and matrix do not fit together; leave this run out')
  try:
    report.matrix_table(found)
  except UserError as error:
    raise UserError(f'{file}: {error}; leave this run out') from None
  return found


def _fault(value: Any, wanted: Any, path: str) -> str:
  """What is wrong with a part, in words; empty if nothing is."""
  if isinstance(wanted, Optional):
    return '' if value is None else _fault(value, wanted.inner, path)
  if wanted is NUMBER:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right = number and abs(value) < 1e300 and math.isfinite(value)
    return '' if right else f'{path} is not {NUMBER}'
  if isinstance(wanted, type):
    return '' if isinstance(value, wanted) else f'{path or "it"} is not of type {wanted.__name__}'
  if isinstance(wanted, list):
    parts = list(enumerate(value)) if isinstance(value, list) else None
    kinds = {i: wanted[0] for i, _ in parts or ()}
  else:
    parts = list(value.items()) if isinstance(value, dict) else None
    kinds = {k: wanted.inner for k, _ in parts or ()} if isinstance(wanted, Each) else wanted
  if parts is None:
    kind = 'a list' if isinstance(wanted, list) else 'an object'
    return f'{path or "it"} is not {kind}'
  inner: Mapping[Any, Any] = dict(parts)
  faults = (
    _fault(inner.get(key), kind, f'{path}.{key}'.lstrip('.')) for key, kind in kinds.items()
  )
  return next(filter(None, faults), '')
