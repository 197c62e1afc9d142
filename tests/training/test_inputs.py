"""A run that goes on must read what it began with: data, tokenizer, weights, teacher."""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from support import launchers, own_data, runs

import jcl
from jcl import learning
from jcl import workdir as workdirs
from jcl.config import Config
from jcl.errors import UserError
from jcl.training import base_model, experiment, inputs, run_folders
from jcl.training.loop import Loop


@pytest.fixture
def data(tmp_path) -> pathlib.Path:
  return own_data.write(tmp_path / 'data')


@pytest.fixture
def base(tmp_path, data) -> pathlib.Path:
  return own_data.base_model(tmp_path / 'base', data)


def opened(workdir: pathlib.Path, made: Config, allowed=()) -> list[str]:
  """Opens a workdir as a run does, without training; returns what it says."""
  said: list[str] = []
  read = experiment.assemble(made).inputs
  workdirs.open_workdir(str(workdir), made, allowed, said.append, read)
  return said


EDITS = {
  'removed': (lambda rows: rows.__delitem__(slice(2, 5)), '3 rows removed, first row 2'),
  'added': (lambda rows: rows.append({'text': 'more', 'label': 'billing_0'}), '1 row added'),
  'relabelled': (lambda rows: rows[1].update(label='billing_0'), '1 row changed, first row 1'),
  'reworded': (lambda rows: rows[7].update(text='another'), '1 row changed, first row 7'),
  'moved': (lambda rows: rows.reverse(), '8 rows moved, first row 0'),
}


@pytest.mark.parametrize('edit', EDITS)
def test_edited_rows_are_refused_by_name(edit, data, tmp_path):
  made, (change, words) = own_data.config(data), EDITS[edit]
  opened(tmp_path / 'run', made)
  file = data.parent / 'billing-train.jsonl'
  before = file.read_bytes()
  own_data.edit(file, change)
  with pytest.raises(UserError) as caught:
    opened(tmp_path / 'run', made)
  message = str(caught.value)
  assert f"stream.data of {data}: task 'billing', train: {words}" in message
  assert 'billing-train.jsonl:' in message or edit == 'added'
  file.write_bytes(before)
  assert not opened(tmp_path / 'run', made)


def test_every_split_is_compared(data, tmp_path):
  made = own_data.config(data)
  opened(tmp_path / 'run', made)
  for split in ('test', 'train'):
    own_data.edit(
      data.parent / f'travel-{split}.jsonl', lambda rows: rows[0].update(text=f'new {len(rows)}')
    )
  with pytest.raises(UserError, match=r"'travel', train: 1 row changed.*'travel', test: 1 row"):
    opened(tmp_path / 'run', made)


def test_rows_that_the_run_does_not_read_do_not_count(data, tmp_path):
  made = own_data.config(data)
  made.stream.max_train_per_task = 4
  opened(tmp_path / 'run', made)
  own_data.edit(data.parent / 'billing-train.jsonl', lambda rows: rows[7].update(text='new'))
  assert not opened(tmp_path / 'run', made)


def test_the_template_counts(data, tmp_path):
  made = own_data.config(data)
  opened(tmp_path / 'run', made)
  values = json.loads(data.read_text())
  data.write_text(json.dumps({**values, 'template': '{x} => {y}'}))
  with pytest.raises(UserError, match=r"template '\{x\} => \{y\}', not 'Input"):
    opened(tmp_path / 'run', made)


def test_a_change_that_the_user_names(data, tmp_path):
  """Rows may be changed in place; memory refers to those of tasks that have begun by number."""
  made, allowed = own_data.config(data, own_data.base_model(tmp_path / 'm', data)), ['stream.data']
  opened(tmp_path / 'run', made)
  own_data.edit(data.parent / 'billing-train.jsonl', lambda rows: rows[0].update(text='billing w1'))
  with pytest.raises(UserError, match=r'--allow_config_change=stream\.data'):
    opened(tmp_path / 'run', made)
  (said,) = opened(tmp_path / 'run', made, allowed)
  assert said.startswith("changed: stream.data: task 'billing', train: 1 row changed")
  (line,) = (tmp_path / 'run' / 'config_changes.jsonl').read_text().splitlines()
  assert list(json.loads(line)['changes']) == ['stream.data']
  assert not opened(tmp_path / 'run', made)  # these are the run's rows now
  own_data.edit(data.parent / 'billing-dev.jsonl', lambda rows: rows.pop())
  with pytest.raises(UserError, match="task 'billing', which has begun") as caught:
    opened(tmp_path / 'run', made, allowed)
  assert '--allow' not in str(caught.value)


