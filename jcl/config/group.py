"""The base of all settings classes: names that do not exist are refused, and `help` explains each.

A field is explained by its comment, on the lines above it or behind it: the one place where its
sentence stands.
"""

import ast
import dataclasses
import inspect
import io
import os
import re
import textwrap
import tokenize
from collections.abc import Collection, Iterator
from typing import Any, Self, cast

import numpy as np

from jcl.config.reading import readers
from jcl.errors import UserError, nearest

WIDTH = 92  # of the text of `help`, which draws a line on its left


class Group:
  """A settings class: a dataclass whose wrong names are refused, and whose `help` has each field.

  Numbers of NumPy and paths are kept as plain numbers and text, which config.json holds.

  Raises:
    UserError: a keyword or an attribute is no field; names the nearest one.
  """

  def __new__(cls, *given: Any, **named: Any) -> Self:
    """Returns a new object; `dataclasses` fills it."""
    for name in named:
      if name not in _names(cls) and not _takes(cls, name):
        raise UserError(unknown(cls.__name__, name, _names(cls)))
    return super().__new__(cls)

  def __init_subclass__(cls, **given: Any) -> None:
    super().__init_subclass__(**given)
    cls.__doc__ = cast(str, Explained(vars(cls).get('__doc__') or ''))

  def __setattr__(self, name: str, value: object) -> None:
    if not name.startswith('_') and not hasattr(type(self), name) and name not in _names(self):
      raise UserError(unknown(type(self).__name__, name, _names(self)))
    super().__setattr__(name, plain(value))


def plain(value: Any) -> Any:
  """Returns a number of NumPy as Python's, a path as text, and any other value as it is."""
  if isinstance(value, np.generic):
    return value.item()
  return os.fspath(value) if isinstance(value, os.PathLike) else value


def unknown(what: str, name: str, known: Collection[str]) -> str:
  """Returns the line that refuses the name of a setting.

  Args:
    what: has no such setting.
    name: the wrong one.
    known: names of the settings that there are.
  """
  has = ', '.join(known) or 'none'
  return f'{what} has no setting {name!r}; {nearest(str(name), known)}it has {has}'


class Explained:
  """The docstring of a settings class, its own text and then its fields; made when it is read."""

  def __init__(self, own: str):
    self._own = own

  def __get__(self, settings: object, kind: type) -> str:
    if '__dataclass_fields__' not in vars(kind):
      return self._own
    fields = [_explained(field, text) for field, text in explanations(kind)]
    own = inspect.cleandoc(self._own) or kind.__name__
    return '\n'.join([own, '', 'Attributes:', *fields]) if fields else own


def explanations(kind: type) -> Iterator[tuple[dataclasses.Field, str]]:
  """Yields each field of a settings class with its comment; a group's text is its docstring's."""
  said: dict[str, str] = {}
  for one in reversed(kind.__mro__):
    if dataclasses.is_dataclass(one):
      said |= {name: text for name, text in _comments(one).items() if text}
  for field in dataclasses.fields(kind):
    group = getattr(field.default_factory, '__doc__', None) or ''
    yield field, said.get(field.name) or group.partition('\n')[0]


def _comments(kind: type) -> dict[str, str]:
  """Returns {field: its comment} of those that the source of a class itself defines."""
  try:
    source = textwrap.dedent(inspect.getsource(kind))
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    body = cast(ast.ClassDef, ast.parse(source).body[0]).body
  except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # made without a file
    return {}
  found = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT}
  words = {line: re.sub(r'^#\s*', '', token.string) for line, token in found.items()}
  words = {line: text for line, text in words.items() if not re.match('(fmt|type|noqa)', text)}
  alone = {line for line, token in found.items() if token.line.lstrip().startswith('#')}
  texts = {}
  for node in body:
    if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
      continue
    first = node.lineno
    while first - 1 in alone:
      first -= 1
    lines = range(first, (node.end_lineno or node.lineno) + 1)
    texts[node.target.id] = ' '.join(words[line] for line in lines if line in words)
  return texts


def _explained(field: dataclasses.Field, text: str) -> str:
  """Returns the lines on a field: type and default, its comment, bounds, and what reads it."""
  kind = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
  made = cast(Any, field.default_factory)
  default = repr(field.default) if made is dataclasses.MISSING else f'{made.__name__}()'
  right = [f'{words} {bound}' for words, bound in field.metadata.get('bounds', {}).items()]
  if choices := field.metadata.get('choices'):
    right.append(f'one of {", ".join(map(repr, choices))}')
  if reads := readers(field):
    right.append(f'read with {reads}')
  parts = [text, f'({"; ".join(right)})' if right else '']
  lines = [line for part in parts for line in textwrap.wrap(part, WIDTH - 6)]
  return '\n'.join([f'  {field.name}: {kind} = {default}', *(f'      {line}' for line in lines)])


def _names(settings: Any) -> list[str]:
  """Returns the names of the fields of a settings class or object."""
  return [field.name for field in dataclasses.fields(settings)]


def _takes(kind: type, name: str) -> bool:
  """Whether an `__init__` of a class's own takes a keyword that is no field."""
  taken = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
  return name in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())
