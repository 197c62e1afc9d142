"""Fields of a JSON file, read one by one with errors that name the file and the field."""

import contextlib
import json
import math
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar, get_args

from jcl.backbones.decoder_config import RopeKind, RopeScaling
from jcl.errors import UserError, count_of
from jcl.streams.files import refuse_pointer

# Names of activations in transformers, and what `layers.ACTIVATIONS` calls them.
ACTIVATION_NAMES = {
  'silu': 'silu', 'swish': 'silu', 'relu': 'relu', 'gelu': 'gelu', 'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh', 'gelu_fast': 'gelu_tanh',
}  # fmt: skip

MAX_COUNT = 2**24  # above every width, vocabulary and context length in use

Value = TypeVar('Value')


def short_value(value: Any) -> str:
  """Returns a value as JSON, cut to 40 characters."""
  text = json.dumps(value, ensure_ascii=False, default=str)
  return text if len(text) <= 40 else f'{text[:39]}…'


def existing_file(file: pathlib.Path) -> pathlib.Path:
  """Returns `file` if it exists.

  Raises:
    UserError: it does not exist.
  """
  if not file.is_file():
    raise UserError(f'{file}: no such file; correct the path, or put it there')
  return file


def read_json(file: pathlib.Path) -> dict[str, Any]:
  """Reads the object in a JSON file.

  Raises:
    UserError: the file is missing, is not valid JSON, or does not hold an object.
  """
  text = existing_file(file).read_bytes()
  try:
    values = json.loads(text.decode('utf-8'))
  except (ValueError, RecursionError) as error:
    refuse_pointer(file, str(file))
    raise UserError(f'{file}: not valid JSON ({error}); fetch it again') from None
  if not isinstance(values, dict):
    raise UserError(f'{file}: a JSON object is wanted, not {type(values).__name__}')
  return values


@contextlib.contextmanager
def naming_file(where: str) -> Iterator[None]:
  """Puts the file's name in front of UserErrors that do not begin with it.

  A config whose fields contradict each other raises such errors: it knows no file.
  """
  try:
    yield
  except UserError as error:
    message = str(error)
    raise UserError(message if message.startswith(where) else f'{where}: {message}') from None


class Recorded(dict[str, Any]):
  """The fields of a file, which knows the names that were asked for."""

  def __init__(self, values: Mapping[str, Any], asked: set[str]):
    super().__init__(values)
    self.asked = asked

  def __getitem__(self, name: str) -> Any:
    self.asked.add(name)
    return super().__getitem__(name)

  def get(self, name: str, default: Any = None) -> Any:
    """Returns a field, or `default` where it is absent."""
    self.asked.add(name)
    return super().get(name, default)


