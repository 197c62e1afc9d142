"""Data sets that the Hugging Face library reads: of the hub, or of a folder and of nothing else.

A folder's own words may name files anywhere (`data_files` of its README.md, the list of a saved
set, symbolic links); they are looked at before anything is read. No code of a data set is run: the
library has not done so since its version 4.
"""

import importlib
import logging
import os
import pathlib
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jcl.errors import UserError

NAME = r'\w[\w.-]*(/\w[\w.-]*)?'  # of a model or data set on the hub
SAVED = ('state.json', 'dataset_dict.json')
DESCRIBED = ('README.md', '.huggingface.yaml')


def imported(name: str) -> types.ModuleType:
  """A library that can reach the hub, without what it tells the hub of its users."""
  os.environ['HF_HUB_DISABLE_TELEMETRY'] = '1'  # read where it is imported, and by processes of it
  from huggingface_hub import constants

  constants.HF_HUB_DISABLE_TELEMETRY = True  # it may have been imported before
  return importlib.import_module(name)


class Mapped(Sequence):
  """The rows of a data set of the library, which maps its files and reads what is asked for."""

  def __init__(self, data: Any):
    self._data = data

  def __len__(self) -> int:
    return len(self._data)

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return iter(self._data)

  def __getitem__(self, place: Any) -> Any:
    found = self._data[place]
    if not isinstance(place, slice):
      return found
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def data_set(
  name: str,
  path: pathlib.Path | None,
  config: str | None,
  split: str,
  roots: Sequence[pathlib.Path],
) -> Any:
  """One split of a data set.

  Args:
    name: that the manifest gives it.
    path: of its folder; None: it is on the hub.
    config: which of its variants; None: the only one.
    split: that is wanted.
    roots: the folders that files may lie in.

  Raises:
    UserError: a file lies elsewhere, or the name is none of the hub.
    Exception: whatever the library raises where it cannot read the data.
  """
  if path is None and not re.fullmatch(NAME, name):
    raise UserError(f'{name!r} is no folder and no name on the hub: correct it')
  datasets = imported('datasets')
  datasets.disable_progress_bars()
  datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
  logging.getLogger('datasets').setLevel(logging.CRITICAL)  # the caller says what is wrong, once
  if path is None:
    return datasets.load_dataset(name, config, split=split)
  if any((path / file).is_file() for file in SAVED):
    data = datasets.load_from_disk(str(path))
    data = data[split] if isinstance(data, datasets.DatasetDict) else data
    check_inside(name, (file['filename'] for file in data.cache_files), roots)
    return data
  check_described(name, path)
  builder = datasets.load_dataset_builder(str(path), config)
  check_inside(name, (f for part in builder.config.data_files.values() for f in part), roots)
  builder.download_and_prepare()
  return builder.as_dataset(split=split)


def check_inside(name: str, files: Iterable[Any], roots: Sequence[pathlib.Path]) -> None:
  """Refuses a data set with a file that lies, links followed, in none of the folders."""
  for file in files:
    place = pathlib.Path(str(file)).resolve()
    if not any(place.is_relative_to(root) for root in roots):
      raise UserError(
        f"{name}: its file {str(file)!r} lies outside the manifest's folder: take it out of the "
        "data set, or list its folder in 'folders'"
      )


def check_described(name: str, path: pathlib.Path) -> None:
  """Refuses a folder whose own description names files at an address."""
  import yaml  # of the library's own dependencies: it reads the same words

  for file in DESCRIBED:
    if not (path / file).is_file():
      continue
    text = (path / file).read_text('utf-8')
    if file == 'README.md':
      front = re.match(r'---\s*\n(.*?)\n---', text, re.DOTALL)
      text = front[1] if front else ''
    said = yaml.safe_load(text)
    for words in strings(said.get('configs') if isinstance(said, dict) else None, set()):
      if '://' in words or '::' in words:
        raise UserError(f'{name}/{file}: {words!r} is an address: name files of the folder')


def strings(value: Any, seen: set[int]) -> Iterator[str]:
  """Every text in lists and dicts, whose parts may stand in several places: each is seen once."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list) and id(value) not in seen:
    seen.add(id(value))
    for part in [*value, *value.values()] if isinstance(value, dict) else value:
      yield from strings(part, seen)
