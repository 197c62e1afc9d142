"""Readers against whatever bytes there are: the right rows, or one line that names the file."""

import codecs
import contextlib
import csv
import functools
import io
import json
import os
import re

import hypothesis
import pytest
from hypothesis import strategies as st
from support import bad_files
from support.hostile import BYTES, ENCODED, many, mutated, outcome

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import load
from jcl.streams.tables import table


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """A folder that examples write over one another."""
  return tmp_path_factory.mktemp('hostile')


def files_at(path, need_dev=False, **settings):
  """The stream of a manifest."""
  return load(StreamConfig(name='files', path=str(path), **settings), need_dev)


def unique(pairs):
  """A JSON object whose keys differ."""
  if len(dict(pairs)) < len(pairs):
    raise ValueError(pairs)
  return dict(pairs)


def expected(data, kind):
  """Returns the rows that another reader finds; None where it finds fault."""
  try:
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode('utf-16' if marked else 'utf-8-sig')
    assert '\0' not in text
    rows = objects(text) if kind == 'jsonl' else separated(text, kind)
  except (ValueError, RecursionError, AssertionError, csv.Error):
    return None
  return rows or None


def objects(text):
  """The rows of jsonl."""
  read = functools.partial(
    json.loads, parse_int=str, parse_float=str, parse_constant=float, object_pairs_hook=unique
  )
  rows = [read(line.strip()) for line in text.split('\n') if line.strip()]
  assert all(isinstance(row, dict) for row in rows)
  return rows


def separated(text, kind):
  """The rows of csv or tsv: as the name says, else with quotes, else by another separator."""
  quoting, usual = (csv.QUOTE_MINIMAL, ',') if kind == 'csv' else (csv.QUOTE_NONE, '\t')
  head = next(line for line in [*re.split(r'[\r\n]', text), 'none'] if line.strip())
  columns = lambda mark: len(next(csv.reader([head], delimiter=mark), ()))
  if columns(usual) < 2:
    for mark in ',;\t|':
      if columns(mark) > 1:
        with contextlib.suppress(ValueError, AssertionError, csv.Error):
          if rows := behind_blanks(text, mark):
            return rows
  if kind == 'csv':
    return behind_blanks(text, usual)
  ways = []
  for way in (quoting, csv.QUOTE_MINIMAL):
    with contextlib.suppress(ValueError, AssertionError, csv.Error):
      ways.append(cut(text, way, usual))
    if not ways and way == csv.QUOTE_MINIMAL:
      raise ValueError('malformed')
  letters, quoted = ways[0], ways[-1]
  as_many = quoted and (len(quoted) == len(letters) or len(quoted[0]) == 1)
  return quoted if as_many and around_fields(text) else letters


def around_fields(text):
  """Whether each quote of a tsv begins or ends a field, or is one of two in a field in quotes."""
  state = 'start'  # of a field, inside quotes, behind a quote in them, or without quotes
  for x in text:
    if state == 'inside':
      state = 'behind' if x == '"' else 'inside'
    elif x in '\t\r\n':
      state = 'start'
    elif state == 'start':
      state = 'inside' if x == '"' else 'plain'
    elif state == 'behind' and x == '"':
      state = 'inside'
    elif state == 'behind' or x == '"':
      return False
  return state != 'inside'


def behind_blanks(text, mark):
  """The rows of a table whose quotes may stand behind blanks, where all that do are quotes."""
  if re.search(rf'(^|[\r\n{re.escape(mark)}]) +"', text):
    with contextlib.suppress(ValueError, AssertionError, csv.Error):
      return cut(text, csv.QUOTE_MINIMAL, mark, skipinitialspace=True)
  return cut(text, csv.QUOTE_MINIMAL, mark)


def cut(text, quoting, mark, **more):
  """The rows of a table with this separator; a first column without a name is left out."""
  source = io.StringIO(text, newline='')
  lines = csv.reader(source, delimiter=mark, quoting=quoting, strict=True, **more)
  header, *lines = [line for line in lines if ''.join(line).strip()] or [[]]
  header = [name.strip() for name in header]
  assert '' not in header[1 if len(header) > 1 else 0 :]
  assert len(set(header)) == len(header)
  assert len(header) < 2 or all([x.strip('\ufeff ') for x in line] != header for line in lines)
  rows = [dict(zip(header, line, strict=True)) for line in lines]
  return [{name: value for name, value in row.items() if name} for row in rows]


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'tsv'])
@many(400)
@hypothesis.example(data='{"text": "\u2028 \x85"}'.encode())
@hypothesis.given(data=BYTES)
def test_a_table_has_the_rows_that_another_reader_finds_or_is_refused(kind, here, data):
  file = here / f'a.{kind}'
  file.write_bytes(data)
  found, said = outcome(lambda: [record.fields for record in table(file, file.name)], file.name)
  assert found == expected(data, kind), said


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'tsv'])
@many(150)
@hypothesis.given(data=BYTES, test=ENCODED)
def test_a_stream_has_exactly_those_rows(kind, here, data, test):
  task = {'name': 'x', 'train': f'train.{kind}', 'test': f'test.{kind}'}
  bad_files.put(here / 'rows/manifest.json', {'answer': 'label', 'tasks': [task]})
  bad_files.put(here / f'rows/train.{kind}', data)
  bad_files.put(here / f'rows/test.{kind}', test)
  made, _ = outcome(lambda: files_at(here / 'rows', overlap='keep'), 'train.', 'test.')
  for examples, content in (
    ((made.tasks[0].train, data), (made.tasks[0].test, test)) if made else ()
  ):
    wanted = [(row['text'].strip(), row['label'].strip()) for row in expected(content, kind)]
    assert [(e.text, e.answer) for e in examples] == wanted


