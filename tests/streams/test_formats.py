"""Files that people have, written by the library that usually writes them, and hostile ones."""

import bz2
import datetime
import decimal
import gzip
import json
import lzma

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import Stream, files, load
from jcl.streams.records import value
from jcl.streams.tables import table

TRAIN = [
  {'text': 'the sky, at noon', 'label': 'blue'},
  {'text': 'fresh "grass"', 'label': 'green'},
  {'text': 'a clear\nsea', 'label': 'blue'},
  {'text': 'young leaves; wet', 'label': 'green'},
]
TEST = [{'text': 'a deep lake', 'label': 'blue'}, {'text': 'a frog', 'label': 'green'}]
FRAME = pandas.DataFrame(TRAIN)


def written_table(folder, name, write):
  """The rows and notes of a file that a function writes."""
  notes: list[str] = []
  write(folder / name)
  return [dict(record.fields) for record in table(folder / name, name, notes=notes)], notes


def packed(module):
  """Writes jsonl, compressed by a module of the standard library."""
  lines = ''.join(json.dumps(row) + '\n' for row in TRAIN)
  return lambda path: path.write_bytes(module.compress(lines.encode()))


def zstd(path):
  with pyarrow.CompressedOutputStream(str(path), 'zstd') as file:
    file.write(json.dumps(TRAIN).encode())


WRITTEN = {
  'a.csv': lambda path: FRAME.to_csv(path, index=False),
  'mark.csv': lambda path: FRAME.to_csv(path, index=False, encoding='utf-8-sig'),
  'utf16.csv': lambda path: FRAME.to_csv(path, index=False, encoding='utf-16'),
  'windows.csv': lambda path: FRAME.to_csv(path, index=False, lineterminator='\r\n'),
  'a.csv.gz': lambda path: FRAME.to_csv(path, index=False),
  'a.json': lambda path: FRAME.to_json(path, orient='records'),
  'lines.json': lambda path: FRAME.to_json(path, orient='records', lines=True),
  'data.json': lambda path: path.write_text(json.dumps({'data': TRAIN}), 'utf-8'),
  'pretty.json': lambda path: path.write_text(json.dumps(TRAIN, indent=2), 'utf-8'),
  'a.jsonl': lambda path: FRAME.to_json(path, orient='records', lines=True),
  'a.jsonl.gz': packed(gzip),
  'a.jsonl.bz2': packed(bz2),
  'a.jsonl.xz': packed(lzma),
  'a.json.zst': zstd,
  'pandas.json': lambda path: FRAME.to_json(path),
  'lists.json': lambda path: path.write_text(json.dumps(FRAME.to_dict('list'))),
  'a.parquet': lambda path: FRAME.to_parquet(path),
  'set.parquet': lambda path: datasets.Dataset.from_list(TRAIN).to_parquet(str(path)),
  'arrow.parquet': lambda p: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TRAIN), p),
}


@pytest.mark.parametrize('name', WRITTEN)
def test_a_file_is_read_as_it_was_written(tmp_path, name):
  rows, notes = written_table(tmp_path, name, WRITTEN[name])
  assert rows == TRAIN
  assert notes == []


NOTED = {
  'index.csv': (lambda p: FRAME.to_csv(p), 'index.csv: its first column has no name'),
  'a.csv': (lambda p: FRAME.to_csv(p, index=False, sep=';'), 'separated by a semicolon'),
  'tab.csv': (lambda p: FRAME.to_csv(p, index=False, sep='\t'), 'separated by a tab'),
  'bar.csv': (lambda p: FRAME.to_csv(p, index=False, sep='|'), 'separated by a bar'),
  'a.tsv': (lambda p: FRAME.to_csv(p, index=False, sep='\t'), 'quotes stand around fields'),
  'comma.tsv': (lambda p: FRAME.to_csv(p, index=False), 'separated by a comma'),
  'data.json': (
    lambda p: p.write_text(json.dumps({'version': '1.1', 'data': TRAIN, 'tags': ['a']})),
    "data.json: the rows are those of 'data'; not read: version, tags",
  ),
  'table.json': (lambda p: FRAME.to_json(p, orient='table', index=False), "those of 'data'"),
  'empty.csv': (
    lambda p: FRAME.assign(a='', b='').to_csv(p, index=False, header=['text', 'label', '', '']),
    'empty.csv: 2 columns at the end without a name: left out',
  ),
}


