"""Fonts of pictures: DejaVu Sans, and installed ones for the letters that it lacks.

A font is chosen by the letters that it has, most first and then by name, so that a machine with the
same fonts draws the same picture. Colour fonts, which matplotlib cannot draw, are left out.
"""

import contextlib
import functools
import importlib
import logging
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

DEFAULT = 'DejaVu Sans'  # comes with matplotlib
# A font of boxes for every letter, and fonts of coloured bitmaps.
UNUSABLE = ('Last Resort', 'Color', 'Emoji One')
# Scripts whose letters change their shape or place with their neighbours.
SHAPED = (
  'ARABIC', 'HEBREW', 'SYRIAC', 'THAANA', 'NKO', 'DEVANAGARI', 'BENGALI', 'GURMUKHI', 'GUJARATI',
  'ORIYA', 'TAMIL', 'TELUGU', 'KANNADA', 'MALAYALAM', 'SINHALA', 'THAI', 'LAO', 'TIBETAN',
  'MYANMAR', 'KHMER', 'MONGOLIAN',
)  # fmt: skip


def chosen(texts: Iterable[str]) -> tuple[list[str], set[str]]:
  """Returns the font families that draw the texts, the first first, and letters that none has.

  Args:
    texts: all that stands in a picture.
  """
  missing = {c for text in texts for c in text if c.isprintable()} - _letters(DEFAULT)
  families = [DEFAULT]
  while missing:
    having = {name: len(missing & _letters(name)) for name in _names()}
    name = max(having, key=lambda name: having[name], default=DEFAULT)
    if not having.get(name):
      break
    families.append(name)
    missing -= _letters(name)
  return families, missing


def notes(texts: Iterable[str]) -> list[str]:
  """Returns a line about letters that no font has, and one about scripts that are drawn apart."""
  texts = list(texts)
  lines, missing = [], sorted(chosen(texts)[1])
  if missing:
    shown = ' '.join(missing[:8]) + (' …' if len(missing) > 8 else '')
    lines.append(
      f'pictures show a box for {shown} ({", ".join(_scripts(missing))}): no installed font has '
      'them; install one that does, such as a Noto font'
    )
  shaped = [script for script in _scripts(c for text in texts for c in text) if script in SHAPED]
  if shaped and not shapes():
    lines.append(
      f'pictures draw {", ".join(shaped)} letter by letter, unjoined and from the left: matplotlib '
      'shapes it from version 3.11 on'
    )
  return lines


def part(name: str) -> Any:
  """Imports a module of matplotlib, '' for the whole, whatever backend the environment names.

  Pictures are drawn without a backend, and one that is not known must not cost a run its report.
  """
  backend = os.environ.get('MPLBACKEND')
  if backend and 'matplotlib' not in sys.modules:
    del os.environ['MPLBACKEND']
    try:
      whole = importlib.import_module('matplotlib')
    finally:
      os.environ['MPLBACKEND'] = backend
    with contextlib.suppress(ValueError):  # as matplotlib does it, but for a name that is unknown
      whole.rcParams['backend'] = backend
  return importlib.import_module(f'matplotlib.{name}' if name else 'matplotlib')


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Within it, matplotlib says nothing of the weights that a font lacks."""
  logger = logging.getLogger('matplotlib.font_manager')
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def shapes() -> bool:
  """Whether matplotlib joins and orders letters as their script asks."""
  return hasattr(part('ft2font'), '__libraqm_version__')


def _scripts(letters: Iterable[str]) -> list[str]:
  """Returns the first words of the letters' names in Unicode, such as CJK or ARABIC."""
  names = (unicodedata.name(c, 'UNKNOWN') for c in letters)
  return sorted({name.split('-')[0].split()[0] for name in names})


@functools.cache
def _names() -> tuple[str, ...]:
  """Returns the names of the installed fonts that matplotlib can draw, sorted."""
  font_manager = part('font_manager')
  names = {font.name for font in font_manager.fontManager.ttflist}
  known = {font.fname for font in font_manager.fontManager.ttflist}
  for file in sorted(set(font_manager.findSystemFonts()) - known):  # installed since the last scan
    try:
      font_manager.fontManager.addfont(file)
    except (OSError, RuntimeError, ValueError):  # a font of another kind
      continue
    names.add(font_manager.fontManager.ttflist[-1].name)
  return tuple(sorted(n for n in names if not any(word in n for word in UNUSABLE)))


@functools.cache
def _letters(name: str) -> frozenset[str]:
  """Returns the letters that a font has; none where it cannot be read."""
  font_manager, ft2font = part('font_manager'), part('ft2font')
  try:
    with quiet():
      file = font_manager.findfont(name, fallback_to_default=False)
    return frozenset(map(chr, ft2font.FT2Font(file).get_charmap()))
  except (OSError, RuntimeError, ValueError):
    return frozenset()
