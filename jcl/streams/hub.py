"""Data sets that the Hugging Face library reads, from the hub or from one folder.

The files of a folder may name other files anywhere on the disk (`data_files` of its README.md, the
list of a saved data set, symbolic links). All names are checked before a file is read. No code of a
data set is run: the library runs none since its version 4.
"""

import contextlib
import importlib
import logging
import os
import pathlib
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast, overload, runtime_checkable

from jcl.errors import UserError
from jcl.storage.progress import has_bars
from jcl.streams.raw import narrow
from jcl.streams.records import Record
from jcl.streams.stream import Lazy

NAME = r'\w[\w.-]*(/\w[\w.-]*)?'  # form of the name of a model or data set on the hub
SAVED = ('state.json', 'dataset_dict.json')
DESCRIBED = ('README.md', '.huggingface.yaml')


def imported(name: str) -> types.ModuleType:
  """Returns a library that can reach the hub, its telemetry turned off.

  A module inside a library is asked for by its full name: whether the library has it as an
  attribute depends on what was imported before.
  """
  os.environ['HF_HUB_DISABLE_TELEMETRY'] = '1'  # read at import, by child processes too
  from huggingface_hub import constants

  constants.HF_HUB_DISABLE_TELEMETRY = True  # the library may have been imported before
  return importlib.import_module(name)


@contextlib.contextmanager
def library_bars(*libraries: Any, shown: bool) -> Iterator[None]:
  """Lets libraries of Hugging Face show the progress of what they do inside, or hides it.

  Args:
    *libraries: `datasets.utils`, `huggingface_hub.utils`.
    shown: whether they may show it; where the user has turned it off they do not.
  """
  turned_off = [one for one in libraries if not shown and not one.are_progress_bars_disabled()]
  for one in turned_off:
    one.disable_progress_bars()
  try:
    yield
  finally:
    for one in turned_off:
      one.enable_progress_bars()


@runtime_checkable
class DataSet(Protocol):
  """Part of `datasets.Dataset` that jcl uses."""

  @property
  def features(self) -> Mapping[str, object]:
    """Type of each column."""

  def __len__(self) -> int: ...

  def __iter__(self) -> Iterator[dict[str, object]]: ...

  def __getitem__(self, place: int) -> dict[str, object]: ...

  def with_format(self, type: str | None) -> 'DataSet':
    """Returns the data set with values as plain Python has them (None), or of another kind."""


class Mapped(Sequence[dict[str, object]]):
  """The rows of a data set of the library, which maps its files and reads what is asked for."""

  def __init__(self, data: DataSet):
    self._data = data

  def __len__(self) -> int:
    return len(self._data)

  def __iter__(self) -> Iterator[dict[str, object]]:
    return iter(self._data)

  @overload
  def __getitem__(self, place: int) -> dict[str, object]: ...

  @overload
  def __getitem__(self, place: slice) -> list[dict[str, object]]: ...

  def __getitem__(self, place: int | slice) -> dict[str, object] | list[dict[str, object]]:
    if not isinstance(place, slice):
      return self._data[place]
    columns = cast(Mapping[str, Sequence[object]], self._data[cast(int, place)])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def records(data: DataSet, where: Callable[[int], str], lazy: bool) -> Sequence[Record]:
  """Returns the rows of a data set as records.

  Args:
    data: data set of the library.
    where: returns the place of a row as error messages name it, from its index.
    lazy: whether rows stay on the disk until they are needed. If not, the index of a class becomes
      the name of the class, None where it has none, and float16 and float32 keep their digits.
  """
  data = data.with_format(None)
  if lazy:
    return Lazy(Mapped(data), lambda place, fields: Record(where(place), fields))
  changed = {column: feature for column, feature in data.features.items() if has_other(feature)}
  found = []
  for place, fields in enumerate(data):
    for column, feature in changed.items():
      fields[column] = as_meant(fields[column], feature)
    found.append(Record(where(place), fields))
  return found


def has_other(feature: object) -> bool:
  """Whether `as_meant` changes values of a type of the library."""
  if isinstance(feature, Mapping):
    return any(map(has_other, feature.values()))
  if isinstance(feature, list):
    return any(map(has_other, feature))
  inner = getattr(feature, 'feature', None)
  return has_other(inner) if inner is not None else _is_class(feature) or _is_narrow(feature)


def as_meant(value: object, feature: Any) -> object:
  """Returns a value as its type means it.

  The name of a class stands for its index, None where it has none; a float of 16 or 32 bits has its
  own digits.
  """
  if _is_class(feature):
    known = isinstance(value, int) and 0 <= value < len(feature.names)
    return feature.names[cast(int, value)] if known else None
  if _is_narrow(feature):
    return narrow(value, feature.dtype)
  if isinstance(feature, Mapping) and isinstance(value, Mapping):
    return {k: as_meant(x, feature[k]) if k in feature else x for k, x in value.items()}
  inner = feature[0] if isinstance(feature, list) else getattr(feature, 'feature', None)
  if inner is not None and isinstance(value, list):
    return [as_meant(entry, inner) for entry in value]
  return value