@pytest.mark.parametrize('name', NOTED)
def test_what_is_decided_about_a_file_is_said(tmp_path, name):
  write, said = NOTED[name]
  rows, notes = written_table(tmp_path, name, write)
  assert rows == TRAIN
  assert said in notes[0]


SAID = [
  {'text': 'He said "hi" to us', 'label': 'a'}, {'text': 'plain, with a comma', 'label': 'b'},
  {'text': '"Wow," she said', 'label': 'a'}, {'text': '"All of it."', 'label': 'b'},
]  # fmt: skip
TALK = pandas.DataFrame(SAID)
LINES = '\n'.join(f'{row["text"]}\t{row["label"]}' for row in SAID)
TSV = {  # what is in the file, whether quotes stand around fields, and the rows
  'pandas': (TALK.to_csv(sep='\t', index=False), True, SAID),
  'all fields': (TALK.to_csv(sep='\t', index=False, quoting=1), True, SAID),
  'excel': ('text\tlabel\r\n"x, y"\ta\r\n"""z"""\tb\r\n', True, [('x, y', 'a'), ('"z"', 'b')]),
  'R': ('"text"\t"label"\n"x y"\t1\n"z"\t2\n', True, [('x y', '1'), ('z', '2')]),
  'letters': (f'text\tlabel\n{LINES}\n', False, SAID),
  'a lone quote': ('text\tlabel\n"x\ta\n"y"\tb\n', False, [('"x', 'a'), ('"y"', 'b')]),
  'two lone quotes': ('text\tlabel\n"x\ta\ny"\tb\n', False, [('"x', 'a'), ('y"', 'b')]),
  'a tab': ('text\tlabel\n"x\ty"\ta\nz\tb\n', True, [('x\ty', 'a'), ('z', 'b')]),
}


@pytest.mark.parametrize('name', TSV)
def test_quotes_of_a_tsv_stand_around_fields_or_are_letters(tmp_path, name):
  content, around, rows = TSV[name]
  rows = [row if isinstance(row, dict) else {'text': row[0], 'label': row[1]} for row in rows]
  found, notes = written_table(tmp_path, 'a.tsv', lambda p: p.write_bytes(content.encode()))
  assert found == rows
  how = 'stand around fields and are left out' if around else 'are letters'
  assert notes == [f'a.tsv: quotes {how}']
  quoting = {'sep': '\t', 'quoting': 0 if around else 3, 'dtype': str, 'keep_default_na': False}
  assert found == pandas.read_csv(tmp_path / 'a.tsv', **quoting).to_dict('records')


@pytest.mark.parametrize(('content', 'texts'), [
  ('text\n"x\ny"\nz\n', ['x\ny', 'z']), ('text\n"x\ny" z\n', ['"x', 'y" z']),
])  # fmt: skip
def test_a_line_end_in_quotes_counts_where_there_is_one_column(tmp_path, content, texts):
  found, _ = written_table(tmp_path, 'a.tsv', lambda p: p.write_bytes(content.encode()))
  assert [row['text'] for row in found] == texts


def test_a_separator_inside_a_column_name_does_not_count(tmp_path):
  (tmp_path / 'a.csv').write_text('text;note,label\nx;y,a\n', 'utf-8')
  (record,) = table(tmp_path / 'a.csv', 'a.csv')
  assert record.fields == {'text;note': 'x;y', 'label': 'a'}


CLASS = datasets.ClassLabel(names=['blue', 'green'])
NESTED = {  # path of the label, its type, and a value for each index
  'c.d': ({'d': CLASS}, lambda i: {'d': i}),
  'c.0': (datasets.Sequence(CLASS), lambda i: [i]),
  'c.0.d': ([{'d': CLASS}], lambda i: [{'d': i}]),
}


@pytest.mark.parametrize('path', NESTED)
def test_a_nested_class_has_its_name(tmp_path, path):
  kind, value = NESTED[path]
  features = datasets.Features({'text': datasets.Value('string'), 'c': kind})
  rows = [{'text': f'row {i}', 'c': value(i % 2)} for i in range(4)]
  data = datasets.Dataset.from_list(rows, features=features)
  made = Stream.from_datasets(
    {'a': data}, test={'a': data.select([0, 1])}, label=path, overlap='keep'
  )
  assert [e.answer for e in made.tasks[0].train] == ['blue', 'green'] * 2


