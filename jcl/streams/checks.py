"""Checks of every raw stream: well-formed names and rows, and classes that belong together."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from jcl import notation
from jcl.errors import UserError
from jcl.streams.raw import SPLITS, RawRow, RawStream, RawTask, class_form, label_text
from jcl.streams.records import shown

LONGEST_NAME = 200  # characters of a stream's name
# Spaces and hyphens of no width, marks of direction, and selectors of how a letter is drawn.
INVISIBLE = dict.fromkeys([
  0xAD, 0x61C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A),
  *range(0xFE00, 0xFE10), 0xFEFF,
])  # fmt: skip


def check_raw(raw: object, reader: str) -> RawStream:
  """Returns what a reader gave, if it is a raw stream of the right types.

  The types of the fields of a row are checked later, with its other faults.

  Args:
    raw: what the reader returned.
    reader: name of the reader, for error messages.

  Raises:
    UserError: the reader returned something else.
  """
  of = f'stream.name: the reader {reader}'
  if not isinstance(raw, RawStream):
    raise UserError(f'{of} returns a {type(raw).__name__}; it must return a RawStream')
  check_stream_name(raw.name, f'{of}: name')
  check_template(raw.template, f'{of}: template')
  check_overlap(raw.overlap, f'{of}: overlap')
  if not isinstance(raw.metrics, Mapping):
    raise UserError(f'{of}: metrics is {shown(raw.metrics)}: give a dict from tasks to metrics')
  if not isinstance(raw.tasks, Sequence):
    raise UserError(f'{of}: tasks is a {type(raw.tasks).__name__}: give a list of RawTask')
  for task in raw.tasks:
    if not isinstance(task, RawTask):
      raise UserError(f'{of} has a {type(task).__name__} among its tasks: give a RawTask')
    for split in SPLITS:
      rows = getattr(task, split)
      if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        kind = type(rows).__name__
        raise UserError(f'{of}: {split} of {task.name!r} is a {kind}: give a list of RawRow')
  return raw


def check_stream_name(name: object, argument: str) -> None:
  """Refuses a stream's name that is no text, is too long or has characters that do not print."""
  if not isinstance(name, str):
    raise UserError(f'{argument} is {shown(name)}: give text')
  if not name.isprintable() or len(name) > LONGEST_NAME:
    raise UserError(f'{argument} is {shown(name)}: give at most {LONGEST_NAME} printable letters')


def check_template(template: object, argument: str) -> None:
  """Refuses a template that does not say where the input and, after it, the answer go."""
  if not isinstance(template, str):
    raise UserError(f'{argument} is {shown(template)}: give text')
  once = template.count('{x}') == template.count('{y}') == 1
  if not once or template.index('{x}') > template.index('{y}'):
    raise UserError(f'{argument} {template!r}: needs {{x}} once and then {{y}} once')


def check_overlap(policy: object, argument: str) -> None:
  """Refuses what says nothing about training texts that a test split has too."""
  if not isinstance(policy, str) or policy not in ('refuse', 'drop', 'keep'):
    raise UserError(f'{argument} is {shown(policy)}: give refuse, drop or keep')


def check_names(names: Sequence[str]) -> None:
  """Refuses a stream without tasks, and task names that look the same or cannot name a folder."""
  if not names:
    raise UserError('the stream has no tasks: give at least one')
  seen: dict[str, str] = {}
  for name in names:
    named = isinstance(name, str) and name.strip(' .') and name.isprintable() and len(name) <= 80
    if not named or set(name) & set('/\\'):
      raise UserError(
        f'task name {shown(name)}: give 1 to 80 printable characters without / and \\'
      )
    look = visible(name)
    if seen.get(look) == name:
      raise UserError(f'task name {name!r} is given twice: names are unique in a stream')
    if look in seen:
      raise UserError(f'task names {seen[look]!a} and {name!a} look the same: rename one')
    seen[look] = name


def check_rows(tasks: Sequence[RawTask], targets: bool = True, carve_test: bool = False) -> None:
  """Refuses missing splits, empty fields, repeated ids, and classes that do not belong together.

  Args:
    tasks: tasks of one stream.
    targets: whether rows need labels or answers.
    carve_test: whether a test split that is missing is carved from train later.
  """
  places: dict[str, str] = {}
  answers: dict[str, str] = {}
  kinds: dict[bool, str] = {}
  for task in tasks:
    for split in ('train', 'test'):
      if getattr(task, split) or (split == 'test' and carve_test):
        continue
      carving = ', or set stream.test_fraction, as 0.2' if split == 'test' else ''
      raise UserError(f'task {task.name!r} has no {split} examples: give at least one{carving}')
    classes: dict[str, None] = {}
    for split in SPLITS:
      for row in getattr(task, split):
        if not isinstance(row, RawRow):
          kind = type(row).__name__
          raise UserError(f'{split} of task {task.name!r} has a {kind} as a row: give a RawRow')
        check_fields(row, targets)
        check_id(row, places)
        if not targets:
          continue
        check_kind(row, kinds)
        if split == 'train' and row.label is not None:
          classes[row.label] = None
        elif row.label is not None and row.label not in classes:
          raise unknown_label(row, list(classes), f' of task {task.name!r}')
    check_labels(classes, answers)