def test_rows_of_a_task_to_come_may_be_added(data, tmp_path):
  made = own_data.config(data, own_data.base_model(tmp_path / 'm', data))
  opened(tmp_path / 'run', made)
  own_data.edit(data.parent / 'travel-train.jsonl', lambda rows: rows.pop())
  assert len(opened(tmp_path / 'run', made, ['stream.data'])) == 1


def test_a_vocabulary_of_another_size_never_goes_on(data, tmp_path):
  """The tokenizer from scratch is made of the training rows."""
  made = own_data.config(data)
  opened(tmp_path / 'run', made)
  own_data.edit(data.parent / 'travel-train.jsonl', lambda rows: rows[0].update(text='new words'))
  with pytest.raises(UserError, match=r'the tokenizer has .* tokens, the model'):
    opened(tmp_path / 'run', made, ['stream.data', 'backbone.tokenizer'])


@pytest.mark.parametrize(
  ('edit', 'word', 'words'),
  [
    (own_data.edit_weights, 'backbone.weights', 'weights of the digest'),
    (own_data.edit_tokenizer, 'backbone.tokenizer', 'another vocabulary'),
    (own_data.edit_shape, 'backbone.weights', 'rope_theta 20000.0, not 10000.0'),
  ],
)
def test_an_edited_model_is_refused(edit, word, words, data, base, tmp_path):
  made = own_data.config(data, base)
  opened(tmp_path / 'run', made)
  edit(base)
  with pytest.raises(UserError) as caught:
    opened(tmp_path / 'run', made)
  assert f'{word} of {base}: {words}' in str(caught.value)
  assert str(caught.value).endswith(f'--allow_config_change={word}')
  assert len(opened(tmp_path / 'run', made, [word])) == 1


def test_an_edited_teacher_is_refused(data, base, tmp_path):
  made = own_data.config(data, base, 'distill')
  made.method.teacher_path = str(shutil.copytree(base, tmp_path / 'teacher'))
  opened(tmp_path / 'run', made)
  own_data.edit_shape(tmp_path / 'teacher')
  with pytest.raises(UserError, match=f'method.teacher of {tmp_path}/teacher: rope_theta'):
    opened(tmp_path / 'run', made)
  own_data.edit_weights(tmp_path / 'teacher')
  with pytest.raises(UserError, match=f'method.teacher of {tmp_path}/teacher: weights'):
    opened(tmp_path / 'run', made)


def test_content_alone_counts(data, base, tmp_path):
  """Touched, linked, copied, and read in another way: the same digests."""
  made = own_data.config(data, base)
  opened(tmp_path / 'run', made)
  for file in (*data.parent.iterdir(), *base.iterdir()):
    os.utime(file, (0, 0))
  assert not opened(tmp_path / 'run', made)
  shutil.copytree(data.parent, tmp_path / 'there' / 'data')
  shutil.move(base, tmp_path / 'there' / 'base')
  (tmp_path / 'linked').symlink_to(tmp_path / 'there')
  places = {
    'manifest': tmp_path / 'linked' / 'data' / 'manifest.json',
    'base': tmp_path / 'linked' / 'base',
  }
  said = opened(tmp_path / 'run', own_data.moved(made, **places))
  assert [line.split()[:2] for line in said] == [
    ['moved:', 'stream.path'], ['moved:', 'backbone.path']
  ]  # fmt: skip
  assert not opened(tmp_path / 'run', own_data.moved(made, **places))  # config.json knows it


def test_a_place_with_other_content_is_refused(data, base, tmp_path):
  made = own_data.config(data, base)
  opened(tmp_path / 'run', made)
  there = shutil.copytree(base, tmp_path / 'there')
  own_data.edit_weights(there)
  with pytest.raises(UserError, match=f'backbone.weights of {there}'):
    opened(tmp_path / 'run', own_data.moved(made, base=there))
  with pytest.raises(UserError, match=r"backbone\.path was .*, is '', which cannot change"):
    opened(tmp_path / 'run', own_data.config(data))


def test_a_workdir_of_an_earlier_jcl_goes_on(data, base, tmp_path):
  made = own_data.config(data, base)
  opened(tmp_path / 'run', made)
  (tmp_path / 'run' / inputs.FILE).unlink()
  (tmp_path / 'run' / 'checkpoints' / '0').mkdir(parents=True)
  (tmp_path / 'run' / 'checkpoints' / '0' / 'sealed.json').touch()
  said = opened(tmp_path / 'run', made)
  assert ['left no digests' in line for line in said] in ([True], [])
  own_data.edit_weights(base)
  with pytest.raises(UserError, match=r'backbone\.weights'):
    opened(tmp_path / 'run', made)


