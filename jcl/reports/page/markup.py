"""HTML by small functions: escaped text, tables, figures, parts that open.

A `Html` is markup that is ready; every other text is escaped when it enters one.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jcl.reports.formatting import MISSING, Unit, format_number
from jcl.streams.escaping import escaped as without_controls

NAME, TEXT = 40, 400  # letters of a name and of a text at most
TALL = 14  # rows from which a table scrolls
_JOINER = '\u200d'
_HYPHEN = re.compile(r'(?<![^\s(])-(?=\.?\d)')  # the sign of a number


class Html(str):
  """Markup; a plain str beside it is text."""

  __slots__ = ()


class Number(NamedTuple):
  """A number in a table.

  Attributes:
    shown: as it is written; a hyphen before it becomes −.
    value: what the column is sorted by; None sorts last.
  """

  shown: str
  value: float | None


Cell = str | Number


def minus(shown: str) -> str:
  """Returns numbers with the sign − before those below 0, in place of the hyphen of Python."""
  return _HYPHEN.sub('−', shown)


def number(value: float | None, unit: Unit) -> str:
  """Returns a number as `format_number` writes it, with the sign −."""
  return minus(format_number(value, unit))


def cut(text: object, most: int = TEXT) -> str:
  """Returns a text in one line without control characters, of at most `most` letters.

  No letter is separated from the accents, joiners and modifiers that follow it, so an emoji of
  several code points is kept whole or left out.
  """
  whole = str(text)
  words = without_controls(whole[: 4 * most])
  if len(words) <= most and len(whole) <= 4 * most:
    return words
  end = min(most - 1, len(words) - 1)
  while end > 0 and (_goes_on(words[end]) or words[end - 1] == _JOINER):
    end -= 1
  return words[:end].rstrip() + '…'


def _goes_on(letter: str) -> bool:
  """Returns whether a code point belongs to the letter before it."""
  return (
    letter == _JOINER
    or unicodedata.category(letter) in ('Mn', 'Me', 'Mc')
    or '\U0001f3fb' <= letter <= '\U0001f3ff'  # skin tones
    or '\U0001f1e6' <= letter <= '\U0001f1ff'  # letters of flags, in pairs
  )


def text(content: object) -> Html:
  """Returns a text as HTML shows it; markup stays as it is."""
  return content if isinstance(content, Html) else Html(_plain(content))


def _plain(content: object) -> str:
  """Returns a text escaped, what would steer a terminal or the text around it written out."""
  words = str(content)
  return html.escape(words if words.isprintable() else without_controls(words))


def own(content: object, most: int = TEXT) -> Html:
  """Returns a text of a user or a model: cut, escaped, in its own direction of writing."""
  whole = str(content)
  more = f' title="{len(whole):,} letters"' if len(whole) > most else ''
  return Html(f'<bdi dir="auto"{more}>{html.escape(cut(whole, most))}</bdi>')


def short(content: object) -> str:
  """Returns a name of at most `NAME` letters, in one line."""
  return cut(content, NAME)


def name(content: object) -> Html:
  """Returns a name that a user gave, such as a task's."""
  return own(content, NAME)


def join(parts: Iterable[str], between: str = '\n') -> Html:
  """Returns parts one after another; those that are empty are left out."""
  return Html(between.join(text(part) for part in parts if part))


def tag(element: str, content: object = '', **attributes: object) -> Html:
  """Returns an element; in names of attributes `_` stands for `-`, and at the end for nothing.

  An attribute that is None is left out.
  """
  given = ''.join(
    f' {key.rstrip("_").replace("_", "-")}="{_plain(value)}"'
    for key, value in attributes.items()
    if value is not None
  )
  return Html(f'<{element}{given}>{text(content)}</{element}>')


def note(content: object) -> Html:
  """Returns a line of explanation."""
  return tag('p', content, class_='note')


def section(title: str, anchor: str, parts: Sequence[str], level: int = 2) -> Html:
  """Returns a section with its heading; empty if all parts are."""
  if not any(parts):
    return Html('')
  heading = tag(f'h{level}', title, id=f'{anchor}-title')
  return tag('section', join([heading, *parts]), id=anchor, aria_labelledby=f'{anchor}-title')


