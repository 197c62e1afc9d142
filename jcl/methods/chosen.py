"""Settings that a program gives by name: the method's, and those of the sections of a config."""

import copy
import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from jcl.backbones import Backbone
from jcl.config import (
  AdversarialConfig,
  BackboneConfig,
  CheckpointConfig,
  EvaluateConfig,
  TrainConfig,
  unknown,
)
from jcl.errors import LIKE, UserError
from jcl.methods import registry
from jcl.methods.method import Method, Settings

SECTIONS = {
  'train': TrainConfig,
  'evaluate': EvaluateConfig,
  'checkpoint': CheckpointConfig,
  'adversarial': AdversarialConfig,
}


class GivenMethod(Settings):
  """Settings of a `Method` record that was given as it is.

  Args:
    record: the method.
  """

  adapters = None

  def __init__(self, record: Method):
    self._record = record

  def build(self, backbone: Backbone, teacher: Any = None) -> Method:
    """Returns the record."""
    return self._record


def chosen_method(method: object, given: Mapping[str, object]) -> Settings:
  """The settings of the method that the user named, with the fields that were given.

  Raises:
    UserError: there is no such method, or it has no such field.
  """
  if isinstance(method, str):
    settings = registry.settings(method)
  elif isinstance(method, Settings):
    settings = dataclasses.replace(method)
  else:
    kind = f'the class {method.__name__}' if inspect.isclass(method) else type(method).__name__
    raise UserError(
      f'method is {kind}; give a name, package.module:Class, a settings object or a Method'
    )
  set_fields(settings, given, f'method {registry.name_of(settings)!r}')
  return settings


def set_fields(settings: Any, given: Mapping[str, object], what: str) -> None:
  """Sets fields of a settings dataclass; in a composition a field of any of its methods.

  Raises:
    UserError: there is no such field.
  """
  parts = [settings]
  if isinstance(settings, Settings):
    parts = list(registry.parts(settings).values())
  for name, value in given.items():
    having = [part for part in parts if name in {f.name for f in dataclasses.fields(part)}]
    if not having:
      known = [f.name for part in parts for f in dataclasses.fields(part)]
      in_learn = isinstance(settings, (Settings, *SECTIONS.values()))
      others = registry.having(name) if isinstance(settings, Settings) else ''
      where = _elsewhere(name) if in_learn else ''
      raise UserError(f'{unknown(what, name, known)}{where}{others}')
    for part in having:
      setattr(part, name, value)


def _elsewhere(name: str) -> str:
  """Says in which argument of `learn` a setting stands that is not one of the method's."""
  if name == 'backbone':
    return '; give model=jcl.BackboneConfig(…)'
  for argument, kind in {**SECTIONS, 'model': BackboneConfig}.items():
    if name in {field.name for field in dataclasses.fields(kind)}:
      return f'; give {argument}=jcl.{kind.__name__}({name}=…)'
  near = difflib.get_close_matches(name, registry.RESERVED, 1, LIKE)
  return f'; jcl.learn has the argument {near[0]}' if near else ''


def copy_of(name: str, value: object) -> Any:
  """A copy of a section of settings.

  Raises:
    UserError: it is not of the section's class.
  """
  kind = SECTIONS[name]
  if isinstance(value, Mapping):
    made = kind()
    set_fields(made, value, name)
    return made
  if not isinstance(value, kind):
    what = f'the class {value.__name__}' if inspect.isclass(value) else f'a {type(value).__name__}'
    raise UserError(f'{name} is {what}; give a jcl.{kind.__name__}(…)')
  return copy.copy(value)