WORDS = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), min_size=1)
ROWS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6)


@many(150)
@hypothesis.given(rows=ROWS, plain=st.booleans())
def test_what_is_written_is_read_again(here, rows, plain):
  hypothesis.assume(all(len(x.strip()) for row in rows for x in row))
  rows = [{'text': text, 'label': label} for text, label in rows]
  lines = [json.dumps(row, ensure_ascii=plain) for row in rows]
  (here / 'w.jsonl').write_text('\n'.join(lines), 'utf-8', newline='')
  assert [record.fields for record in table(here / 'w.jsonl', 'w')] == rows
  with open(here / 'w.csv', 'w', encoding='utf-8', newline='') as file:
    writer = csv.DictWriter(file, ['text', 'label'], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
  assert [record.fields for record in table(here / 'w.csv', 'w')] == rows


def test_lines_of_megabytes(here):
  text = 'Ω "quoted", 😀\u2028 ' * 300_000
  bad_files.put(here / 'long.jsonl', json.dumps({'text': text}, ensure_ascii=False))
  bad_files.put(here / 'long.csv', 'text\n"' + text.replace('"', '""') + '"\n')
  bad_files.put(here / 'long.txt', text)
  for kind in ('jsonl', 'csv', 'txt'):
    (record,) = table(here / f'long.{kind}', 'long')
    assert record.fields == {'text': text}
  bad_files.put(here / 'open.csv', 'text\n"' + 'x,' * 2_000_000)
  with pytest.raises(UserError, match=r'open\.csv:2: malformed row'):
    table(here / 'open.csv', 'open.csv')


@pytest.mark.slow
def test_a_hundred_thousand_classes(here):
  """Hours, where anything counts the rows of one class after another."""
  count = 100_000
  train = ''.join(
    f'{{"text": "{i} {side}", "label": "c{i}"}}\n' for i in range(count) for side in 'ab'
  )
  test = ''.join(f'{{"text": "{i} t", "label": "c{i}"}}\n' for i in range(0, count, 10))
  for name, content in (bad_files.STREAM | {'train.jsonl': train, 'test.jsonl': test}).items():
    bad_files.put(here / 'wide' / name, content)
  made = files_at(here / 'wide', need_dev=True)
  (task,) = made.tasks
  assert made.classes == tuple(f'c{i}' for i in range(count))
  assert [e.label for e in task.dev] == [e.label for e in task.train] == list(range(count))
  keys = ', '.join(f'"k{i}": 0' for i in range(count))
  bad_files.put(here / 'keys.jsonl', f'{{{keys}, "k{count - 1}": 1}}')
  with pytest.raises(UserError, match=f"key 'k{count - 1}' stands twice"):
    table(here / 'keys.jsonl', 'keys.jsonl')


def test_one_row_a_task(here):
  rows = {f'{i}.jsonl': f'{{"text": "t{i}", "label": "a"}}' for i in range(3)}
  tasks = [{'name': f'n{i}', 'train': f'{i}.jsonl', 'test': '2.jsonl'} for i in range(2)]
  for name, content in rows.items():
    bad_files.put(here / 'one' / name, content)
  bad_files.put(here / 'one/manifest.json', {'label': 'label', 'tasks': tasks})
  made = files_at(here / 'one')
  assert [len(task.train) for task in made.tasks] == [1, 1]
  with pytest.raises(UserError, match="task 'n0' has too few training examples"):
    files_at(here / 'one', need_dev=True)


MANIFEST = {
  'name': 'x', 'template': '{x} {y}', 'folders': ['.'], 'label': 'label',
  'tasks': [bad_files.TASK | {'text': '{text}', 'dev': 'test.jsonl'}],
}  # fmt: skip


@many(300)
@hypothesis.given(value=mutated(MANIFEST), python=st.booleans())
def test_a_manifest_is_a_stream_or_refused(here, value, python):
  folder = here / ('python' if python else 'json')
  for name in ('train.jsonl', 'test.jsonl'):
    bad_files.put(folder / name, bad_files.STREAM[name])
  text = f'manifest = {value!r}' if python else json.dumps(value)
  name = 'manifest.py' if python else 'manifest.json'
  bad_files.put(folder / name, text.encode('utf-8', 'replace'))
  names = ('manifest.', 'train.jsonl', 'test.jsonl', 'task name', 'stream.template')
  made, said = outcome(lambda: files_at(folder), *names)
  assert said or [e.text for e in made.tasks[0].train] == ['hello there', 'good bye']


@many(100)
@hypothesis.given(data=BYTES, name=st.sampled_from(('manifest.json', 'manifest.py')))
def test_any_bytes_as_a_manifest(here, data, name):
  bad_files.put(here / 'any' / name, data)
  _, said = outcome(lambda: files_at(here / 'any' / name), name)
  assert said


def test_what_an_error_quotes_becomes_one_line():
  assert str(UserError('a\nb\u2028c\r\nd')) == 'a b c d'


def test_a_pipe_is_refused_and_never_waited_for(tmp_path):
  os.mkfifo(tmp_path / 'a.jsonl')
  with pytest.raises(UserError, match=r'^a\.jsonl: a pipe or a device'):
    table(tmp_path / 'a.jsonl', 'a.jsonl')
  os.mkfifo(tmp_path / 'manifest.json')
  with pytest.raises(UserError, match=r'a pipe or a device'):
    files_at(tmp_path / 'manifest.json')


def test_a_manifest_that_is_not_there_is_said_to_be_missing(tmp_path):
  with pytest.raises(UserError, match=r'nowhere: cannot be read \(No such file'):
    files_at(tmp_path / 'nowhere')