def details(
  title: object, inner: str, open_: bool = False, class_: str | None = None, id_: str | None = None
) -> Html:  # fmt: skip
  """Returns a part that stays closed until it is opened; a link to `id_` opens it."""
  inside = join([tag('summary', title), tag('div', inner, id=id_) if id_ else inner])
  return tag('details', inside, class_=class_, open='' if open_ else None)


def table(
  caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], class_: str = '',
  filtered: bool = False,
) -> Html:  # fmt: skip
  """Returns a table, whose columns the page's script sorts.

  Args:
    caption: what the table holds.
    header: of the columns.
    rows: cells, each a `Cell`; the first cell of a row is its header.
    class_: `words` for columns of text that may break their lines; `words pairs` for names and
      their values below a heading that says the caption: neither the caption nor, on a narrow
      screen, the header is seen.
    filtered: the script offers a field that filters the rows.
  """
  rows = list(rows)
  columns = zip(*rows, strict=True) if rows else [()] * len(header)
  kinds = ['n' if _is_numeric(column) else None for column in columns]
  labels = [cut(words) if class_ == 'words' else None for words in header]
  head = join(
    (tag('th', words, scope='col', class_=k) for words, k in zip(header, kinds, strict=True)), ''
  )
  body = join(
    tag('tr', join(map(_cell, row, range(len(header)), kinds, labels), ''), role='row')
    for row in rows
  )
  inner = join([
    tag('caption', caption), tag('thead', tag('tr', head)), tag('tbody', body),
  ])  # fmt: skip
  whole = tag(
    'table', inner, class_=class_ or None, data_filter='' if filtered else None, role='table'
  )
  kind = 'wide tall' if len(rows) > TALL else 'wide'
  return tag('div', whole, class_=kind, tabindex='0', role='region', aria_label=caption)


def _is_numeric(column: Sequence[object]) -> bool:
  """Returns whether the cells of a column are numbers, but for those that are missing."""
  numbers = [isinstance(cell, Number) for cell in column]
  return any(numbers) and all(
    yes or cell == MISSING for yes, cell in zip(numbers, column, strict=True)
  )


def _cell(cell: object, column: int, kind: str | None, label: str | None) -> Html:
  """Returns a cell of a table; in the first column the header of its row.

  Args:
    cell: a `Cell`.
    column: its number.
    kind: class of the column.
    label: header of the column, written before the cell on a narrow screen; None: it is not.
  """
  value = cell.value if isinstance(cell, Number) else None
  shown = minus(cell.shown) if isinstance(cell, Number) else cell
  sort = None if value is None else f'{value:.9g}'
  if column == 0:
    return tag(
      'th', shown, scope='row', class_=kind, data_v=sort, data_label=label, role='rowheader'
    )
  return tag('td', shown, class_=kind, data_v=sort, data_label=label, role='cell')


def figure(title: str, picture: str, key: str = '', numbers: str = '', notes: str = '') -> Html:
  """Returns a figure: its caption, its key, the picture, and its numbers as a table that opens."""
  opened = details('The numbers', numbers) if numbers else Html('')
  return tag('figure', join([tag('figcaption', title), key, picture, notes, opened]))


def key(entries: Iterable[tuple[object, str]]) -> Html:
  """Returns the key of a picture.

  Args:
    entries: (words, class of the swatch), such as `c0 dash`.
  """
  swatch = lambda kind: tag('i', '', class_=f'swatch {kind}', aria_hidden='true')
  lines = [tag('li', join([swatch(kind), text(words)], ' ')) for words, kind in entries]
  return tag('ul', join(lines), class_='key')


def contents(links: Iterable[tuple[str, str]], label: str) -> Html:
  """Returns links to sections.

  Args:
    links: (anchor, title) of each.
    label: of all, for readers who do not see them.
  """
  entries = join(tag('li', tag('a', title, href=f'#{anchor}')) for anchor, title in links)
  return tag('nav', tag('ul', entries), aria_label=label)