def test_damaged_digests(data, tmp_path):
  made = own_data.config(data)
  opened(tmp_path / 'run', made)
  for name, content in ((inputs.ROWS, b'x'), (inputs.FILE, b'{')):
    (tmp_path / 'run' / name).write_bytes(content)
    with pytest.raises(UserError, match='is damaged; delete it'):
      opened(tmp_path / 'run', made)


def test_a_report_says_that_runs_read_different_rows(data, tmp_path):
  made = own_data.config(data)
  results = {
    'stream': 'files', 'seed': 0, 'tasks': ['billing', 'travel'], 'method': 'seq',
    'score': 'accuracy', 'scenario': 'cil', 'matrix': [[0, 0], [1, 0], [1, 1]], 'metrics': {},
  }  # fmt: skip
  runs_read = {}
  for name in ('one', 'two', 'three'):
    if name == 'three':
      own_data.edit_rows(data)
    opened(tmp_path / name, made)
    runs_read[tmp_path / name / 'results.json'] = results
  (line,) = run_folders.differing(runs_read)
  assert line.startswith(f"task 'billing', train: {tmp_path}/three read other rows than")
  assert '1 row removed' in line


def test_rows_made_in_python(tmp_path):
  rows = [{'text': f'w{i} text', 'label': f'c{i % 2}'} for i in range(8)]
  learn = lambda rows: jcl.learn(
    jcl.Stream.from_rows({'one': rows}, test={'one': [{'text': 'a', 'label': 'c0'}]}), 'seq',
    model=runs.config('seq').backbone, train={'epochs': 1}, workdir=tmp_path / 'run', quiet=True,
  )  # fmt: skip
  learn(rows)
  with pytest.raises(UserError, match=r"stream\.data.*'one', train: 1 row changed, first row 3"):
    learn([*rows[:3], {'text': 'w2 text w1', 'label': 'c1'}, *rows[4:]])


def test_raw_text(tmp_path):
  made = runs.config('pretrain', stream={'max_tasks': 2})
  made.stream.cache = str(tmp_path / 'cache')
  one = experiment.assemble(made).inputs
  made.stream.max_train_per_task = 39
  changed = inputs.differences(one, experiment.assemble(made).inputs)
  assert 'train: 1 row removed, first row 39' in changed['stream.data']


def test_the_digest_of_weights_is_that_of_their_content():
  params = {'a': {'x': np.arange(6, dtype=np.float32).reshape(2, 3)}, 'b': np.ones(2, np.float32)}
  digest = inputs.weights_digest(params)
  turned = {'b': params['b'], 'a': {'x': np.asfortranarray(params['a']['x'])}}
  assert inputs.weights_digest(turned) == digest
  assert inputs.weights_digest(jax.device_put(params)) == digest
  for other in ({'x': params['a']['x'].T}, {'x': params['a']['x'] + 1}, {'y': params['a']['x']}):
    assert inputs.weights_digest({**params, 'a': other}) != digest


@pytest.fixture(scope='module')
def finished(tmp_path_factory) -> tuple[pathlib.Path, Config]:
  """A run of an adapter on a base model, of which nothing is at its place any more."""
  folder = tmp_path_factory.mktemp('finished')
  data = own_data.write(folder / 'data')
  made = own_data.config(data, own_data.base_model(folder / 'base', data), 'lora')
  learning.run(made, folder / 'run', quiet=True)
  (folder / 'data').rename(folder / 'data2')
  (folder / 'base').rename(folder / 'base2')
  edited = shutil.copytree(folder / 'data2', folder / 'edited')
  own_data.edit(edited / 'travel-test.jsonl', lambda rows: rows[0].update(text='travel new'))
  own_data.edit_weights(shutil.copytree(folder / 'base2', folder / 'weights'))
  own_data.edit_tokenizer(shutil.copytree(folder / 'base2', folder / 'tokenizer'))
  own_data.edit_shape(shutil.copytree(folder / 'base2', folder / 'shape'))
  return folder, made


def ended(program: str, folder: pathlib.Path, *arguments: str):
  done = launchers.call(program, f'--workdir={folder}/run', *arguments)
  assert 'Traceback' not in done.stderr
  assert done.returncode == 0 or (done.returncode == 2 and len(done.stderr.splitlines()) == 1)
  return done


def test_evaluate_after_a_move(finished):
  folder, _ = finished
  assert ended('evaluate', folder).returncode == 2
  data, base = f'--stream={folder}/data2/manifest.json', f'--base={folder}/base2'
  done = ended('evaluate', folder, data, base)
  assert done.returncode == 0, done.stderr
  assert 'travel' in done.stdout
  done = ended('evaluate', folder, f'--stream={folder}/edited/manifest.json', base)
  assert 'stream.data of' in done.stderr
  assert "'travel', test: 1 row changed, first row 0 (travel-test.jsonl:1)" in done.stderr
  allowed = '--allow_config_change=stream.data'
  assert not ended('evaluate', folder, f'--stream={folder}/edited', base, allowed).returncode
  assert (
    'another vocabulary' in ended('evaluate', folder, data, f'--base={folder}/tokenizer').stderr
  )


