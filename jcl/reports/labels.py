"""Names of the groups of a comparison: the method, its model, and settings that truly differ."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jcl.reports.formatting import flatten, one_line, short_method_name
from jcl.reports.results import Results

DIFFERENCES = 2  # settings that a label names at most
SCRATCH = 'from scratch'
# Settings that make a model another one; the rest of `backbone` is how it computes.
MODEL = tuple(f'backbone.{name}' for name in (
  'path', 'family', 'width', 'layers', 'heads', 'feed_forward', 'tokenizer', 'tokenizer_path',
  'vocabulary', 'head', 'pooling', 'depth',
))  # fmt: skip
FIRST = ('method.', 'train.')  # what a label names before other settings
PLACES = ('stream.path', 'checkpoint.')  # where files are, and when they are written


class Identity(NamedTuple):
  """Settings that all seeds of one method share; seeds of data and of order are seeds too.

  Attributes:
    method: its name.
    where: stream and scenario.
    tasks: number of tasks.
    settings: by dotted name, `plain`.
  """

  method: str
  where: str
  tasks: int
  settings: Mapping[str, object]

  @property
  def model(self) -> tuple[object, ...]:
    """The settings that make a model another one; None for those that the run has not."""
    return tuple(self.settings.get(name) for name in MODEL)

  @property
  def conditions(self) -> tuple[object, ...]:
    """Model, stream and scenario: scores under other conditions say nothing of the methods."""
    stream = [(k, v) for k, v in self.settings.items()
              if k.startswith('stream.') and not k.startswith(PLACES)]  # fmt: skip
    return (self.where, self.model, tuple(sorted(stream)))


def identity(run: Results) -> Identity:
  """Returns the settings of a run that are no seeds."""
  settings = flatten(run.get('config') or {})
  return Identity(
    run['method'],
    f'{run.get("stream", "")} {run.get("scenario", "")}'.strip(),
    len(run['tasks']),
    {name: plain(value) for name, value in settings.items() if not name.endswith('seed')},
  )


def plain(value: object) -> object:
  """Returns a value so that equal settings are equal: a list is a tuple, and 100 is 100.0."""
  if isinstance(value, list | tuple):
    return tuple(map(plain, value))
  if isinstance(value, Mapping):
    return tuple(sorted((str(k), plain(v)) for k, v in value.items()))
  if isinstance(value, float) and value.is_integer():
    return int(value)
  return value


def labels(identities: Sequence[Identity]) -> list[str]:
  """Returns a label for each group; no two are equal.

  A label has the method and, where the models of the groups differ, the model. Of groups that are
  alike in these it names the settings that tell them apart; `…` stands for further differences.
  """
  several = len({i.where for i in identities}) > 1
  methods = _method_labels([i.method for i in identities])
  names = [
    f'{method}, {i.where}' if several else method
    for method, i in zip(methods, identities, strict=True)
  ]
  models = model_names(identities)
  keys = list(zip(names, models, strict=True))
  found, times = [], Counter[str]()
  for key, mine in zip(keys, identities, strict=True):
    same = [i.settings for k, i in zip(keys, identities, strict=True) if k == key]
    words = [*([key[1]] if key[1] else []), *_differences(mine.settings, same)]
    label = one_line(f'{key[0]} ({", ".join(words)})' if words else key[0])
    times[label] += 1
    found.append(label if times[label] == 1 else f'{label} #{times[label]}')
  return found


def model_names(identities: Sequence[Identity]) -> list[str]:
  """Returns the model of each group in a word or two; all empty where they have the same name.

  A model has the name of its folder or file, with as many folders before it as tell it from others.
  """
  paths = [str(i.settings.get('backbone.path') or '') for i in identities]
  if len(set(paths)) < 2:
    return [''] * len(paths)
  parts = {path: path.removesuffix('.gguf').rstrip('/').split('/') for path in paths}
  count = 1
  while len({tuple(words[-count:]) for words in parts.values()}) < len(parts):
    if count >= max(map(len, parts.values())):
      break
    count += 1
  return ['/'.join(parts[path][-count:]) if path else SCRATCH for path in paths]


def setting(name: str, value: object) -> str:
  """Returns a setting in words, by the last part of its name; whole where that says little."""
  if isinstance(value, tuple):
    value = ' '.join(map(str, value))
  last = name.rpartition('.')[2]
  return f'{name if last in ("name", "path") else last} {"none" if value in ("", None) else value}'


def differing(settings: Sequence[Mapping[str, object]]) -> list[str]:
  """Returns the names of settings that are not the same in all groups, the method's first.

  Places of files are among them only where nothing else differs.
  """
  names = dict.fromkeys(name for one in settings for name in one)
  found = [n for n in names if len({str(one.get(n, ...)) for one in settings}) > 1]
  rank = lambda name: next((i for i, p in enumerate(FIRST) if name.startswith(p)), len(FIRST))
  return sorted([n for n in found if not n.startswith(PLACES)] or found, key=rank)


def unlike(identities: Sequence[Identity]) -> list[str]:
  """Returns the names of the settings of stream and scenario that differ; see `conditions`."""
  own = lambda name: name == 'scenario' or name.startswith('stream.')
  found = differing([{k: v for k, v in i.settings.items() if own(k)} for i in identities])
  return [name for name in found if not name.startswith(PLACES)] or ['scenario']


def _method_labels(names: Sequence[str]) -> list[str]:
  """Returns the short names of methods; the full name where two methods have one short name."""
  full: dict[str, set[str]] = {}
  for name in names:
    full.setdefault(short_method_name(name), set()).add(name)
  return [
    short if len(full[short]) == 1 else name
    for name, short in zip(names, map(short_method_name, names), strict=True)
  ]


def _differences(mine: Mapping[str, object], everyone: Sequence[Mapping[str, object]]) -> list[str]:
  """Returns `gamma 0.5`, `epochs 3`: settings that tell groups of one method and model apart.

  A setting that tells no further groups apart is not named.
  """
  names = differing(everyone)
  chosen: list[str] = []
  classes = lambda some: len({tuple(str(one.get(n)) for n in some) for one in everyone})
  for name in names:
    if len(chosen) < DIFFERENCES and classes([*chosen, name]) > classes(chosen):
      chosen.append(name)
  words = [setting(name, mine[name]) for name in chosen if name in mine]
  return [*words, *(['…'] if len(names) > len(chosen) else [])]