class Fields:
  """The fields of a config.json, with errors that name the file and the field.

  Args:
    values: the fields.
    where: the file, for messages.
  """

  def __init__(self, values: Mapping[str, Any], where: str):
    asked = values.asked if isinstance(values, Recorded) else set()
    self.values, self.where = Recorded(values, asked), where

  def over(self, values: Mapping[str, Any]) -> 'Fields':
    """Returns these fields with others put over them; what is asked there counts here too."""
    return Fields(Recorded({**self.values, **values}, self.values.asked), self.where)

  def unread(self, harmless: Collection[str] = (), off: Collection[str] = ()) -> list[str]:
    """Returns `name value` of each field that nothing has asked for; null counts as absent.

    Args:
      harmless: names of fields on which nothing that is computed depends.
      off: names of features that jcl does not have: false, 0 and empty say what is done anyway.
    """
    known = {*self.values.asked, *harmless}
    found = {name: value for name, value in self.values.items() if name not in known}
    for name in ('rope_scaling', 'rope_parameters'):  # read as fields of their own
      if name in known and isinstance(inner := dict(self.values).get(name), dict):
        found |= {f'{name}.{key}': value for key, value in inner.items() if key not in known}
    return [
      f'{name} {short_value(value)}'
      for name, value in sorted(found.items())
      if not (value is None or (name in off and value in (False, 0, '', [], {})))
    ]

  def get(self, name: str, kind: type[Value], default: Value | None = None) -> Value:
    """Returns a field of the given type.

    An int must lie between 1 and MAX_COUNT and a float must be finite; null counts as absent.

    Args:
      name: of the field.
      kind: its type; an int is accepted as a float.
      default: returned where the field is absent; None: the field is required.

    Raises:
      UserError: the field is missing, of another type or out of range.
    """
    value = self.values.get(name)
    if value is None:
      if default is None:
        raise UserError(f'{self.where}: field {name!r} is missing')
      return default
    right = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not right or (isinstance(value, bool) and kind is not bool):
      raise UserError(f'{self.where}: field {name!r} is {value!r}, not of type {kind.__name__}')
    if kind is int and not 1 <= value <= MAX_COUNT:
      what = 'not positive' if value < 1 else f'which is too many; it must be at most {MAX_COUNT}'
      raise UserError(f'{self.where}: field {name!r} is {value}, {what}')
    if kind is float and not (abs(value) < 1e38 and math.isfinite(value)):
      raise UserError(f'{self.where}: field {name!r} is {value}; it must be finite, below 1e38')
    return value

  def positive(self, name: str, default: float | None = None) -> float:
    """Returns a number above 0.

    Args:
      name: of the field.
      default: returned where the field is absent; None: the field is required.

    Raises:
      UserError: the field is missing, no number, or not above 0.
    """
    value = self.get(name, float, default)
    if value <= 0:
      raise UserError(f'{self.where}: field {name!r} is {value}, not positive')
    return float(value)

  def allow_only(self, name: str, *values: Any) -> None:
    """Checks that a field is absent, null, or one of `values`.

    Raises:
      UserError: the field has another value: a model that jcl does not compute.
    """
    value = self.values.get(name)
    if value is not None and value not in values:
      raise UserError(f'{self.where}: {name} {value!r} is not supported')

  def activation(self, name: str, default: str) -> str:
    """Returns the activation that a field names, as `layers.ACTIVATIONS` calls it.

    Args:
      name: of the field, which holds a name of transformers.
      default: name (of transformers) where the field is absent.

    Raises:
      UserError: the activation is unknown.
    """
    value = self.get(name, str, default)
    if value not in ACTIVATION_NAMES:
      raise UserError(
        f'{self.where}: {name} {value!r} is not supported; known: {", ".join(ACTIVATION_NAMES)}'
      )
    return ACTIVATION_NAMES[value]

  def rope(
    self, theta: float = 1e4, aliases: Mapping[str, RopeKind] | None = None
  ) -> dict[str, Any]:
    """Returns `rope_theta` and, where it is set, `rope_scaling`: arguments of a DecoderConfig.

    Args:
      theta: where the field is absent.
      aliases: {name in the file: kind of a RopeScaling} beside those of the same name.

    Raises:
      UserError: the kind of scaling is unknown, or a number of it is missing.
    """
    given = self.rotary()
    name = 'rope_scaling' if self.values.get('rope_scaling') else 'rope_parameters'
    for key, value in given.items():
      if isinstance(value, dict) or key.endswith('_attention'):
        raise UserError(
          f'{self.where}: {name} has {key!r}; all layers of this family are rotated alike'
        )
    merged = self.over(given)
    kind = merged.get('rope_type', str, merged.values.get('type') or 'default')
    out: dict[str, Any] = {'rope_theta': merged.positive('rope_theta', theta)}
    known: dict[str, RopeKind] = {k: k for k in get_args(RopeKind)} | dict(aliases or {})
    if kind in known:
      out['rope_scaling'] = merged._scaling(known[kind], self._original(given))
    elif kind != 'default':
      raise UserError(
        f'{self.where}: rope type {kind!r} is not supported; known: {", ".join(known)}'
      )
    return out

  def rotary(self) -> dict[str, Any]:
    """Returns the rotary settings in the form that counts.

    transformers 4 writes them as `rope_scaling`, transformers 5 as `rope_parameters`. Both take
    `rope_scaling` where a file has both.
    """
    old, new = (self.get(name, dict, {}) for name in ('rope_scaling', 'rope_parameters'))
    return old or new

  def _original(self, *inner: Mapping[str, Any]) -> int:
    """Returns the tokens of the original context, which stand among the fields or inside rope's.

    Raises:
      UserError: they contradict each other.
    """
    name = 'original_max_position_embeddings'
    values = [Fields(v, self.where).get(name, int) for v in (self.values, *inner) if v.get(name)]
    if len(set(values)) > 1:
      raise UserError(f'{self.where}: {name} is {values[0]}, but {values[1]} among those of rope')
    return values[0] if values else self.get('max_position_embeddings', int, 2048)

  def _scaling(self, kind: RopeKind, original: int) -> RopeScaling:
    """Returns a scaling of rotary frequencies; these are the fields of rope and of the config."""
    longest = self.get('max_position_embeddings', int, original)
    if kind in ('yarn', 'longrope') and self.values.get('factor') is None:
      factor = longest / original
    else:
      factor = self.positive('factor')
    if kind == 'llama3':
      low, high = self.positive('low_freq_factor'), self.positive('high_freq_factor')
      if low >= high:
        raise UserError(f'{self.where}: low_freq_factor {low} is not below high_freq_factor {high}')
      return RopeScaling(kind, factor, low, high, original)
    if kind == 'dynamic':
      return RopeScaling(kind, factor, original=longest)
    if kind == 'linear':
      return RopeScaling(kind, factor)
    grown = 1 + math.log(factor) / math.log(max(original, 2)) if factor > 1 else 1.0
    if kind == 'longrope':
      short, long = self.positives('short_factor'), self.positives('long_factor')
      magnitude = self.positive('attention_factor', math.sqrt(grown))
      return RopeScaling(
        kind, factor, original=original, magnitude=magnitude, short=short, long=long
      )
    share = lambda m: 1 + 0.1 * m * math.log(factor) if factor > 1 else 1.0
    up, down = (self.get(name, float, 0.0) for name in ('mscale', 'mscale_all_dim'))
    return RopeScaling(
      kind,
      factor,
      self.positive('beta_slow', 1.0),
      self.positive('beta_fast', 32.0),
      original,
      self.positive('attention_factor', share(up) / share(down) if up and down else share(1)),
      self.get('truncate', bool, True),
    )

  def positives(self, name: str) -> tuple[float, ...]:
    """Returns a list of numbers above 0.

    Raises:
      UserError: the field is missing, no list, or an entry is not above 0.
    """
    entries = self.get(name, list)
    numbers = Fields({str(i): x for i, x in enumerate(entries)}, f'{self.where}: {name}')
    return tuple(numbers.positive(str(i)) for i in range(len(entries)))

  def kinds(self, name: str, kinds: Mapping[Any, bool], count: int) -> tuple[bool, ...]:
    """Returns what a list says of each layer; empty where the field is absent or null.

    Args:
      name: of the field.
      kinds: {entry of the list: what it says}.
      count: number of layers.

    Raises:
      UserError: the field is no list of so many known entries.
    """
    found = self.get(name, list, [])
    given = self.values.get(name) is not None
    for kind in found:
      if not isinstance(kind, str | int) or kind not in kinds:
        known = ', '.join(map(str, kinds))
        raise UserError(f'{self.where}: {name} {kind!r} is not supported; known: {known}')
    if given and len(found) != count:
      entries, layers = count_of(len(found), 'entry'), count_of(count, 'layer')
      raise UserError(f'{self.where}: {name} has {entries}; the model has {layers}')
    return tuple(kinds[kind] for kind in found)