def arrow(folder, **columns):
  """The rows of a parquet file with these columns of Arrow."""
  pyarrow.parquet.write_table(pyarrow.table(columns), folder / 'a.parquet')
  return table(folder / 'a.parquet', 'a.parquet')


def test_columns_of_types_that_datasets_does_not_have(tmp_path):
  kind = pyarrow.map_(pyarrow.string(), pyarrow.string())
  ids = pyarrow.array([b'0' * 16], pyarrow.uuid())
  (record,) = arrow(tmp_path, text=['x'], m=pyarrow.array([[('a', 'b')]], kind), id=ids)
  assert value(record, 'text') == 'x'
  assert value(record, 'm.a') == 'b'
  with pytest.raises(UserError, match=r"^a\.parquet\[0\]: column 'm' is .*: 'm\.a'"):
    value(record, 'm')
  with pytest.raises(UserError, match=r"^a\.parquet\[0\]: column 'id' is .*UUID.*: give text"):
    value(record, 'id')


SINGLE = pyarrow.float32()
NARROW = {  # path of the label -> its type, and the values
  'c': (SINGLE, [0.1, 1e10]),
  'c.0': (pyarrow.list_(SINGLE), [[0.1], [1e10]]),
  'c.d': (pyarrow.struct([('d', SINGLE)]), [{'d': 0.1}, {'d': 1e10}]),
}


@pytest.mark.parametrize('path', NARROW)
def test_a_float_of_32_bits_has_its_own_digits(tmp_path, path):
  kind, values = NARROW[path]
  records = arrow(tmp_path, text=['x', 'y'], c=pyarrow.array(values, kind))
  assert [value(record, path) for record in records] == ['0.1', '10000000000.0']


@pytest.mark.parametrize('kind', ['float32', 'float16', 'Float32', 'float[pyarrow]'])
def test_a_float_of_32_bits_in_a_frame_or_a_data_set(kind):
  frame = pandas.DataFrame({'text': ['x', 'y'], 'label': pandas.Series([0.1, 0.7], dtype=kind)})
  assert Stream.from_rows({'x': frame}, test={'x': frame}, overlap='keep').labels == ('0.1', '0.7')
  data = datasets.Dataset.from_pandas(frame)
  made = Stream.from_datasets({'x': data}, test={'x': data}, overlap='keep')
  assert made.labels == ('0.1', '0.7')


WRITTEN_AS = {  # text of a value -> the value
  '1.10': decimal.Decimal('1.10'), '2024-01-02': datetime.date(2024, 1, 2),
  '2024-01-02 03:04:05': datetime.datetime(2024, 1, 2, 3, 4, 5), '03:04:05': datetime.time(3, 4, 5),
}  # fmt: skip


@pytest.mark.parametrize('text', WRITTEN_AS)
def test_decimals_and_dates_are_read_as_python_writes_them(tmp_path, text):
  rows = [{'text': 'x', 'label': WRITTEN_AS[text]}]
  assert Stream.from_rows({'x': rows}, test={'x': rows}, overlap='keep').labels == (text,)
  (record,) = arrow(tmp_path, text=['x'], label=[WRITTEN_AS[text]])
  assert value(record, 'label') == text


def test_a_date_that_is_missing_is_no_label():
  frame = pandas.DataFrame({'text': ['x'], 'label': pandas.to_datetime([None])})
  with pytest.raises(UserError, match=r'x/train\[0\]: field .label. is NaT'):
    Stream.from_rows({'x': frame})


EXCEL = {  # what a csv file holds -> what is said about it
  'sep=;\r\ntext;label\r\n"a; b";x\r\n': 'its fields are separated by a semicolon',
  '\ufeffsep=;\ntext;label\n"a; b";x\n': 'its fields are separated by a semicolon',
  '"sep=\t"\ntext\tlabel\na; b\tx\n': 'its fields are separated by a tab',
  'sep=^\ntext^label\na; b^x\n': "its fields are separated by '^'",
  'text, label\n"a; b", "x"\n': 'blanks before fields are left out, for quotes follow them',
  'label, text\nx, "a; b"\n': 'blanks before fields are left out, for quotes follow them',
  '"label"; "text"\n"x"; "a; b"\n': 'its fields are separated by a semicolon',
}


