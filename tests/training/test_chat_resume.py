"""Runs on conversations of files: compared, killed and resumed, reported, merged."""

import json
import pathlib

import pytest
from support import launchers, runs

import jcl
from jcl import workdir as workdirs
from jcl.training import experiment
from jcl.training.loop import Loop

pytestmark = pytest.mark.slow  # two compared runs and one of an adapter, which all tests share
TASKS = {
  'colour': {'grass': 'green', 'snow': 'white', 'coal': 'black'},
  'sound': {'cow': 'moo', 'dog': 'woof', 'duck': 'quack'},
}
METHODS = ('seq', 'replay')
SETTINGS = (
  'scenario=iil', 'stream.overlap=keep', 'stream.max_length=48', 'backbone.path=',
  'backbone.width=32', 'backbone.layers=1', 'backbone.heads=2', 'backbone.feed_forward=48',
  'train.learning_rate=0.01', 'train.epochs=20', 'train.batch_size=3', 'evaluate.batch_size=8',
)  # fmt: skip


def ask(task, thing):
  earlier = [{'role': 'user', 'content': 'hello'}, {'role': 'assistant', 'content': 'yes'}]
  return [*earlier, {'role': 'user', 'content': f'which {task} has {thing}'}]


def called(program, *arguments):
  done = launchers.call(program, *map(str, arguments))
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.fixture(scope='module')
def compared(tmp_path_factory) -> tuple[pathlib.Path, str]:
  """A folder with data and the runs of `jcl compare`, and what the command printed."""
  folder = tmp_path_factory.mktemp('talks')
  for task, answers in TASKS.items():
    talks = [
      [*ask(task, thing), {'role': 'assistant', 'content': answer}]
      for thing, answer in answers.items()
    ]
    rows = ''.join(json.dumps({'messages': talk}) + '\n' for talk in talks)
    (folder / f'{task}.jsonl').write_text(rows)
  tasks = [{'name': t, 'train': f'{t}.jsonl', 'test': f'{t}.jsonl'} for t in TASKS]
  manifest = {'text': 'messages', 'answer': 'messages', 'tasks': tasks}
  (folder / 'manifest.json').write_text(json.dumps(manifest))
  said = called(
    'compare', '--config=own_tasks', f'--config.stream.path={folder}/manifest.json',
    f'--methods={",".join(METHODS)}', f'--workdir={folder}/runs',
    *(f'--config.{setting}' for setting in SETTINGS),
  )  # fmt: skip
  return folder, said


def results_of(folder, method):
  return json.loads((folder / 'runs' / f'{method}-0' / 'results.json').read_text())


def test_conversations_are_compared_and_reported(compared, tmp_path):
  folder, said = compared
  printed = called('report', f'--runs={folder}/runs', f'--out={tmp_path}')
  assert 'warning' not in printed
  for method in METHODS:
    found = results_of(folder, method)
    assert (found['tasks'], found['scenario']) == (list(TASKS), 'iil')
    assert found['matrix'][2][1] == 1
    for text in (said, printed):
      assert any(line.split()[:1] == [method] for line in text.splitlines()), text
  assert results_of(folder, 'replay')['matrix'][2][0] == 1  # replayed conversations are kept
  for file in ('comparison.png', 'report.html'):
    assert (folder / 'runs' / file).stat().st_size
    assert (tmp_path / file).stat().st_size
  assert 'which colour has snow' in (folder / 'runs' / 'report.html').read_text('utf-8')


@pytest.mark.parametrize('method', METHODS)
def test_a_run_on_conversations_that_is_killed_ends_in_the_same_bits(method, compared, tmp_path):
  folder, _ = compared
  made = workdirs.load_workdir(str(folder / 'runs' / f'{method}-0'))
  made.checkpoint.every_steps = 1
  killed, resumed = (Loop(experiment.assemble(made), tmp_path, quiet=True) for _ in range(2))
  runs.die_after_step(killed, task=1, step=3)
  found, wanted = resumed.run(), results_of(folder, method)
  assert found['resumes']
  assert found['params_sha256'] == wanted['params_sha256']
  assert found['matrix'] == wanted['matrix']


def test_adapters_of_conversations_are_merged(compared, tmp_path):
  folder, _ = compared
  base = tmp_path / 'base'
  called('export', f'--workdir={folder}/runs/seq-0', f'--out={base}')
  stream = jcl.load_stream('files', str(folder / 'manifest.json'), overlap='keep', max_length=48)
  done = jcl.learn(
    stream, 'lora', model=base, scenario='iil', workdir=tmp_path / 'lora', quiet=True, r=4,
    lora_dropout=0.0, train={'epochs': 20, 'batch_size': 3, 'adapter_learning_rate': 1e-2},
  )  # fmt: skip
  for task in TASKS:
    called('export', f'--workdir={tmp_path}/lora', f'--out={tmp_path}/{task}', '--format=peft',
           f'--task={task}')  # fmt: skip
  merge = lambda out, *names, into='weights': called(
    'merge', f'--adapters={",".join(f"{tmp_path}/{name}" for name in names)}',
    f'--out={tmp_path}/{out}', f'--into={into}',
  )  # fmt: skip
  for task, answers in TASKS.items():
    merge(f'{task}-whole', task)
    questions = [ask(task, thing) for thing in answers]
    merged = jcl.load_model(tmp_path / f'{task}-whole')
    assert merged.answer(questions) == done.model.answer(questions, task=task)
    assert merged.answer(questions) == list(answers.values())
    template = (tmp_path / f'{task}-whole' / 'chat_template.jinja').read_text()
    assert template == (base / 'chat_template.jinja').read_text()
  merge('both', *TASKS)
  merge('adapter', *TASKS, into='adapter')
  merge('again', 'adapter')
  one, other = (jcl.load_model(tmp_path / name) for name in ('both', 'again'))
  questions = [ask(task, thing) for task, answers in TASKS.items() for thing in answers]
  assert one.answer(questions) == other.answer(questions)
