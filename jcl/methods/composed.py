"""The settings of several methods as one, and which methods can be one."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from jcl.errors import UserError
from jcl.methods.method import Settings

SIGN = '+'
WORDS = {
  'loss': 'a loss', 'rows': 'old rows', 'objective': 'an objective', 'slow': 'slow parameters',
  'tree': 'adapters or blocks',
}  # fmt: skip


class Composed(Settings):
  """The settings of each method, a field a method; what is known of them together."""

  @property
  def parts(self) -> dict[str, Settings]:
    """The settings of each."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @property
  def text_format(self) -> str:
    """That of the one that does not write plain rows, if there is one."""
    return next((p.text_format for p in self.parts.values() if p.text_format != 'plain'), 'plain')

  @property
  def scenarios(self) -> tuple[str, ...]:
    """Those in which all of them have a meaning."""
    return _in_all([part.scenarios for part in self.parts.values()])

  @property
  def head_scenarios(self) -> tuple[str, ...]:
    """Those in which all of them can train a head."""
    return _in_all([part.head_scenarios for part in self.parts.values()])

  @property
  def needs(self) -> tuple[str, ...]:
    """What any of them needs."""
    return tuple(need for part in self.parts.values() for need in part.needs)

  @property
  def lora_dropout(self) -> float:
    """Of the one that trains adapters."""
    return max(part.lora_dropout for part in self.parts.values())

  @property
  def teacher_path(self) -> str:
    """Of the one that has another model as its teacher."""
    return next((p.teacher_path for p in self.parts.values() if p.teacher_path), '')

  def check(self) -> None:
    """Refuses settings out of their range, by the name of the method and the field."""
    self._each(lambda part: part.check())

  def check_run(self, scenario: str, tools: Any) -> None:
    """Refuses settings that do not go with a run, by the name of the method and the field."""
    self._each(lambda part: part.check_run(scenario, tools))

  def _each(self, check: Callable[[Settings], None]) -> None:
    for name, part in self.parts.items():
      try:
        check(part)
      except UserError as error:
        raise UserError(str(error).replace('method.', f'method.{name}.', 1)) from None


def _in_all(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
  return tuple(x for x in lists[0] if all(x in others for others in lists))


def short_name(name: str) -> str:
  """The last part of `package.module:Class` in lower case; any other name as it is."""
  return re.split(r'[.:]', name)[-1].lower()


def settings(classes: dict[str, type[Settings]], names: Sequence[str]) -> Composed:
  """Default settings of methods that can be one.

  Args:
    classes: the settings class of each.
    names: in the order given, each once.

  Raises:
    UserError: a name is given twice, or two of the methods bring the same.
  """
  short = tuple(map(short_name, names))
  if len(set(short)) < len(short):
    raise UserError(f'{SIGN.join(names)} names a method twice')
  return _class_of(short, tuple(classes[name] for name in names))()


@functools.cache
def _class_of(names: tuple[str, ...], classes: tuple[type[Settings], ...]) -> type[Composed]:
  """The settings class of these methods, each a field."""
  parts = {name: kind() for name, kind in zip(names, classes, strict=True)}
  check_fit(names, parts)
  default = lambda part: dataclasses.field(default_factory=type(part))
  fields = [(name, type(part), default(part)) for name, part in parts.items()]
  namespace = {
    'brings': tuple(what for part in parts.values() for what in part.brings),
    'holds_tree': any(part.holds_tree for part in parts.values()),
    '__annotations__': {'brings': ClassVar, 'holds_tree': ClassVar},
  }
  return dataclasses.make_dataclass('Composed', fields, bases=(Composed,), namespace=namespace)


def check_fit(names: tuple[str, ...], parts: dict[str, Settings]) -> None:
  """Refuses methods that cannot be one.

  Raises:
    UserError: naming both, and what is in the way.
  """
  whole = SIGN.join(names)
  for name, part in parts.items():
    if part.starts_afresh:
      raise UserError(f'{whole}: {name} trains fresh models and cannot be composed')
  for what, words in WORDS.items():
    bringing = [name for name, part in parts.items() if what in part.brings]
    if len(bringing) > 1:
      raise UserError(f'{whole}: {" and ".join(bringing)} both bring {words}; only one can')
  holding = [name for name, part in parts.items() if part.holds_tree]
  growing = [name for name, part in parts.items() if 'tree' in part.brings]
  if growing and holding:
    raise UserError(
      f'{whole}: {growing[0]} changes the tree of parameters, of which {holding[0]} keeps a copy'
    )