@pytest.mark.parametrize('content', EXCEL)
def test_a_separator_is_named_and_blanks_stand_before_quotes(tmp_path, content):
  rows, notes = written_table(tmp_path, 'a.csv', lambda p: p.write_bytes(content.encode()))
  assert rows == [{'text': 'a; b', 'label': 'x'}]
  assert notes[0] == f'a.csv: {EXCEL[content]}'


def test_blanks_before_quotes_inside_of_a_field_are_its_own(tmp_path):
  content = 'text,label\n"he said, ""no"" to it", x\n" ""a"" b",y\n'
  rows, notes = written_table(tmp_path, 'a.csv', lambda p: p.write_text(content))
  assert [row['text'] for row in rows] == ['he said, "no" to it', ' "a" b']
  assert [row['label'].strip() for row in rows] == ['x', 'y']
  content = 'text,label\n"he said, ""no"" to it",x\n'
  rows, notes = written_table(tmp_path, 'a.csv', lambda p: p.write_text(content))
  assert (rows, notes) == ([{'text': 'he said, "no" to it', 'label': 'x'}], [])
  content = 'text,label\n "a" said b,x\n'
  rows, notes = written_table(tmp_path, 'a.csv', lambda p: p.write_text(content))
  assert (rows, notes) == ([{'text': ' "a" said b', 'label': 'x'}], [])


def test_column_names_in_the_middle_are_no_row(tmp_path):
  (tmp_path / 'a.csv').write_text('text,label\na,x\n\ufefftext,label\nb,y\n', 'utf-8')
  with pytest.raises(UserError, match=r'^a\.csv:3: the column names stand here again: take'):
    table(tmp_path / 'a.csv', 'a.csv')


@pytest.mark.parametrize('kind', ['csv', 'jsonl', 'txt', 'parquet'])
def test_a_pointer_of_git_lfs_is_no_data(tmp_path, kind):
  pointer = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
  (tmp_path / f'a.{kind}').write_text(pointer)
  with pytest.raises(UserError, match=rf'^a\.{kind}: a pointer of Git LFS, .* `git lfs pull`'):
    table(tmp_path / f'a.{kind}', f'a.{kind}')


