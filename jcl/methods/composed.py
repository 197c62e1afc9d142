"""The settings of a composition of methods, and which methods can be composed."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

from jcl.errors import UserError
from jcl.memory.tools import Tools
from jcl.methods.method import Settings

SIGN = '+'
WORDS = {
  'loss': 'a loss', 'rows': 'old rows', 'objective': 'an objective', 'slow': 'slow parameters',
  'tree': 'adapters or blocks', 'combine': 'a combination of gradients',
  'trainable': 'rules of what trains',
}  # fmt: skip


class Composed(Settings):
  """The settings of each method as a field, and the properties of the composition."""

  @property
  def parts(self) -> dict[str, Settings]:
    """Returns {name: settings} of the methods."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @property
  def text_format(self) -> str:
    """Returns the text format of the methods that need another than `plain`, if there are any."""
    return next((p.text_format for p in self.parts.values() if p.text_format != 'plain'), 'plain')

  @property
  def lora_dropout(self) -> float:
    """Returns the dropout of the method that trains adapters."""
    return max(part.lora_dropout for part in self.parts.values())

  @property
  def block_every(self) -> int:
    """Returns the layers for each block of the method that adds blocks."""
    return max(part.block_every for part in self.parts.values())

  @property
  def teacher_path(self) -> str:
    """Returns the path of the method that another model teaches."""
    return next((p.teacher_path for p in self.parts.values() if p.teacher_path), '')

  @property
  def teacher_family(self) -> str:
    """Returns the family of that model."""
    return next((p.teacher_family for p in self.parts.values() if p.teacher_path), '')

  @property
  def adapters(self) -> bool | None:
    """Returns whether one of the methods trains adapters in place of the model; None: perhaps."""
    found = {part.adapters for part in self.parts.values()}
    return next(known for known in (True, None, False) if known in found)

  @property
  def probe_path(self) -> str:
    """Returns the path of the text on which a method compares models; empty: none has one."""
    return next(filter(None, (getattr(p, 'probe_path', '') for p in self.parts.values())), '')

  @property
  def corpus(self) -> str:
    """Returns the path of the text that old rows may come from; empty: no method has one."""
    return next(filter(None, (getattr(p, 'corpus', '') for p in self.parts.values())), '')

  def check(self) -> None:
    """Refuses settings out of their bounds, and two text formats or teachers.

    Raises:
      UserError: names the methods, or the method and the field.
    """
    self._each(lambda part: part.check())
    for field, plain in (('text_format', 'plain'), ('teacher_path', '')):
      own = {name: getattr(part, field) for name, part in self.parts.items()}
      own = {name: value for name, value in own.items() if value != plain}
      if len(set(own.values())) > 1:
        said = ', '.join(f'{name} {value!r}' for name, value in own.items())
        raise UserError(f'methods of one composition need one {field}: {said}')

  def check_run(self, scenario: str, tools: Tools) -> None:
    """Refuses settings that do not fit a run; messages name the method and the field."""
    self._each(lambda part: part.check_run(scenario, tools))

  def _each(self, check: Callable[[Settings], None]) -> None:
    for name, part in self.parts.items():
      try:
        check(part)
      except UserError as error:
        raise UserError(str(error).replace('method.', f'method.{name}.', 1)) from None


def _in_all(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
  """Returns what stands in every list."""
  return tuple(x for x in lists[0] if all(x in others for others in lists))


def short_name(name: str) -> str:
  """Returns the last part of `package.module:Class` in lower case; another name as it is."""
  return re.split(r'[.:]', name)[-1].lower()


def settings(classes: dict[str, type[Settings]], names: Sequence[str]) -> Composed:
  """Returns the default settings of a composition.

  Args:
    classes: {name: settings class} of the methods.
    names: names of the methods; their order changes nothing.

  Raises:
    UserError: a name is given twice, or the methods cannot be composed.
  """
  short = tuple(map(short_name, names))
  if len(set(short)) < len(short):
    raise UserError(f'{SIGN.join(names)} names a method twice')
  return _class_of(short, tuple(classes[name] for name in names))()


@functools.cache
def _class_of(names: tuple[str, ...], classes: tuple[type[Settings], ...]) -> type[Composed]:
  """Returns the settings class of a composition, which has a field for each method."""
  parts = {name: kind() for name, kind in zip(names, classes, strict=True)}
  check_fit(names, parts)
  default = lambda part: dataclasses.field(default_factory=type(part))
  fields = [(name, type(part), default(part)) for name, part in parts.items()]
  namespace = {
    'brings': tuple(what for part in parts.values() for what in part.brings),
    'holds_tree': any(part.holds_tree for part in parts.values()),
    'scenarios': _in_all([part.scenarios for part in parts.values()]),
    'head_scenarios': _in_all([part.head_scenarios for part in parts.values()]),
    'needs': tuple(need for part in parts.values() for need in part.needs),
  }
  return dataclasses.make_dataclass('Composed', fields, bases=(Composed,), namespace=namespace)


def check_fit(names: tuple[str, ...], parts: dict[str, Settings]) -> None:
  """Refuses methods that cannot be composed.

  Args:
    names: names of the methods.
    parts: {name: settings} of the methods.

  Raises:
    UserError: names both methods and what is in the way.
  """
  whole = SIGN.join(names)
  for name, part in parts.items():
    if part.starts_afresh:
      raise UserError(f'{whole}: {name} trains fresh models and cannot be composed')
    if not part.takes_steps:
      raise UserError(f'{whole}: {name} takes no training step and cannot be composed')
  for what, words in WORDS.items():
    bringing = [name for name, part in parts.items() if what in part.brings]
    if len(bringing) > 1:
      raise UserError(f'{whole}: {" and ".join(bringing)} both bring {words}; only one can')
  combining = [name for name, part in parts.items() if 'combine' in part.brings]
  wrapping = [name for name, part in parts.items() if 'objective' in part.brings]
  if combining and wrapping:
    raise UserError(
      f'{whole}: {combining[0]} combines the gradients of groups of terms, which the objective of '
      f'{wrapping[0]} does not have'
    )
  holding = [name for name, part in parts.items() if part.holds_tree]
  growing = [name for name, part in parts.items() if 'tree' in part.brings]
  if growing and holding:
    raise UserError(
      f'method {whole}: {growing[0]} changes the tree of parameters, of which {holding[0]} keeps a '
      'copy; leave one of them out'
    )
