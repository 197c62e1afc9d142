"""Predictions of a run and of its export: printed, as lines of JSON and as a table."""

import csv
import dataclasses
import gzip
import json
import shutil

import pytest
from absl import flags

import jcl
from jcl.commands import command_line, predict
from jcl.errors import UserError

TEXTS = ['open datalink', 'close nospace']


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  """-> folder with a run (`run`), its export (`exported`) and the result."""
  folder = tmp_path_factory.mktemp('predict')
  rows = [
    {'text': f'{word} {label.replace("_", "")}', 'label': label}
    for word in ('open', 'close', 'start', 'stop') for label in ('data_link', 'no_space')
  ]  # fmt: skip
  result = jcl.learn(
    jcl.Stream.from_rows({'disk': rows}, test={'disk': rows}, overlap='keep'), 'seq',
    model=jcl.BackboneConfig(width=32, layers=1, heads=2, feed_forward=48),
    train=jcl.TrainConfig(learning_rate=1e-2, epochs=15, batch_size=8),
    workdir=folder / 'run', quiet=True,
  )  # fmt: skip
  result.model.save(folder / 'exported')
  return folder, result


def test_a_model_of_a_run_that_is_not_finished_says_so(places, capsys):
  folder, result = places
  called(f'--model={folder}/exported', '--text=open datalink')
  assert capsys.readouterr().err == ''
  answers = dataclasses.replace(result.model.answers, tasks=('disk', 'more'))
  half = folder / 'half'
  shutil.copytree(folder / 'exported', half)
  file = half / 'jcl.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {
    'tasks': answers.tasks, 'classes_of': [*answers.classes_of, []]
  }))  # fmt: skip
  called(f'--model={half}', '--text=open datalink')
  assert 'its model has learned 1 of 2 tasks' in capsys.readouterr().err


def called(*arguments: str) -> None:
  given = flags.FlagValues()
  predict.define_flags(given, arguments)
  command_line.parse(given, arguments)
  predict.run(given)


def test_a_text_is_printed_with_its_answer_and_its_likeliest_labels(places, capsys):
  folder, result = places
  for name in ('run', 'exported'):
    called(f'--model={folder / name}', f'--text={TEXTS[0]}')
    line = capsys.readouterr().out
    p = result.model.probabilities(TEXTS[:1])[0]
    assert result.model.answer(TEXTS[:1]) == ['data_link']
    assert line == (
      f'{TEXTS[0]}  →  data_link  (data_link {p["data_link"]:.3f}, no_space {p["no_space"]:.3f})\n'
    )


def test_a_special_token_in_a_text_is_refused_read_or_left_out(places, tmp_path, capsys):
  folder, _ = places
  (tmp_path / 'a.txt').write_text(f'{TEXTS[0]}\nopen <eos> datalink\n')
  arguments = [f'--model={folder / "run"}', f'--file={tmp_path / "a.txt"}']
  with pytest.raises(UserError, match='the text contains <eos>, a special token'):
    called(*arguments)
  called(*arguments, '--special_tokens_in_text=text')
  assert len(capsys.readouterr().out.splitlines()) == 2
  called(*arguments, '--special_tokens_in_text=drop')
  said = capsys.readouterr().out.splitlines()
  assert said[0] == '1 of 2 texts left out for a special token'
  assert len(said) == 2


def test_a_run_names_its_own_family(places):
  folder, _ = places
  with pytest.raises(UserError, match=r"^load_model: family is 'x:Y', but .* is a run"):
    called(f'--model={folder / "run"}', '--text=x', '--family=x:Y')


FILES = {
  'a.txt': ''.join(f'{text}\n\n' for text in TEXTS),
  'a.csv': 'id,text\n' + ''.join(f'{i},{text}\n' for i, text in enumerate(TEXTS)),
  'a.jsonl': ''.join(json.dumps({'text': text}) + '\n' for text in TEXTS),
}


@pytest.mark.parametrize('name', FILES)
def test_files_of_every_kind_give_the_same(name, places, tmp_path):
  folder, result = places
  (tmp_path / name).write_text(FILES[name])
  out = tmp_path / 'out.jsonl'
  called(f'--model={folder / "exported"}', f'--file={tmp_path / name}', f'--out={out}')
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert [row['text'] for row in rows] == TEXTS
  assert [row['answer'] for row in rows] == result.model.answer(TEXTS)
  for row, expected in zip(rows, result.model.probabilities(TEXTS), strict=True):
    assert row['probabilities'] == pytest.approx(expected, rel=1e-5)
    assert sum(row['probabilities'].values()) == pytest.approx(1)