HOSTILE = {
  'cut.jsonl.gz': (gzip.compress(b'{"text": "x"}' * 999)[:-20], r'no whole \.gz file'),
  'plain.jsonl.gz': (b'{"text": "x"}', r'no whole \.gz file'),
  'cut.jsonl.bz2': (bz2.compress(b'{"text": "x"}' * 999)[:-20], r'no whole \.bz2 file'),
  'cut.jsonl.xz': (lzma.compress(b'{"text": "x"}' * 999)[:-20], r'no whole \.xz file'),
  'plain.jsonl.zst': (b'{"text": "x"}', r'no whole \.zst file'),
  'gzip.jsonl': (gzip.compress(b'{}'), r'the file is gzip: let its name end in \.gz'),
  'book.csv': (b'PK\x03\x04\x14\0\x06\0\x08\0', 'zip archive or an Excel workbook'),
  'parquet.csv': (b'PAR1\x15\0\x15', r'parquet: let its name end in \.parquet'),
  'text.parquet': (b'text,label\na,b\n', 'no whole parquet file'),
  'empty.parquet': (b'', 'no whole parquet file'),
  'a.parquet.gz': (b'', 'parquet is compressed inside: unpack'),
  'deep.json': (b'[' * 10**6, 'nested too deeply'),
  'uneven.json': (b'{"text": {"0": "x"}, "label": {"1": "a"}}', "an object with 'text', 'label'"),
  'shorter.json': (b'{"text": ["x", "y"], "label": ["a"]}', "an object with 'text', 'label'"),
  'two.json': (b'{"a": [{"text": "x"}], "b": [{"text": "x"}, {"text": "y"}]}', "with 'a', 'b'"),
  'unnamed.csv': (b'text,label,\na,b,c\n', r"unnamed\.csv:2: 'c' stands below a column without"),
  'numbers.json': (b'[1, 2]', r'numbers\.json\[0\]: not a JSON object'),
  'text.json': (b'"x"', 'not a list of rows'),
  'none.json': (b'[]', 'the file has no rows'),
  'list.jsonl': (b'[{"text": "x"}]', r'a JSON list, .* let its name end in \.json'),
  'twice.csv': (b'text,text,label\na,b,c\n', 'not distinct'),
  'twice.json': (b'[{"text": "x", "text": "y"}]', "key 'text' stands twice"),
  'a.xlsx': (b'PK', 'unknown kind of file'),
  'a.gz': (b'', 'unknown kind of file'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_file_is_one_line_that_names_it(tmp_path, name):
  data, message = HOSTILE[name]
  (tmp_path / name).write_bytes(data)
  with pytest.raises(UserError, match=message) as error:
    table(tmp_path / name, name)
  assert str(error.value).startswith(name)
  assert len(str(error.value).splitlines()) == 1


def test_parquet_with_two_columns_of_a_name(tmp_path):
  twice = pyarrow.table([['a'], ['b']], names=['text', 'text'])
  pyarrow.parquet.write_table(twice, tmp_path / 'a.parquet')
  with pytest.raises(UserError, match=r"^a\.parquet: two columns are called 'text'"):
    table(tmp_path / 'a.parquet', 'a.parquet')


def test_parquet_that_is_cut_off(tmp_path):
  FRAME.to_parquet(tmp_path / 'a.parquet')
  data = (tmp_path / 'a.parquet').read_bytes()
  (tmp_path / 'a.parquet').write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match=r'^a\.parquet: no whole parquet file'):
    table(tmp_path / 'a.parquet', 'a.parquet')


def test_too_little_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
  def read(path):
    raise MemoryError('malloc of size 64 failed')

  FRAME.to_parquet(tmp_path / 'a.parquet')
  monkeypatch.setattr(pyarrow.parquet, 'ParquetFile', read)
  with pytest.raises(MemoryError, match='malloc'):
    table(tmp_path / 'a.parquet', 'a.parquet')


def own(folder, train, test=None, splits=None, settings=None, **columns):
  """The stream of one task whose rows stand in jsonl files."""
  files = {'train': train, **({} if test is None else {'test': test})}
  for name, rows in files.items():
    (folder / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, rows)), 'utf-8')
  task = {'name': 'x', **{name: f'{name}.jsonl' for name in files}, **(splits or {}), **columns}
  (folder / 'manifest.json').write_text(json.dumps({'tasks': [task]}), 'utf-8')
  return load(StreamConfig(name='files', path=str(folder), **(settings or {})))


def labelled(labels):
  return [{'text': f'text {i}', 'label': label} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
  ('labels', 'classes'),
  [([True, False], ('true', 'false')), ([1, 0], ('1', '0')), ([0.5, 1.0], ('0.5', '1.0'))],
)
def test_booleans_and_numbers_are_classes_as_written(tmp_path, labels, classes):
  train, test = labelled(labels), [{'text': 'other', 'label': labels[0]}]
  assert own(tmp_path, train, test, label='label').labels == classes
  made = Stream.from_rows({'x': train}, test={'x': test})
  assert made.labels == classes
  frame = pandas.DataFrame(train)
  assert Stream.from_rows({'x': frame}, test={'x': test}).labels == classes
  frame.to_parquet(tmp_path / 'train.parquet')
  splits = {'train': 'train.parquet'}
  assert own(tmp_path, train, test, splits, label='label').labels == classes


def squad(answers, number=0):
  return {'question': f'{number}?', 'answers': {'text': answers, 'answer_start': [0]}, 'a.b': 'c'}


@pytest.mark.parametrize('column', ['answers.text', 'answers.text.0'])
def test_a_nested_column_is_named_by_its_path(tmp_path, column):
  rows = [squad(['blue'], 0), squad(['green', 'olive'], 1)]
  made = own(tmp_path, rows, [squad(['blue'], 2)], text='question', answer=column)
  assert [e.answer for e in made.tasks[0].train] == ['blue', 'green']
  several = [note for note in made.notes if 'several answers' in note]
  assert len(several) == (column == 'answers.text')
  sets = datasets.Dataset.from_list(rows)
  made = Stream.from_datasets({'x': sets}, test={'x': sets}, text='question', answer=column,
                              overlap='keep')  # fmt: skip
  assert [e.answer for e in made.tasks[0].train] == ['blue', 'green']
  several = [note for note in made.notes if 'several answers' in note]
  assert len(several) == 2 * (column == 'answers.text')  # train and test


