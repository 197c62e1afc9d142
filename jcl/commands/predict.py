"""Answers texts with a trained model: answers, and the probability of each label.

    jcl predict --model=runs/lamol --text='cancel my order'
    jcl predict --model=exported --file=mails.csv --column=subject --out=answers.csv

--model is the workdir of a run, or a folder that `jcl export` wrote. --file is a table (.csv, .tsv,
.json, .jsonl, .parquet) or has a text on each line (.txt). --column may hold conversations, lists
of messages; one that ends with an answer is asked without it. Without --out each text is printed
with its answer and its likeliest labels. A .jsonl file gets an object for each text, {"text": …,
"answer": …, "probabilities": {LABEL: …}}; a .csv file the columns text, answer and p(LABEL) for
each label. A model that answers with free text has no labels and gives the answer alone.
"""

import csv
import io
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
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
  texts = _read_texts(given)
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
    kept = [text for text in texts if model.special_token(text) is None]
    left = f'{len(texts) - len(kept)} of {count_of(len(texts), "text")}'
    print(f'{left} left out for a special token')
    texts = kept
  answers = model.answer(texts, task)
  labelled = model.probabilities(texts, task) if model.labels else [{} for _ in texts]
  said = [text if isinstance(text, str) else chat.asked(text, 'text').text for text in texts]
  found = [Prediction(*row) for row in zip(said, answers, labelled, strict=True)]
  if out is None:
    for prediction in found:
      print(_line(prediction))
    return
  from jcl.storage import atomic

  written = _as_csv(found) if out.suffix == '.csv' else _as_jsonl(found)
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


def _read_texts(given: flags.FlagValues) -> list[str | Sequence[Mapping[str, Any]]]:
  """Returns the texts, or conversations, of --text or --file.

  Raises:
    UserError: neither or both are given, or the file cannot be read or has no such column.
  """
  if bool(given.text) == bool(given.file):
    raise UserError("give --text='…' or --file=texts.csv, one of the two")
  if given.text:
    return [given.text]
  from jcl.streams import files, tables

  path, notes = pathlib.Path(given.file).expanduser(), list[str]()
  if files.kind_of(path) == '.txt':
    return [line for line in tables.lines(path, str(path)) if line.strip()]
  records = tables.table(path, str(path), notes=notes)
  for line in notes:
    console.show(f'note: {line}', sys.stderr)
  return [_input(record, given.column) for record in records]


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


def _as_jsonl(found: Sequence[Prediction]) -> str:
  """Returns predictions as lines of JSON."""
  rows = []
  for prediction in found:
    row = prediction._asdict()
    if not row['probabilities']:
      del row['probabilities']
    rows.append(json.dumps(row, ensure_ascii=False) + '\n')
  return ''.join(rows)


def _as_csv(found: Sequence[Prediction]) -> str:
  """Returns predictions as a table: text, answer and p(LABEL) for each label."""
  labels = list(dict.fromkeys(label for one in found for label in one.probabilities))
  table = io.StringIO(newline='')
  writer = csv.writer(table)
  writer.writerow(['text', 'answer', *(f'p({label})' for label in labels)])
  for text, answer, probabilities in found:
    writer.writerow([text, answer, *(probabilities.get(label, '') for label in labels)])
  return table.getvalue()
