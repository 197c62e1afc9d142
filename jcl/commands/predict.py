"""Answers texts with a trained model: answers, and the probability of each label.

    jcl predict --model=runs/lamol --text='cancel my order'
    jcl predict --model=exported --file=mails.csv --column=subject --out=answers.csv

--model is the workdir of a run, or a folder that `jcl export` wrote. --file is a table (.csv, .tsv,
.json, .jsonl, .parquet) or has a text on each line (.txt). --column may hold conversations, lists
of messages; one that ends with an answer is asked without it. Without --out each text is printed
with its answer and its likeliest labels. A .jsonl file gets an object for each text, {"text": …,
"answer": …, "probabilities": {LABEL: …}}; a .csv file the columns text, answer and p(LABEL) for
each label. The other columns of --file stand before them; one with a name of these is written as
input_NAME. A model that answers with free text has no labels and gives the answer alone.
"""

import csv
import io
import json
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from jcl.commands import command_line, jax_settings
from jcl.errors import UserError, count_of
from jcl.storage import console
from jcl.streams.escaping import escaped

if TYPE_CHECKING:
  from jcl.streams.records import Record

SHOWN = 3  # labels of a text that are printed
SUFFIXES = ('.jsonl', '.csv')


class Asked(NamedTuple):
  """An input, and the row of a table that it stands in.

  Attributes:
    content: a text, or the messages of a conversation.
    row: {column: value} of the table; empty where the input is of no table.
  """

  content: str | Sequence[Mapping[str, Any]]
  row: Mapping[str, object]


class Prediction(NamedTuple):
  """Answer of a model to one text.

  Attributes:
    text: the input; of a conversation what its messages say.
    answer: a label as the user wrote it, or free text.
    probabilities: {label: probability}, 1 in sum; empty for a model without labels.
  """

  text: str
  answer: str
  probabilities: dict[str, float]


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  command_line.define_path(given, 'model', None, 'workdir of a run, or a folder of jcl export')
  flags.DEFINE_string('text', '', 'a text to answer', given)
  command_line.define_family(given, 'model')
  command_line.define_places(given, several=False)
  command_line.define_path(given, 'file', '', '.csv, .tsv, .jsonl or .txt file of texts to answer')
  flags.DEFINE_string(
    'column', 'text', "column of the texts, or a template such as '{title} {body}'", given
  )
  flags.DEFINE_string(
    'task', '', 'name of the task of the texts; needed where the model is told it', given
  )
  flags.DEFINE_enum(
    'special_tokens_in_text', '', ['', 'refuse', 'text', 'drop'],
    'what a special token in a text is; drop: such rows get no answer; empty: as the model was '
    'trained', given,
  )  # fmt: skip
  command_line.define_path(given, 'out', '', '.jsonl or .csv file to write; empty: print')


def run(given: flags.FlagValues) -> None:
  """Prints the predictions, or writes them to a file."""
  place = command_line.required(given, 'model')
  out = pathlib.Path(given.out) if given.out else None
  if out is not None:
    _check_out(out, given.file)
  asked = _read(given)
  jax_settings.use_compile_cache()
  import jcl
  from jcl.streams import chat

  in_text, task = given.special_tokens_in_text, given.task or None
  dropping = in_text == 'drop'
  reading = '' if dropping else in_text
  model = jcl.load_model(
    place, base=given.base or None, special_tokens_in_text=reading, family=given.family
  )
  if dropping:
    kept = [one for one in asked if model.special_token(one.content) is None]
    left = f'{len(asked) - len(kept)} of {count_of(len(asked), "text")}'
    print(f'{left} left out for a special token')
    asked = kept
  texts = [one.content for one in asked]
  answers = model.answer(texts, task)
  labelled = model.probabilities(texts, task) if model.labels else [{} for _ in texts]
  said = [text if isinstance(text, str) else chat.asked(text, 'text').text for text in texts]
  found = [Prediction(*row) for row in zip(said, answers, labelled, strict=True)]
  if out is None:
    for prediction in found:
      print(_line(prediction))
    return
  from jcl.storage import atomic

  lines = [_with_answer(one, out.suffix == '.csv') for one in found]
  taken = {name for line in lines for name in line}
  kept_rows = _kept([one.row for one in asked], taken, given.column, given.file)
  rows = [{**row, **line} for row, line in zip(kept_rows, lines, strict=True)]
  columns = dict.fromkeys(name for part in (kept_rows, lines) for row in part for name in row)
  written = _as_csv(rows, columns) if out.suffix == '.csv' else _as_jsonl(rows)
  atomic.write_atomically(out, written.encode())
  print(f'{count_of(len(found), "answer")}: {out}')