@pytest.mark.parametrize('beside', ['system', 'tools'])
def test_what_stands_beside_messages_is_said_not_to_be_read(tmp_path, beside):
  talk = [{'from': 'human', 'value': 'a lake'}, {'from': 'gpt', 'value': 'blue'}]
  rows = [{'conversations': talk, beside: x} for x in (None, ['so'], '', 'so')]
  made = Stream.from_rows({'x': rows[:2]}, test={'x': rows[2:3]}, overlap='keep')
  said = f'x, train: {beside!r} beside the messages: not read; put it into the messages'
  assert made.notes == (said,)
  columns = {'text': 'conversations', 'answer': 'conversations'}
  assert own(tmp_path, rows[:2], rows[2:3], None, {'overlap': 'keep'}, **columns).notes[:1] == (
    said,
  )


@pytest.mark.parametrize('text', ['y', '{x} {y}', 'is it {y}?', '{y}{y}'])
def test_an_input_holds_not_its_label(tmp_path, text):
  rows = [{'x': f'x{i}', 'y': 'ab'[i % 2]} for i in range(4)]
  with pytest.raises(UserError, match=r"text .* reads 'y', which is the label"):
    own(tmp_path, rows, rows, text=text, label='y')
  data = datasets.Dataset.from_list(rows)
  with pytest.raises(UserError, match=r"from_datasets: text .* reads 'y', which is the label"):
    Stream.from_datasets({'t': data}, text=text, label='y')


@pytest.mark.parametrize('text', ['{{x}}', 'always the same {{}}'])
def test_an_input_without_a_column_is_refused(tmp_path, text):
  rows = [{'x': f'x{i}', 'y': 'ab'[i % 2]} for i in range(4)]
  with pytest.raises(UserError, match=r'names no column: write one as \{column\}'):
    own(tmp_path, rows, rows, text=text, label='y')


def test_templates_and_names_with_dots(tmp_path):
  rows = [squad(['blue'], 0), squad(['green'], 1)]
  made = own(tmp_path, rows, [squad(['blue'], 2)], text='{question} {a.b} {answers.text.0}',
             answer='a.b')  # fmt: skip
  assert made.tasks[0].train[0].text == '0? c blue'


@pytest.mark.parametrize(
  ('rows', 'columns', 'message'),
  [
    ([squad([])], {'answer': 'answers.text'}, r"train\.jsonl:1: column 'answers\.text' is \[\]"),
    ([squad(['x'])], {'answer': 'answers'}, r"or name what is in it: 'answers\.text'"),
    ([squad(['x'])], {'answer': 'answers.txt'}, r"'answers' is .*, which has no 'txt'"),
    ([squad(['x'])], {'answer': 'answers.text.1'}, "which has no '1'"),
    ([squad(['x'])], {'label': 'answers.text'}, r"name one of its entries: 'answers\.text\.0'"),
    ([squad(['x']) | {'n': None}], {'answer': 'n'}, r"train\.jsonl:1: column 'n' is null"),
    ([squad(['x']) | {'n': float('nan')}], {'answer': 'n'}, r'train\.jsonl:1: .* is NaN'),
  ],
)
def test_what_a_path_does_not_lead_to(tmp_path, rows, columns, message):
  with pytest.raises(UserError, match=message):
    own(tmp_path, rows, rows, text='question', **columns)


def test_nothing_is_asked_of_columns_that_nothing_reads(tmp_path):
  extra = {'score': float('nan'), 'none': None, 'deep': [{'x': [None]}], 'answer': None}
  made = own(tmp_path, [row | extra for row in TRAIN], TEST, label='label')
  assert len(made.tasks[0].train) == 4
  frame = pandas.DataFrame(TRAIN).assign(score=float('nan'))
  assert len(Stream.from_rows({'x': frame}, test={'x': TEST}).tasks[0].train) == 4
  with pytest.raises(UserError, match=r'x/train\[0\]: field .label. is nan'):
    Stream.from_rows({'x': frame.assign(label=float('nan'))}, test={'x': TEST})


def test_a_frame_with_two_columns_of_a_name():
  frame = pandas.DataFrame([['a', 'b', 'c']], columns=['text', 'label', 'label'])
  with pytest.raises(UserError, match="two columns are called 'label'"):
    Stream.from_rows({'x': frame})