def check_fields(row: RawRow, targets: bool = True) -> None:
  """Refuses a row whose fields are empty or not text, or hold what no tokenizer can read."""
  values: dict[str, object] = {'text': row.text}
  if targets and row.label is None:
    values['answer'] = row.answer
  elif targets:
    values['label'] = label_text(row.label) if isinstance(row.label, str) else row.label
  for field, given in (('id', row.id), ('label', row.label or '')):
    if not isinstance(given, str):
      raise UserError(f'{row.where}: the {field} is {shown(given)}: give text')
  for field, value in values.items():
    if not isinstance(value, str):
      raise UserError(f'{row.where}: the {field} is {shown(value)}: give text')
    if not (value if value.isascii() else value.translate(INVISIBLE)).strip():
      raise UserError(f'{row.where}: the {field} is empty: fill it in, or leave the row out')
    if '\0' in value:
      raise UserError(f'{row.where}: the {field} holds a NUL character: take it out')
    if not notation.encodable(value):
      raise UserError(f'{row.where}: the {field} holds half a surrogate pair: take it out')


def check_id(row: RawRow, places: dict[str, str]) -> None:
  """Refuses an id that another row has; `places` maps each id so far to the place of its row."""
  if row.id and places.setdefault(row.id, row.where) != row.where:
    raise UserError(
      f'{row.where}: id {shown(row.id)} stands also at {places[row.id]}: '
      'give each row its own, or leave ids out'
    )


def check_kind(row: RawRow, kinds: dict[bool, str]) -> None:
  """Refuses a stream of labels and answers; `kinds` maps each kind so far to its first row."""
  kinds.setdefault(row.label is None, row.where)
  if len(kinds) > 1:
    raise UserError(
      f'{kinds[True]} has a free answer and {kinds[False]} a label: '
      'a stream has either answers or labels throughout'
    )


def check_labels(labels: Iterable[str], answers: dict[str, str]) -> None:
  """Refuses two labels that the model would write alike, or that readers see alike.

  Args:
    labels: labels of one task.
    answers: maps the form of each label so far (`seen_form`) to the label; grows.
  """
  for label in labels:
    other = answers.setdefault(seen_form(label), label)
    if other != label and class_form(other) != class_form(label):
      raise UserError(
        f'labels {other!a} and {label!a} look the same and are two texts: write both in one form '
        'of Unicode, without signs that are not seen'
      )
    if other != label:
      raise UserError(
        f'labels {shown(other)} and {shown(label)} read the same in an answer: rename one'
      )


def seen_form(label: str) -> str:
  """Returns a label as a reader sees it: in Unicode form NFC, without invisible characters."""
  return visible(class_form(label))


def visible(text: str) -> str:
  """Returns a text in Unicode form NFC, without invisible characters (`INVISIBLE`)."""
  return unicodedata.normalize('NFC', text.translate(INVISIBLE))


def unknown_label(row: RawRow, classes: Sequence[str], of: str = '') -> UserError:
  """Returns the error for a label that no training row has."""
  some = ', '.join(map(shown, classes[:5])) + (', …' if len(classes) > 5 else '')
  alike = [c for c in classes if row.label is not None and seen_form(c) == seen_form(row.label)]
  if alike and class_form(alike[0]) != class_form(str(row.label)):
    return UserError(
      f'{row.where}: label {row.label!a} looks as {alike[0]!a} of the train split{of}, '
      'and is another text: write both in one form of Unicode, without signs that are not seen'
    )
  return UserError(
    f'{row.where}: label {shown(row.label)} is not in the train split{of}, which has {some}: '
    'correct it, add training examples of it, or leave it out'
  )


def check_targets(raw: RawStream, targets: bool) -> None:
  """Refuses raw text where labels or answers are needed."""
  if targets and not raw.targets:
    raise UserError(
      f'stream {raw.name!r} is raw text, without labels and answers: use the scenario cpt, '
      'or give each row a label or an answer'
    )