def test_a_packed_file_is_read_by_its_lines_and_what_is_decided_is_said(places, tmp_path, capsys):
  folder, _ = places
  with gzip.open(tmp_path / 'a.txt.gz', 'wt') as file:
    file.write(FILES['a.txt'])
  (tmp_path / 'a.csv').write_text('id;text\n' + ''.join(f'{i};{x}\n' for i, x in enumerate(TEXTS)))
  for name in ('a.txt.gz', 'a.csv'):
    called(f'--model={folder / "exported"}', f'--file={tmp_path / name}')
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == len(TEXTS)
  assert 'a.csv: its fields are separated by a semicolon' in said.err


def test_a_table_has_a_column_for_each_label(places, tmp_path):
  folder, _ = places
  (tmp_path / 'in.csv').write_text('verb,noun\nopen,datalink\nclose,nospace\n')
  out = tmp_path / 'out.csv'
  called(
    f'--model={folder / "run"}', f'--file={tmp_path / "in.csv"}', '--column={verb} {noun}',
    f'--out={out}',
  )  # fmt: skip
  with out.open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == ['verb', 'noun', 'text', 'answer', 'p(data_link)', 'p(no_space)']
  assert (rows[0]['verb'], rows[1]['noun']) == ('open', 'nospace')
  assert [(row['text'], row['answer']) for row in rows] == [
    (TEXTS[0], 'data_link'), (TEXTS[1], 'no_space')
  ]  # fmt: skip
  assert float(rows[1]['p(no_space)']) > 0.5


@pytest.mark.parametrize('ending', ['csv', 'jsonl'])
def test_other_columns_are_kept_and_a_clash_of_names_is_said(ending, places, tmp_path, capsys):
  folder, result = places
  rows = [
    {'id': 7, 'text': TEXTS[0], 'answer': 'no_space', 'tags': ['a', {'b': 1.5}]},
    {'id': 8, 'text': 'open <eos>', 'answer': 'left out'},
    {'id': 9, 'text': TEXTS[1], 'answer': 'no_space', 'input_answer': None},
  ]  # fmt: skip
  (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  out = tmp_path / f'out.{ending}'
  called(
    f'--model={folder / "exported"}', f'--file={tmp_path / "in.jsonl"}', f'--out={out}',
    '--special_tokens_in_text=drop',
  )  # fmt: skip
  said = capsys.readouterr().err
  assert "in.jsonl: its column 'answer' is written as 'input_input_answer'" in said
  assert said.count('note') == 1, 'the column that is answered is no clash'
  if ending == 'jsonl':
    one, two = (json.loads(line) for line in out.read_text().splitlines())
    assert list(one) == ['id', 'input_input_answer', 'tags', 'text', 'answer', 'probabilities']
    assert (one['id'], one['tags'], two['input_answer']) == (7, ['a', {'b': 1.5}], None)
    assert (two['text'], two['input_input_answer']) == (TEXTS[1], 'no_space')
  else:
    with out.open(newline='') as file:
      one, two = csv.DictReader(file)
    assert list(one)[:5] == ['id', 'input_input_answer', 'tags', 'input_answer', 'text']
    assert (one['id'], one['tags'], two['tags']) == ('7', '["a", {"b": 1.5}]', '')
    assert (two['id'], two['text'], two['input_answer']) == ('9', TEXTS[1], '')
  assert [one['answer'], two['answer']] == result.model.answer(TEXTS)


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    (['--text=x'], '--model is missing'),
    (['--model=run'], 'give --text=.* or --file='),
    (['--model=run', '--text=x', '--file=a.csv'], 'one of the two'),
    (['--model=run', '--text=x', '--out=a.txt'], r'a\.txt: give a file whose name ends'),
    (['--model=run', '--text=x', '--out=no/a.csv'], '--out: there is no folder no'),
    (['--model=run', '--file=a.csv', '--out=./a.csv'], r'a\.csv would overwrite'),
    (['--model=run', '--file=a.csv', '--column=mail'], r"a\.csv:2: no column 'mail': the row has"),
    (['--model=run', '--file=b.csv'], r'b\.csv: cannot be read'),
    (['--model=run', '--file=a.doc'], r'a\.doc: unknown kind of file'),
    (['--model=nowhere/at/all', '--text=x'], 'nowhere/at/all'),
    (['--model=run', '--text=x', '--task=net'], "no task is called 'net'; there are disk"),
  ],
)  # fmt: skip
def test_bad_input_is_refused(arguments, says, places, tmp_path, monkeypatch):
  (tmp_path / 'a.csv').write_text(FILES['a.csv'])
  monkeypatch.chdir(tmp_path)
  folder, _ = places
  with pytest.raises(UserError, match=says):
    called(*(a.replace('=run', f'={folder / "run"}') for a in arguments))
  assert [path.name for path in tmp_path.iterdir()] == ['a.csv']