def test_a_test_split_is_carved_of_each_class(tmp_path):
  train = labelled(['a'] * 50 + ['b'] * 10 + ['c'] * 2)
  with pytest.raises(UserError, match=r"tasks\[0\] has no 'test': .*stream\.test_fraction"):
    own(tmp_path, train, label='label')
  made = own(tmp_path, train, label='label', settings={'test_fraction': 0.2})
  (task,) = made.tasks
  counts = [sum(e.label == c for e in task.test) for c in range(3)]
  assert counts == [10, 2, 1]
  assert {e.text for e in task.test} | {e.text for e in task.train} == {r['text'] for r in train}
  assert 'no test split in x: 13 rows of train for test' in made.notes[0]
  again = own(tmp_path, train, label='label', settings={'test_fraction': 0.2})
  assert again.digest == made.digest
  settings = {'test_fraction': 0.2, 'test_seed': 1}
  assert own(tmp_path, train, label='label', settings=settings).digest != made.digest
  given = own(tmp_path, train, train[:1], label='label', settings=settings | {'overlap': 'keep'})
  assert len(given.tasks[0].test) == 1
  assert given.notes == ()


def test_rows_in_python_say_what_was_carved():
  made = Stream.from_rows({'x': labelled('aabb')})
  assert 'no test split in x: 2 rows of train for test' in made.notes[0]


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A folder with a saved set without a split's name, one with it, and a saved dict of sets."""
  folder = tmp_path_factory.mktemp('saved')
  rows = labelled('ab' * 5)
  bare = datasets.Dataset.from_list(rows)
  bare.save_to_disk(str(folder / 'bare'))
  datasets.Dataset.from_list(rows, split='train').save_to_disk(str(folder / 'named'))
  other = datasets.Dataset.from_list([{'text': 'other', 'label': 'a'}])
  parts = datasets.DatasetDict({'train': bare, 'validation': other, 'test': other})
  parts.save_to_disk(str(folder / 'dict'))
  other.save_to_disk(str(folder / 'other'))
  bare.to_parquet(str(folder / 'files/train.parquet'))
  return folder


@pytest.mark.parametrize('name', ['bare', 'named', 'dict', 'files'])
def test_a_split_may_be_a_slice(saved, name):
  splits = {
    'train': {'hf': name, 'split': 'train[:80%]'}, 'dev': {'hf': name, 'split': 'train[80%:]'},
    'test': {'hf': 'other'},
  }  # fmt: skip
  made = own(saved, [], [], splits, label='label')
  assert [e.text for e in made.tasks[0].train] == [f'text {i}' for i in range(8)]
  assert [e.text for e in made.tasks[0].dev] == ['text 8', 'text 9']
  splits['train'] = {'hf': name, 'split': 'train[4:6]+train[:2]'}
  found = own(saved, [], [], splits, label='label').tasks[0].train
  assert [e.text for e in found] == [f'text {i}' for i in (4, 5, 0, 1)]


@pytest.mark.parametrize('name', ['bare', 'named', 'dict', 'files'])
@pytest.mark.parametrize('split', ['nonsense', 'train[', 'train[20:]', 'train[:x]', 'train[5:5]'])
def test_a_split_that_is_not_there_is_refused(saved, name, split):
  splits = {'train': {'hf': name, 'split': split}, 'test': {'hf': 'other'}}
  with pytest.raises(UserError) as error:
    own(saved, [], [], splits, label='label')
  assert str(error.value).startswith(f'{name}[{split}]')


@pytest.mark.parametrize('name', ['bare', 'dict'])
def test_a_saved_set_has_no_variants(saved, name):
  splits = {'train': {'hf': name, 'config': 'plain'}, 'test': {'hf': 'other'}}
  with pytest.raises(UserError, match="'config' is 'plain', but a data set of save_to_disk has no"):
    own(saved, [], [], splits, label='label')


def test_a_set_that_has_another_split_is_refused(saved):
  splits = {'train': {'hf': 'bare'}, 'test': {'hf': 'named', 'split': 'test'}}
  with pytest.raises(UserError, match=r'named\[test\]: .*Unknown split "test"'):
    own(saved, [], [], splits, label='label')


def test_a_packed_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(files, 'LARGEST', 1000)
  (tmp_path / 'a.jsonl.gz').write_bytes(gzip.compress(b' ' * 2000))
  with pytest.raises(UserError, match=r'^a\.jsonl\.gz: more than'):
    files.read_bytes(tmp_path / 'a.jsonl.gz', 'a.jsonl.gz')