@pytest.mark.parametrize('format', ['hf', 'peft'])
def test_export_after_a_move(format, finished, tmp_path):
  folder, _ = finished
  out = f'--out={tmp_path}/out', f'--format={format}', '--task=travel'
  for other, word in (('weights', 'weights'), ('shape', 'weights'), ('tokenizer', 'tokenizer')):
    done = ended('export', folder, *out, f'--base={folder}/{other}')
    assert f'backbone.{word} of {folder}/{other}' in done.stderr
    assert not (tmp_path / 'out').exists()
  done = ended('export', folder, *out, f'--base={folder}/base2')
  assert done.returncode == 0, done.stderr
  if format == 'peft':
    named = json.loads((tmp_path / 'out' / 'adapter_config.json').read_text())
    assert named['base_model_name_or_path'] == f'{folder}/base2'
    merge = lambda base: launchers.call(
      'merge', f'--adapters={tmp_path}/out', f'--out={tmp_path}/merged', '--into=weights',
      f'--base={folder}/{base}',
    )  # fmt: skip
    assert 'backbone.weights' in merge('weights').stderr
    assert merge('base2').returncode == 0


def test_a_run_that_has_moved_is_exported_without_data_and_base(finished, tmp_path):
  """The folder of the run has moved, its data and its base model are gone."""
  folder, _ = finished
  there = shutil.copytree(folder / 'run', tmp_path / 'moved')
  files = []
  for given in ((), (f'--base={folder}/base2',)):
    out = tmp_path / f'out{len(files)}'
    done = launchers.call('export', f'--workdir={there}', f'--out={out}', *given)
    assert done.returncode == 0, done.stderr
    files.append((out / 'model.safetensors').read_bytes())
  assert files[0] == files[1]
  done = launchers.call('evaluate', f'--workdir={there}', f'--base={folder}/base2')
  assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
  assert f'{folder}/data/manifest.json: the run had it there' in done.stderr
  assert '--stream=PATH' in done.stderr
  done = launchers.call('evaluate', f'--workdir={there}', f'--stream={folder}/data2')
  assert f'{folder}/base: the run had it there' in done.stderr
  assert '--base=PATH' in done.stderr


def test_load_model_after_a_move(finished, tmp_path):
  folder, _ = finished
  model = jcl.load_model(folder / 'run', base=folder / 'base2')
  assert model.answer(['travel test w1 yes'], task=None)
  with pytest.raises(UserError, match=r'backbone\.weights'):
    jcl.load_model(folder / 'run', base=folder / 'weights')
  with pytest.raises(UserError, match='base'):
    jcl.load_model(folder / 'base2', base=folder / 'base2')


def test_adapters_of_different_bases_are_not_merged(tmp_path):
  for name, digest in (('a', '1'), ('b', '2'), ('c', '1')):
    (tmp_path / name).mkdir()
    base_model.write_beside(tmp_path / name, {'weights': digest})
  (tmp_path / 'silent').mkdir()
  of = lambda *names: base_model.of_adapters([tmp_path / name for name in names])
  assert of('a', 'silent', 'c') == {'weights': '1'}
  assert of('silent') == {}
  with pytest.raises(UserError, match=r'b was trained on other base weights than .*a'):
    of('a', 'b')


def test_training_goes_on_after_a_move(finished):
  folder, made = finished
  there = {'manifest': folder / 'data2' / 'manifest.json', 'base': folder / 'base2'}
  copy = shutil.copytree(folder / 'run', folder / 'run2')
  found = learning.run(own_data.moved(made, **there), copy, quiet=True).results
  assert found['params_sha256'] == json.loads((copy / 'results.json').read_text())['params_sha256']


def test_replay_never_mixes_up_rows(data, tmp_path):
  """The defect: rows removed between tasks made references to training rows mean dev rows."""
  made = own_data.config(data, method='replay')
  folder = tmp_path / 'run'
  workdirs.open_workdir(str(folder), made, read=experiment.assemble(made).inputs)
  loop = Loop(experiment.assemble(made), folder, quiet=True)
  loop.before_task = dying(loop.before_task)
  with pytest.raises(runs.Killed):
    loop.run()
  own_data.edit(data.parent / 'billing-train.jsonl', EDITS['removed'][0])
  with pytest.raises(UserError, match='3 rows removed'):
    learning.run(made, folder, quiet=True)


def dying(hook):
  def before_task(now, task):
    if task.index:
      raise runs.Killed
    return hook(now, task)

  before_task.__name__ = 'before_task'
  return before_task
