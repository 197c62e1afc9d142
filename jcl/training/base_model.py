"""The base model of a run or of an adapter: whether a model at another place is the same."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from jcl.backbones.files.fields import read_json
from jcl.backbones.files.hf import Loaded
from jcl.config import Config
from jcl.errors import UserError
from jcl.storage.atomic import write_json
from jcl.training.inputs import WEIGHTS, differences, digests_of, lines, read, weights_digest
from jcl.training.model_shape import shape_fields
from jcl.types import Params

BASE = 'jcl_base.json'  # beside an adapter: digests of the model that it was trained on


def check_model(workdir: pathlib.Path, loaded: Loaded, config: Config) -> None:
  """Checks that a model is the one that a run started from; errors as in `check`."""
  before = read(workdir)
  if before is None:
    return
  tokenizer, weights = digests_of(loaded.tokenizer, loaded.special, loaded.params)
  shapes = {**before.shapes, 'weights': shape_fields(loaded.config)}
  now = dataclasses.replace(before, tokenizer=tokenizer, weights=weights, shapes=shapes)
  found = differences(before, now)
  if found:
    raise UserError(
      f'{workdir} is a run on another base model ({"; ".join(lines(found, config))}); give its own '
      'as base (--base)'
    )


def of_base(workdir: pathlib.Path) -> dict[str, str]:
  """Returns the digests of a run's base model that its adapters take along: of the weights."""
  found = read(workdir)
  return {} if found is None or found.weights is None else {'weights': found.weights}


def write_beside(adapter: pathlib.Path, digests: Mapping[str, str]) -> None:
  """Writes the digests of its base model into the folder of an adapter, where there are any."""
  if digests:
    write_json(adapter / BASE, dict(digests))


def of_adapters(folders: Sequence[pathlib.Path]) -> dict[str, str]:
  """Returns the digests of the base model that the adapters in some folders were trained on.

  It is empty where none of them says.

  Raises:
    UserError: they were trained on different weights.
  """
  found: dict[str, str] = {}
  first = None
  for folder in folders:
    own = read_json(folder / BASE) if (folder / BASE).is_file() else {}
    if own and found and own.get('weights') != found.get('weights'):
      raise UserError(
        f'{folder} was trained on other base weights than {first}; merge adapters of one base'
      )
    if own:
      found, first = own, folder
  return found


def check_base(base: str, params: Params, adapters: Mapping[str, str]) -> None:
  """Checks that a base model has the weights that adapters were trained on, where they say.

  Args:
    base: its name, for messages.
    params: its parameters.
    adapters: digests, of `of_adapters`.

  Raises:
    UserError: it has others.
  """
  if (wanted := adapters.get('weights')) and (found := weights_digest(params)) != wanted:
    raise UserError(
      f'{WEIGHTS} of {base}: weights of the digest {found[:8]}…, not {wanted[:8]}…, on which the '
      'adapters were trained; give their own by --base'
    )
