"""Runs on conversations: trained, resumed on another day, evaluated, asked, exported."""

import dataclasses
import json
import re

import pytest
from support import runs

import jcl
from jcl.commands import predict
from jcl.errors import UserError
from jcl.step import rates
from jcl.streams import Stream
from jcl.streams.chat_templates import NAMED, today
from jcl.training import experiment

DATED = "{{ strftime_now('%d %b %Y') + ' ' }}" + NAMED['plain']
COLOURS = {'grass': 'green', 'snow': 'white', 'coal': 'black'}


def talk(thing, more=''):
  earlier = [{'role': 'user', 'content': 'what is red'}, {'role': 'assistant', 'content': 'blood'}]
  ask = {'role': 'user', 'content': f'which colour has {thing}{more}'}
  return [*earlier, ask, {'role': 'assistant', 'content': COLOURS[thing]}]


def made_stream(**settings):
  rows = [{'messages': talk(thing)} for thing in COLOURS]
  test = [{'messages': talk(thing)} for thing in COLOURS]
  stream = Stream.from_rows({'colour': rows}, test={'colour': test}, overlap='keep')
  changed = dataclasses.replace(stream.settings, max_length=64, **settings)
  return dataclasses.replace(stream, settings=changed)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A workdir of a run that a template with a date wrote, and its result."""
  folder = tmp_path_factory.mktemp('chat')
  (folder / 'dated.jinja').write_text(DATED)
  stream = made_stream(chat_template=str(folder / 'dated.jinja'), chat_date='2024-02-29')
  shape = jcl.BackboneConfig(width=64, layers=2, heads=4, feed_forward=96)
  train = jcl.TrainConfig(learning_rate=1e-2, epochs=40, batch_size=3)
  return folder, jcl.learn(
    stream, 'seq', model=shape, scenario='iil', train=train, workdir=folder / 'run', quiet=True
  )


def test_a_conversation_is_learned_and_asked(trained):
  folder, result = trained
  assert result.matrix[-1, 0] == 1
  questions = [talk(thing)[:-1] for thing in COLOURS]
  for model in (result.model, jcl.load_model(folder / 'run')):
    assert model.answer(questions) == list(COLOURS.values())
    assert model.answer([talk('grass')]) == ['green']  # an answer at the end is not shown
  text = result.model._tools.text
  row = text.rows(result.model._example(talk('snow')[:-1], 'x', 0))[0]
  words = text.tokenizer.decode(row.tokens.tolist(), skip_special_tokens=False)
  assert '29 Feb 2024' in words


def test_an_export_answers_conversations(trained, tmp_path):
  _, result = trained
  result.model.save(tmp_path / 'out')
  again = jcl.load_model(tmp_path / 'out')
  assert again.answer([talk('snow')[:-1]]) == ['white']
  assert (tmp_path / 'out' / 'chat_template.jinja').read_text() == DATED


@pytest.mark.parametrize('kind', ['.jsonl', '.csv'])
def test_predict_answers_conversations_of_a_file(trained, tmp_path, kind, capsys):
  folder, _ = trained
  file, talks = tmp_path / f'talks{kind}', [talk('coal')[:-1], talk('grass')]
  if kind == '.csv':
    cells = [json.dumps(one).replace('"', '""') for one in talks]
    file.write_text('messages\n' + ''.join(f'"{cell}"\n' for cell in cells))
  else:
    file.write_text(''.join(json.dumps({'messages': one}) + '\n' for one in talks))
  given = predict.flags.FlagValues()
  predict.define_flags(given, ())
  given(['jcl', f'--model={folder / "run"}', f'--file={file}', '--column=messages'])
  predict.run(given)
  assert re.findall('→  (.*)', capsys.readouterr().out) == ['black', 'green']


def test_what_is_no_question_is_refused(trained):
  _, result = trained
  for texts, message in (
    ([[]], r'^texts\[0\] is an empty list'),
    ([[{'role': 'assistant', 'content': 'x'}]], r'^texts\[0\]: nothing stands before the answer'),
    ([['a']], r'^texts\[0\]\[0\] is a str'),
    ([3], r'^texts\[0\] is a int; give text'),
    ('a', '^texts is one text; give a list'),
  ):
    with pytest.raises(UserError, match=message):
      result.model.answer(texts)
  for prompts, given, message in (
    ('a', {}, '^prompts is one text'), (['a'], {'top_k': 0}, '^generate: top_k is 0'),
    (['\ud800'], {}, r'^prompts\[0\] holds half'),
  ):  # fmt: skip
    with pytest.raises(UserError, match=message):
      result.model.generate(prompts, **given)


def test_a_run_goes_on_with_the_date_that_it_began_with(trained, monkeypatch):
  folder, _ = trained
  stored = json.loads((folder / 'run' / 'config.json').read_text())
  assert stored['stream']['chat_date'] == '2024-02-29'
  open_config = runs.config('seq')
  assert rates.with_stored(folder / 'run', open_config).stream.chat_date == '2024-02-29'
  file = str(folder / 'dated.jinja')
  stream = made_stream(chat_template=file)
  config = dataclasses.replace(runs.config('seq'), scenario='iil', stream=stream.settings)
  parts = experiment.assemble(config, stream=stream)
  assert parts.config.stream.chat_date == today()
  assert f'today is {today()}' in parts.stream.notes[-1]


def test_a_date_that_no_template_writes_is_refused():
  config = runs.config('seq', stream={'chat_date': '2024-02-29'})
  with pytest.raises(UserError, match=r'^stream\.chat_date is .*no chat template writes a date'):
    experiment.assemble(config)
  config = runs.config('seq', stream={'chat_date': 'tomorrow'})
  with pytest.raises(UserError, match=r"^stream\.chat_date is 'tomorrow': give a date, such as"):
    experiment.assemble(config)
