"""Changes of a folder of a model or of an adapter: fields, tensors, a cut or pickled file."""

import json
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy

Change = Callable[[pathlib.Path], None]


def edit(file: str, **fields: Any) -> Change:
  """Returns a change of the fields of a JSON file; `...` deletes a field."""

  def change(folder: pathlib.Path) -> None:
    values = json.loads((folder / file).read_text()) | fields
    values = {k: v for k, v in values.items() if v is not ...}
    (folder / file).write_text(json.dumps(values))

  return change


def reweigh(file: str, change: Callable[[dict[str, np.ndarray]], Any]) -> Change:
  """Returns a change of the tensors of a safetensors file; `change` works in place."""

  def apply(folder: pathlib.Path) -> None:
    weights = safetensors.numpy.load_file(folder / file)
    change(weights)
    safetensors.numpy.save_file(weights, folder / file)

  return apply


def cut(file: str) -> Change:
  """Returns a change that takes the last 100 bytes off a file."""

  def change(folder: pathlib.Path) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:-100])

  return change


def pickled(file: str, other: str) -> Change:
  """Returns a change that puts a pickled file in the place of another one."""

  def change(folder: pathlib.Path) -> None:
    (folder / file).unlink()
    (folder / other).write_bytes(pickle.dumps({}))

  return change