def _is_class(feature: object) -> bool:
  return hasattr(feature, 'int2str') and hasattr(feature, 'names')


def _is_narrow(feature: object) -> bool:
  return getattr(feature, 'dtype', None) in ('float16', 'float32')


def data_set(
  name: str,
  path: pathlib.Path | None,
  config: str | None,
  split: str | None,
  usual: str,
  roots: Sequence[pathlib.Path],
) -> DataSet:
  """Reads one split of a data set.

  Args:
    name: name of the data set in the manifest.
    path: folder of the data set; None: the data set is on the hub.
    config: variant of the data set; None: the only one. A saved data set has none.
    split: split that is wanted, perhaps a slice: `train[:80%]`. None: `usual`, or all rows of a set
      without splits, which `Dataset.save_to_disk` wrote.
    usual: name of the split in most data sets.
    roots: folders that files may lie in.

  Raises:
    UserError: a file lies in none of `roots`, or the hub can have no such name.
    Exception: the library cannot read the data.
  """
  if path is None and not re.fullmatch(NAME, name):
    raise UserError(f'{name!r} is no folder and no name on the hub: correct it')
  datasets, utils = map(imported, ('datasets', 'datasets.utils'))
  datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
  logging.getLogger('datasets').setLevel(logging.CRITICAL)  # the caller reports errors
  if path is None:
    with library_bars(utils, imported('huggingface_hub.utils'), shown=has_bars()):
      return datasets.load_dataset(name, config, split=split or usual)
  with library_bars(utils, shown=False):
    return _in_folder(name, path, config, split, usual, roots)


def _in_folder(
  name: str, path: pathlib.Path, config: str | None, split: str | None, usual: str,
  roots: Sequence[pathlib.Path],
) -> DataSet:  # fmt: skip
  """Reads one split of a data set in a folder; arguments and errors as of `data_set`."""
  datasets = imported('datasets')
  if any((path / file).is_file() for file in SAVED):
    if config is not None:
      raise UserError(
        f"{name}: 'config' is {config!r}, but a data set of save_to_disk has no variants: leave it "
        'out, or name the folder of the variant'
      )
    data = datasets.load_from_disk(str(path))
    whole = isinstance(data, datasets.DatasetDict)
    parts = dict(data) if whole else {str(data.split or 'train'): data}
    if not whole and data.split is None:  # its rows may be those of any split
      parts[usual] = data
    listed = (file['filename'] for part in parts.values() for file in part.cache_files)
    check_inside(name, listed, roots)
    return data if split is None and not whole else sliced(parts, split or usual)
  check_described(name, path)
  builder = datasets.load_dataset_builder(str(path), config)
  check_inside(name, (f for part in builder.config.data_files.values() for f in part), roots)
  builder.download_and_prepare()
  return builder.as_dataset(split=split or usual)


def sliced(parts: Mapping[str, Any], split: str) -> DataSet:
  """Returns the rows that a split names.

  Args:
    parts: the data set of each split.
    split: as the library writes splits: `train`, `train[:80%]`, `train[8:]`, `train+test`.

  Raises:
    ValueError: there is no such split or slice.
  """
  datasets = imported('datasets')
  sizes = {name: len(part) for name, part in parts.items()}
  cuts = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
  rows = []
  for cut in cuts:
    end = sizes[cut.splitname] if cut.to is None else cut.to
    rows.append(parts[cut.splitname].select(range(cut.from_ or 0, end)))
  return rows[0] if len(rows) == 1 else datasets.concatenate_datasets(rows)


def check_inside(name: str, files: Iterable[object], roots: Sequence[pathlib.Path]) -> None:
  """Refuses a data set with a file that lies, links followed, in none of `roots`."""
  for file in files:
    place = pathlib.Path(str(file)).resolve()
    if not any(place.is_relative_to(root) for root in roots):
      raise UserError(
        f"{name}: its file {str(file)!r} lies outside the manifest's folder: take it out of the "
        "data set, or list its folder in 'folders'"
      )


def check_described(name: str, path: pathlib.Path) -> None:
  """Refuses a folder whose own description names files at an address."""
  import yaml  # a dependency of the library, which reads the same text with it

  for file in DESCRIBED:
    if not (path / file).is_file():
      continue
    text = (path / file).read_text('utf-8')
    if file == 'README.md':
      front = re.match(r'---\s*\n(.*?)\n---', text, re.DOTALL)
      text = front[1] if front else ''
    described = yaml.safe_load(text)
    configs = described.get('configs') if isinstance(described, dict) else None
    for found in strings(configs, set()):
      if '://' in found or '::' in found:
        raise UserError(f'{name}/{file}: {found!r} is an address: name files of the folder')


def strings(value: object, seen: set[int]) -> Iterator[str]:
  """Yields every text in nested lists and dicts.

  Args:
    value: a text, list or dict; anything else has no text.
    seen: ids of the lists and dicts so far, each of which is visited once; grows.
  """
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list) and id(value) not in seen:
    seen.add(id(value))
    for part in [*value, *value.values()] if isinstance(value, dict) else value:
      yield from strings(part, seen)
