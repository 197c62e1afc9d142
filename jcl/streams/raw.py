"""Raw streams: what a stream reader returns, before `build` checks and assembles it."""

import datetime
import decimal
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

TEMPLATE = 'Input sentence: {x}\n The label: {y}'
OWN = ('files', 'rows')  # readers of a user's own data
SPLITS = ('train', 'dev', 'test')


class Number(str):
  """A number of a JSON file, as the file writes it."""


class RawRow(NamedTuple):
  """One row as a reader found it.

  Attributes:
    where: place of the row as error messages name it, such as `train.csv:12`.
    text: input text.
    answer: target text of a row without a class; '' for a row with one, and for raw text.
    label: class of the row as its source writes it; None where answers are free and for raw text.
      The model learns to write `label_text(label)`.
    id: the user's own id of the row, unique in the stream; '' where there is none.
    messages: the conversation that the row is, see `jcl.streams.chat`; '' for a row that is none.
  """

  where: str
  text: str
  answer: str = ''
  label: str | None = None
  id: str = ''
  messages: str = ''


class RawTask(NamedTuple):
  """The rows of one task, each split in the order of its source; `dev` may be empty."""

  name: str
  train: Sequence[RawRow]
  test: Sequence[RawRow]
  dev: Sequence[RawRow] = ()


class RawStream(NamedTuple):
  """Tasks as a stream reader returns them.

  Attributes:
    name: name of the stream, as results.json gives it.
    tasks: tasks in the order in which they are learned.
    template: text of a plain row, with `{x}` for the input and, after it, `{y}` for the answer.
    overlap: what happens to training texts that a test split has too, where `stream.overlap` is
      empty: `refuse`, `drop` or `keep`.
    targets: whether rows have labels or answers; False for raw text (scenario cpt).
    notes: lines on how the data was read, which a run says at its start.
    metrics: maps names of tasks to the metric of their answers, one of
      `jcl.reports.answer_metrics.METRICS`; a task that is not named has `exact_match`.
  """

  name: str
  tasks: Sequence[RawTask]
  template: str = TEMPLATE
  overlap: str = 'refuse'
  targets: bool = True
  notes: Sequence[str] = ()
  metrics: Mapping[str, str] = {}


def written(value: object) -> str | None:
  """Returns a value of a table as text: a text as it is, else as Python writes it.

  Booleans are `true` and `false`.

  Args:
    value: of a field.

  Returns:
    The text; None where the value is no text, finite number, boolean, date or time.
  """
  if getattr(value, 'shape', None) == () and not isinstance(value, np.generic):
    value = np.asarray(value)[()]  # a zero-dimensional array of any library
  if isinstance(value, str):
    return str(value)
  if isinstance(value, bool | np.bool_):
    return 'true' if value else 'false'
  if isinstance(value, datetime.date | datetime.time):
    return str(value) if value == value else None  # NaT of pandas is a date
  if isinstance(value, int | float | np.integer | np.floating | decimal.Decimal):
    try:
      return str(value) if math.isfinite(value) else None
    except (OverflowError, ValueError):  # an integer of more digits than a float or a text has
      return None
  return None


def narrow(value: object, kind: str) -> object:
  """Returns a number of a narrow type with the digits that it has there.

  A float32 of 0.1 is read as 0.10000000149011612 by what knows float64 alone, and is 0.1 again.

  Args:
    value: as it was read.
    kind: `float16` or `float32`.
  """
  return float(str(np.dtype(kind).type(value))) if isinstance(value, float) else value


def label_text(label: str) -> str:
  """Returns a label as the model writes it: `_` becomes a space, white space one space."""
  return ' '.join(label.replace('_', ' ').split())


def normalized_text(text: str) -> str:
  """Returns a text without its case and spacing: two texts are the same if these are equal.

  Letters are in one form of Unicode (NFC): `é` is the same as `e` with an accent behind it.
  """
  return unicodedata.normalize('NFC', ' '.join(text.split()).casefold())


def answer_form(answer: str) -> str:
  """Returns an answer without its case and the spaces around it; the one form that is compared."""
  return answer.strip().lower()


def class_form(answer: str) -> str:
  """Returns `answer_form` of a label, or of an answer that may be one: with single spaces."""
  return answer_form(label_text(answer))


def classes_of(rows: Iterable[RawRow]) -> list[str]:
  """Returns the labels of rows in order of first appearance."""
  return list(dict.fromkeys(row.label for row in rows if row.label is not None))


def permutation(count: int, seed: int) -> list[int]:
  """Returns 0 … count - 1: in this order for a negative seed, else in the order of the seed."""
  return list(range(count)) if seed < 0 else np.random.default_rng(seed).permutation(count).tolist()
