"""How numbers and names are written in tables, pictures and pages."""

import re
from collections.abc import Mapping
from typing import Literal

Unit = Literal['accuracy', 'log_perplexity', 'share', 'seconds']
MISSING = '·'  # stands for a value that is not known
_DIGITS = {'accuracy': 1, 'share': 1, 'log_perplexity': 3, 'seconds': 1}
_PLACE = re.compile(r'(?:\w+\.)*\w+:(?:\w+\.)*(\w+)')


def format_number(value: float | None, unit: Unit) -> str:
  """Returns a number as text.

  Args:
    value: an accuracy or a share in [0, 1], a log-perplexity in nats per target, or seconds.
    unit: what the value is.

  Returns:
    Accuracies and shares in % with one decimal, nats with three, seconds with one; `MISSING` for
    None.
  """
  if value is None:
    return MISSING
  scale, digits = (100 if unit in ('accuracy', 'share') else 1), _DIGITS[unit]
  return f'{round(scale * value, digits) + 0.0:.{digits}f}'  # adding 0.0 turns -0.0 into 0.0


def one_line(text: object) -> str:
  """Returns a text without line breaks and control characters."""
  return ' '.join(''.join(c if c.isprintable() else ' ' for c in str(text)).split())


def short_method_name(name: str) -> str:
  """Returns a method's name without the package that it comes from.

  `ewc+acme.methods:Damped` becomes `ewc+damped`, the form that its settings have in a composition.
  """
  parts = [(_PLACE.fullmatch(part), part) for part in name.split('+')]
  return '+'.join(place[1].lower() if place else part for place, part in parts)


def flatten(settings: Mapping[str, object], path: str = '') -> dict[str, object]:
  """Returns nested settings as one dict by dotted name."""
  found: dict[str, object] = {}
  for name, value in settings.items():
    if isinstance(value, Mapping):
      found |= flatten(value, f'{path}{name}.')
    else:
      found[path + name] = value
  return found