def _check_out(out: pathlib.Path, source: str) -> None:
  """Refuses a file that cannot be written, before the model is opened.

  Raises:
    UserError: naming the file and what would be right.
  """
  if out.suffix not in SUFFIXES:
    raise UserError(f'--out={out}: give a file whose name ends with {" or ".join(SUFFIXES)}')
  if not out.parent.is_dir():
    raise UserError(f'--out: there is no folder {out.parent}')
  if out.is_dir() or (source and out.resolve() == pathlib.Path(source).resolve()):
    raise UserError(f'--out={out} would overwrite what is there; give a new file')


def _read(given: flags.FlagValues) -> list[Asked]:
  """Returns the inputs of --text or --file.

  Raises:
    UserError: neither or both are given, or the file cannot be read or has no such column.
  """
  if bool(given.text) == bool(given.file):
    raise UserError("give --text='…' or --file=texts.csv, one of the two")
  if given.text:
    return [Asked(given.text, {})]
  from jcl.streams import files, tables

  path, notes = pathlib.Path(given.file).expanduser(), list[str]()
  if files.kind_of(path) == '.txt':
    return [Asked(line, {}) for line in tables.lines(path, str(path)) if line.strip()]
  records = tables.table(path, str(path), notes=notes)
  for line in notes:
    console.show(f'note: {line}', sys.stderr)
  return [Asked(_input(record, given.column), record.fields) for record in records]


def _input(record: 'Record', column: str) -> str | Sequence[Mapping[str, Any]]:
  """Returns the text, or the messages, of a record."""
  from jcl.streams import chat, records

  if not (set(column) & set('{.') or column in record.fields):
    names = ', '.join(map(repr, record.fields))
    raise UserError(
      f'{record.where}: no column {column!r}: the row has {names}; give --column=NAME with one of '
      'these, or with a template'
    )
  messages = None if '{' in column else chat.as_messages(records.found(record, column))
  if messages is not None:
    return chat.asked(messages, record.where).messages
  text = records.filled(record, column)
  if not text.strip():
    raise UserError(f'{record.where}: {column!r} is empty: fill it in, or leave the row out')
  return text


def _line(prediction: Prediction) -> str:
  """Returns a prediction as it is printed: text, answer and the likeliest labels."""
  ranked = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])[:SHOWN]
  labels = ', '.join(f'{label} {probability:.3f}' for label, probability in ranked)
  line = f'{prediction.text}  →  {prediction.answer}' + (f'  ({labels})' if labels else '')
  return escaped(line)


def _with_answer(one: Prediction, flat: bool) -> dict[str, object]:
  """Returns a prediction as columns; `flat`: one for each label, else {label: probability}."""
  line: dict[str, object] = {'text': one.text, 'answer': one.answer}
  if flat:
    return line | {f'p({label})': p for label, p in one.probabilities.items()}
  return line | ({'probabilities': one.probabilities} if one.probabilities else {})


def _kept(
  rows: Sequence[Mapping[str, object]], taken: Collection[str], column: str, file: str
) -> list[dict[str, object]]:
  """Returns the rows of the input, without its column `text` if that is the one that is answered.

  Args:
    rows: of the input.
    taken: names of the columns of the predictions; a column of such a name gets another one.
    column: that is answered.
    file: of the input; a note names it.
  """
  columns = dict.fromkeys(name for row in rows for name in row)
  called = {name: name for name in columns if name not in taken}
  for name in columns:
    if name in taken and not name == column == 'text':
      other = f'input_{name}'
      while other in taken or other in columns:
        other = f'input_{other}'
      called[name] = other
      console.show(f'note: {file}: its column {name!r} is written as {other!r}', sys.stderr)
  return [{called[name]: value for name, value in row.items() if name in called} for row in rows]


def _as_jsonl(rows: Sequence[Mapping[str, object]]) -> str:
  """Returns rows as lines of JSON."""
  return ''.join(json.dumps(_plain(row), ensure_ascii=False) + '\n' for row in rows)


def _as_csv(rows: Sequence[Mapping[str, object]], columns: Collection[str]) -> str:
  """Returns rows as a table; values that are neither text nor a number as JSON."""
  table = io.StringIO(newline='')
  writer = csv.DictWriter(table, columns or ['text', 'answer'], restval='')
  writer.writeheader()
  for row in rows:
    plain = {name: _plain(value) for name, value in row.items()}
    nested = {n: json.dumps(v, ensure_ascii=False) for n, v in plain.items() if _is_nested(v)}
    writer.writerow(plain | nested)
  return table.getvalue()


def _is_nested(value: object) -> bool:
  return isinstance(value, dict | list)


def _plain(value: object) -> object:
  """Returns a value of a table as JSON holds it."""
  from jcl.streams.raw import Number

  if isinstance(value, Number):
    return json.loads(value)
  if isinstance(value, Mapping):
    return {str(name): _plain(one) for name, one in value.items()}
  if hasattr(value, 'tolist'):  # of NumPy
    return _plain(value.tolist())
  if isinstance(value, list | tuple):
    return [_plain(one) for one in value]
  return value if value is None or isinstance(value, str | int | float) else str(value)
