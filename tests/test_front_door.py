"""The front door: `import jcl` and nothing else, from rows to answers."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from support import ROOT

import jcl
from jcl.methods import Method, TaskPlan
from jcl.model import Model
from jcl.reports import doctor
from jcl.reports.report import Report
from jcl.streams.by_task import NoTask
from jcl.training.answer_format import read_format

SMALL = jcl.BackboneConfig(width=32, layers=1, heads=2, feed_forward=48)
TRAIN = jcl.TrainConfig(learning_rate=1e-2, epochs=12, batch_size=8)
WORDS = ('red', 'green', 'blue', 'grey', 'pink', 'gold')


def rows(*labels, count=6):
  """Rows whose second word says the label."""
  return [
    {'text': f'{WORDS[i]} {label.replace("_", "")}', 'label': label}
    for label in labels
    for i in range(count)
  ]


def two_tasks():
  return jcl.Stream.from_rows(
    {'disk': rows('data_loss', 'no_space'), 'net': rows('slow', 'time_out')},
    test={'disk': rows('data_loss', 'no_space'), 'net': rows('slow', 'time_out')},
    overlap='keep',
  )


class Watcher:
  def __init__(self):
    self.steps, self.tasks = [], []

  def on_step(self, metrics):
    self.steps.append(metrics)

  def on_task(self, results):
    self.tasks.append(results)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """-> result of a run in a workdir, its watcher, the workdir."""
  folder, watcher = tmp_path_factory.mktemp('front') / 'run', Watcher()
  result = jcl.learn(
    two_tasks(), 'replay', model=SMALL, train=TRAIN, workdir=folder, callbacks=[watcher],
    quiet=True, replay_ratio=1.0,
  )  # fmt: skip
  return result, watcher, folder


def test_a_result_holds_the_matrix_the_metrics_and_the_parameters(trained):
  result, watcher, folder = trained
  assert result.matrix.shape == (3, 2)
  assert np.nanmin(result.matrix[2]) >= 0.9
  assert result.metrics['average_accuracy'] == pytest.approx(result.matrix[2].mean())
  assert result.workdir == folder
  assert {'embed', 'layers'} <= set(result.params)
  assert 'disk' in str(result)
  assert 'net' in repr(result)
  assert len(watcher.tasks) == 2
  assert watcher.steps[0]['task'] == 0


def test_answers_are_labels_as_the_user_wrote_them(trained):
  model = trained[0].model
  assert model.labels == ('data_loss', 'no_space', 'slow', 'time_out')
  asked = ['red dataloss', 'gold slow', 'pink timeout', 'blue nospace']
  assert model.answer(asked) == ['data_loss', 'slow', 'time_out', 'no_space']
  assert model.answer([]) == []


def test_probabilities_are_those_of_the_labels_and_agree_with_the_answers(trained):
  model = trained[0].model
  asked = ['red dataloss', 'gold slow']
  found = model.probabilities(asked)
  for one, answer in zip(found, model.answer(asked), strict=True):
    assert set(one) == set(model.labels)
    assert sum(one.values()) == pytest.approx(1)
    assert max(one, key=one.get) == answer


def test_the_same_call_again_goes_on_with_the_run_that_is_there(trained):
  result, _, folder = trained
  again = jcl.learn(
    two_tasks(), 'replay', model=SMALL, train=TRAIN, workdir=folder, quiet=True, replay_ratio=1.0
  )
  assert again.results['params_sha256'] == result.results['params_sha256']
  with pytest.raises(jcl.UserError, match='replay_ratio'):
    jcl.learn(two_tasks(), 'replay', model=SMALL, train=TRAIN, workdir=folder, quiet=True)


def test_a_run_is_opened_again_without_its_data(trained):
  result, _, folder = trained
  again = jcl.load_model(folder)
  assert isinstance(again, Model)
  asked = ['red dataloss', 'gold slow', 'pink timeout']
  assert again.answer(asked) == result.model.answer(asked)
  for one, other in zip(jax.tree.leaves(again.params), jax.tree.leaves(result.params), strict=True):
    np.testing.assert_array_equal(one, other)


def test_an_export_answers_and_can_be_trained_on(trained, tmp_path):
  result, _, _ = trained
  result.model.save(tmp_path / 'exported')
  again = jcl.load_model(tmp_path / 'exported')
  asked = ['red dataloss', 'gold slow', 'pink timeout']
  assert again.answer(asked) == result.model.answer(asked)
  assert again.probabilities(asked[:1])[0] == pytest.approx(
    result.model.probabilities(asked[:1])[0], abs=1e-5
  )
  more = jcl.Stream.from_rows({'more': rows('data_loss', 'slow')}, overlap='keep')
  short = jcl.TrainConfig(learning_rate=1e-3, epochs=1, batch_size=8)
  for start in (tmp_path / 'exported', again):
    on = jcl.learn(more, model=start, train=short, quiet=True)
    assert on.matrix[0, 0] > 0.5, 'it starts from what it knew'


def test_generate_continues_prompts(trained):
  model = trained[0].model
  one, two = (model.generate(['red', 'gold'], max_new=4, seed=s) for s in (0, 0))
  assert one == two
  assert len(one) == 2
  assert all(isinstance(text, str) for text in one)


def test_the_report_shows_itself_and_is_saved(trained, tmp_path):
  page = trained[0].report()
  assert isinstance(page, Report)
  assert page._repr_html_().startswith('<div class="jcl">')
  assert page.html().startswith('<!DOCTYPE html>')
  page.save(tmp_path / 'report.html')
  assert 'disk' in (tmp_path / 'report.html').read_text()
  assert 'Loss and its terms' in page.html()
  assert {line['task'] for line in trained[0].log} == {0, 1}


@pytest.fixture(scope='module')
def weak():
  """The result of a run in memory that learns nothing, and what it printed."""
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    short = jcl.TrainConfig(learning_rate=1e-6, steps=1, batch_size=8)
    result = jcl.learn(two_tasks(), 'seq', model=SMALL, train=short)
  return result, printed.getvalue()


def test_findings_are_those_of_the_doctor_and_are_printed_at_the_end(trained, weak):
  result, _, folder = trained
  assert result.findings == doctor.findings(result.results, result.log, str(folder))
  result, printed = weak
  assert 'not learned' in [finding.name for finding in result.findings]
  assert not any(finding.command for finding in result.findings), 'there is no folder to go on from'
  last = printed.splitlines()[-len(result.findings) :]
  assert last == [f'{finding.name}: {finding}' for finding in result.findings]
  assert str(result.findings) == repr(result.findings) == '\n'.join(last)


class Interrupting:
  asked = False  # a second Ctrl-C would end this process

  def on_step(self, metrics):
    if not self.asked:
      self.asked = True
      os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_is_the_interrupt_of_python():
  short = jcl.TrainConfig(steps=3, batch_size=8, log_every=1)
  given = {'model': SMALL, 'train': short, 'callbacks': [Interrupting()], 'quiet': True}
  with pytest.raises(KeyboardInterrupt, match='has no workdir, so nothing of it is kept') as raised:
    jcl.learn(two_tasks(), 'seq', **given)
  assert isinstance(raised.value, jcl.Stopped)


class InterruptingLast(Interrupting):
  tasks = 0

  def on_step(self, metrics):
    pass

  def on_task(self, results):
    self.tasks += 1
    if self.tasks == 2:
      super().on_step(None)


def test_ctrl_c_after_the_last_step_stops_a_loop_over_runs():
  short = jcl.TrainConfig(steps=3, batch_size=8)
  last = InterruptingLast()
  with pytest.raises(KeyboardInterrupt, match='the run is complete'):
    jcl.learn(two_tasks(), 'seq', model=SMALL, train=short, quiet=True, callbacks=[last])
  assert last.asked


def test_quiet_prints_no_findings(capsys):
  short = jcl.TrainConfig(learning_rate=1e-6, steps=1, batch_size=8)
  assert jcl.learn(two_tasks(), 'seq', model=SMALL, train=short, quiet=True).findings
  assert capsys.readouterr().out == ''


def test_runs_are_compared_whether_in_memory_or_in_a_folder(trained, weak, tmp_path):
  result, _, folder = trained
  file = folder / 'results.json'
  for runs in ((weak[0], result), (weak[0], folder), (weak[0], file), ([weak[0], str(folder)],)):
    found = jcl.compare(*runs)
    words = [line.split()[0] for line in str(found).splitlines()]
    assert words[words.index('method') :][:3] == ['method', 'seq', 'replay']
    assert list(found.metrics) == ['seq', 'replay']
    assert found.metrics['replay']['average_accuracy'] == (result.metrics['average_accuracy'], None)
    page = found.report()
    page.save(tmp_path / 'report.html')
    assert 'Ranking' in (tmp_path / 'report.html').read_text()
    assert 'Loss and its terms' in page.html(), 'the logs of both runs are in it'
  assert '<th>replay</th><td>1</td>' in found._repr_html_()
  assert '<th>train s</th>' in found._repr_html_()  # two lines on a terminal
  assert isinstance(found, jcl.Comparison)
  assert isinstance(page, jcl.Report)


def test_seeds_of_a_method_are_a_mean_and_its_interval(trained, tmp_path):
  result = trained[0]
  for seed, accuracy in ((0, 0.5), (1, 0.7)):
    run = dict(result.results, seed=seed, config={'train': {'seed': seed}})
    run['metrics'] = dict(result.metrics, average_accuracy=accuracy)
    folder = tmp_path / f'replay-{seed}'
    folder.mkdir()
    (folder / 'results.json').write_text(json.dumps(run))
  found = jcl.compare(tmp_path)
  mean, half_width = found.metrics['replay']['average_accuracy']
  assert mean == pytest.approx(0.6)
  assert half_width == pytest.approx(12.706 * 0.1, rel=1e-3)  # t of one degree of freedom, s / √2
  assert 'mean ± 95 % interval over seeds' in str(found)


def test_the_page_of_a_run_names_its_folder_in_its_commands(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  stream = jcl.load_stream('synthetic', max_tasks=2, max_train_per_task=8, max_test_per_task=4)
  low = jcl.TrainConfig(learning_rate=1e-6, steps=8, batch_size=4)
  jcl.learn(stream, 'seq', model=SMALL, train=low, workdir='runs/low', quiet=True)
  page = (tmp_path / 'runs' / 'low' / 'report.html').read_text()
  assert '--workdir=runs/low ' in page
  assert 'WORKDIR' not in page
  assert 'WORKDIR' not in jcl.compare('runs/low').report().html()
  with pytest.raises(jcl.UserError, match=r"'train.seed' cannot|train.seed was 0, is 1"):
    jcl.learn(
      stream, 'seq', model=SMALL, train=dataclasses.replace(low, seed=1), workdir='runs/low',
      quiet=True,
    )  # fmt: skip


def test_a_setting_may_change_in_a_run_where_python_allows_it(trained, tmp_path):
  shutil.copytree(trained[2], tmp_path / 'run')
  given = dict(model=SMALL, workdir=tmp_path / 'run', quiet=True, replay_ratio=1.0)
  train = dataclasses.replace(TRAIN, log_every=3)
  with pytest.raises(
    jcl.UserError, match=r"go on: in Python allow_config_change='train.log_every'"
  ):
    jcl.learn(two_tasks(), 'replay', train=train, **given)
  for allowed in ('train.log_every', ['train.log_every']):
    copied = jcl.learn(
      two_tasks(), 'replay', train=train, allow_config_change=allowed, **given
    )  # fmt: skip
    assert copied.results['finished']
  for wrong, words in (
    (3, 'is 3; give names'),
    ('train.log', "has 'train.log', which is no field"),
  ):
    with pytest.raises(jcl.UserError, match=f'allow_config_change {words}'):
      jcl.learn(two_tasks(), 'replay', train=train, allow_config_change=wrong, **given)


def test_a_model_is_saved_again_where_it_is_the_same_and_refused_where_it_is_not(trained, tmp_path):
  model, folder = trained[0].model, tmp_path / 'exported'
  model.save(folder)
  (folder / 'README.md').write_text('mine')
  before = {file.name: file.read_bytes() for file in folder.iterdir()}
  model.save(folder)
  assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
  with pytest.raises(jcl.UserError, match='holds something else; name a new folder, or move'):
    model.save(folder, dtype='bfloat16')
  assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
  assert [file.name for file in tmp_path.iterdir()] == ['exported']


def test_a_model_that_has_not_learned_every_task_says_so_when_it_is_opened(tmp_path, capsys):
  short = jcl.TrainConfig(steps=2, batch_size=8)

  class Ends:
    def on_task(self, results):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    jcl.learn(
      two_tasks(), 'seq', model=SMALL, train=short, workdir=tmp_path / 'run', quiet=True,
      callbacks=[Ends()],
    )  # fmt: skip
  capsys.readouterr()
  model = jcl.load_model(tmp_path / 'run')
  line = f'note: this run is not finished: its model has learned {model.answers.seen} of 2 tasks'
  assert line in capsys.readouterr().err
  model.save(tmp_path / 'exported')
  jcl.load_model(tmp_path / 'exported')
  assert line in capsys.readouterr().err
  shutil.rmtree(tmp_path / 'run' / 'checkpoints')
  with pytest.raises(jcl.UserError, match='has no snapshot yet; train it first'):
    jcl.load_model(tmp_path / 'run')


def test_a_report_is_no_folder(trained, tmp_path):
  with pytest.raises(jcl.UserError, match=r'that is a folder; give a file, .*report.html'):
    trained[0].report().save(tmp_path)


def test_other_rows_are_named_in_a_comparison(trained, tmp_path):
  result, _, folder = trained
  other = jcl.Stream.from_rows(
    {'disk': rows('data_loss', 'no_space', count=5), 'net': rows('slow', 'time_out')},
    test={'disk': rows('data_loss', 'no_space'), 'net': rows('slow', 'time_out')}, overlap='keep',
  )  # fmt: skip
  short = jcl.TrainConfig(steps=1, batch_size=8)
  run = jcl.learn(other, 'seq', model=SMALL, train=short, workdir=tmp_path / 'run', quiet=True)
  found = jcl.compare(result, run)
  (line,) = found.warnings
  assert line.startswith(f"task 'disk', train: {tmp_path / 'run'} read other rows than {folder}")
  assert f'warning: {line}' in str(found)


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ((), 'there are no runs'),
    ((3,), 'compare: a run is a int; give a Result or a workdir'),
    (('no/such/folder',), 'compare: .*no/such/folder holds no results.json'),
  ],
)
def test_what_cannot_be_compared_is_refused(given, words):
  with pytest.raises(jcl.UserError, match=words):
    jcl.compare(*given)


def test_a_run_is_not_compared_with_itself(trained):
  result, _, folder = trained
  with pytest.raises(jcl.UserError, match=f'seed 0 is given twice \\({folder}\\); give each'):
    jcl.compare(result, folder)
  held = dataclasses.replace(result, workdir=None)
  with pytest.raises(jcl.UserError, match=r'twice \(run 1 of those given and run 2 of those given'):
    jcl.compare(held, held)


def test_copies_of_a_run_and_runs_of_other_streams_are_named_by_their_folders(trained, tmp_path):
  result, _, folder = trained
  shutil.copytree(folder, tmp_path / 'copy')
  with pytest.raises(
    jcl.UserError, match=f'{folder} and {tmp_path / "copy"}\\); give each run once'
  ):
    jcl.compare(folder, tmp_path / 'copy')
  other = dict(json.loads((folder / 'results.json').read_text()), stream='other')
  (tmp_path / 'copy' / 'results.json').write_text(json.dumps(other))
  with pytest.raises(jcl.UserError, match=rf'{folder}.* and .*{tmp_path / "copy"}.* different str'):
    jcl.compare(result, tmp_path / 'copy')


def test_a_result_shows_its_matrix_in_a_notebook(trained):
  shown = trained[0]._repr_html_()
  assert '<th>after net</th>' in shown
  assert 'A_T' in shown


def test_a_head_answers_with_probabilities():
  head = jcl.BackboneConfig(width=32, layers=1, heads=2, feed_forward=48, head='linear')
  train = jcl.TrainConfig(learning_rate=1e-2, head_learning_rate=1e-2, epochs=12, batch_size=8)
  result = jcl.learn(two_tasks(), 'replay', model=head, train=train, quiet=True, replay_ratio=1.0)
  asked = ['red dataloss', 'gold slow', 'pink timeout']
  assert result.model.answer(asked) == ['data_loss', 'slow', 'time_out']
  (one, *_) = result.model.probabilities(asked)
  assert sum(one.values()) == pytest.approx(1)
  assert max(one, key=one.get) == 'data_loss'


@pytest.mark.slow
def test_raw_text_is_continued_and_not_answered():
  texts = [{'text': 'the cat sat on the mat and the dog ran off'}] * 8
  stream = jcl.Stream.from_rows({'tales': texts}, test={'tales': texts}, overlap='keep')
  train = jcl.TrainConfig(learning_rate=1e-2, steps=10, batch_size=4)
  result = jcl.learn(stream, 'pretrain', model=SMALL, train=train, quiet=True, drift=False)
  assert result.results['scenario'] == 'cpt'
  assert result.matrix[1, 0] < result.matrix[0, 0]
  assert result.model.generate(['the cat'], max_new=3, top_k=1)
  with pytest.raises(jcl.UserError, match='use generate'):
    result.model.answer(['the cat'])


def test_a_task_is_named_by_place_or_name_and_a_wrong_one_says_which_there_are():
  stream = two_tasks()
  assert stream['net'] is stream[1] is stream[-1] is stream[np.int64(1)]
  assert stream[:1] == stream.tasks[:1]
  assert 'net' in stream
  assert stream[0] in stream
  assert 'web' not in stream
  known = "there are 2 tasks: 0: 'disk', 1: 'net'"
  for place, words in (
    ('nett', rf"stream\['nett'\]: no such task; did you mean net\? {known}"),
    (2, rf'stream\[2\]: no such task; {known}'),
    (None, r'stream\[…\] is given a NoneType; give the place or the name of a task'),
    (1.0, r'is given a float; give the place'),
  ):
    with pytest.raises(NoTask, match=words) as raised:
      stream[place]
    assert isinstance(raised.value, jcl.UserError)
    assert isinstance(raised.value, IndexError)


def test_a_stream_is_read_by_name_with_its_settings():
  stream = jcl.load_stream('synthetic', max_tasks=2, max_train_per_task=8)
  assert [len(task.train) for task in stream.tasks] == [8, 8]
  raw = jcl.load_stream('synthetic', max_tasks=1, raw_text=True)
  assert raw.classes == ()
  assert {example.answer for example in raw.tasks[0].train} == {''}
  assert jcl.load_stream(jcl.StreamConfig(max_tasks=1)).tasks[0].name == raw.tasks[0].name
  with pytest.raises(jcl.UserError, match="no setting 'tasks'; did you mean max_tasks"):
    jcl.load_stream('synthetic', tasks=2)
  with pytest.raises(jcl.UserError, match="no setting 'seed'") as raised:
    jcl.load_stream('synthetic', seed=2)
  assert 'TrainConfig' not in str(raised.value)


def test_a_method_record_is_trained_in_memory():
  calls = []

  def plan(memory, task):
    calls.append(task.name)
    return TaskPlan(task.train)

  short = jcl.TrainConfig(learning_rate=1e-2, epochs=1, batch_size=8)
  result = jcl.learn(two_tasks(), Method(plan=plan), model=SMALL, train=short, quiet=True)
  assert {'disk', 'net'} <= set(calls)
  assert result.results['finished']


STREAM = two_tasks
WRONG = {
  'no stream': ((3,), {}, r'stream is a int; give what jcl\.Stream\.from_rows'),
  'two streams': (([two_tasks(), two_tasks()],), {}, 'stream: give one stream'),
  'unknown stream': (('nonsense',), {}, r"stream\.name: nothing is called 'nonsense'"),
  'unknown method': ((two_tasks(), 'nonsense'), {}, "method: nothing is called 'nonsense'"),
  'method of another kind': ((two_tasks(), 3), {}, 'method is int; give a name'),
  'settings class': ((two_tasks(), type(jcl.Config().method)), {}, 'method is the class NoneType'),
  'unknown setting': (
    (two_tasks(), 'lamol'), {'gama': 1}, "no setting 'gama'; did you mean gamma. it has lambda_gen"
  ),
  'setting out of bounds': (
    (two_tasks(), 'lamol'), {'gamma': -1.0}, r'method\.gamma is -1\.0; it must be at least 0'
  ),
  'model of another kind': ((two_tasks(),), {'model': 3}, 'model is a int; give a path'),
  'empty model': ((two_tasks(),), {'model': ''}, "model is ''; give a path"),
  'no such model': ((two_tasks(),), {'model': 'no/such/folder'}, 'no such folder'),
  'a model and a path': (
    (two_tasks(),), {'model': SMALL, 'path': 'x'}, "method 'seq' has no setting 'path'"
  ),
  'a setting of another argument': (
    (two_tasks(),), {'epochs': 3}, r"no setting 'epochs'; .*; give train=jcl\.TrainConfig\(epochs="
  ),
  'a backbone': ((two_tasks(),), {'backbone': SMALL}, r'give model=jcl\.BackboneConfig'),
  'rows that are no stream': (({'disk': rows('a', 'b')},), {}, 'stream is a dict; give what jcl'),
  'train of another kind': ((two_tasks(),), {'train': 3}, 'train is a int; give a jcl.TrainConfi'),
  'unknown field of train': ((two_tasks(),), {'train': {'rate': 3}}, "train has no setting 'rate'"),
  'callbacks': ((two_tasks(),), {'callbacks': [3]}, 'callbacks holds a int without any of'),
  'one callback': ((two_tasks(),), {'callbacks': Watcher()}, 'callbacks is a Watcher; give a list'),
  'an argument of learn': (
    (two_tasks(),), {'work_dir': 'x'}, "no setting 'work_dir'; .*jcl.learn has the argument workdir"
  ),
  'a class of settings': (
    (two_tasks(),), {'train': jcl.TrainConfig}, r'train is the class TrainConfig; give a .*\(…\)'
  ),
  'a class of a callback': (
    (two_tasks(),), {'callbacks': [Watcher]}, r'the class Watcher; give an object of it, Watcher'
  ),
  'scenario': ((two_tasks(),), {'scenario': 'cli'}, "scenario is 'cli'; it must be one of"),
  'record in a folder': ((two_tasks(), Method()), {'workdir': 'x'}, 'cannot be stored'),
}  # fmt: skip


@pytest.mark.parametrize('case', WRONG)
def test_a_wrong_argument_is_one_line_that_names_it(case):
  given, more, words = WRONG[case]
  with pytest.raises(jcl.UserError, match=words) as raised:
    jcl.learn(*given, **more)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('call', 'words'),
  [
    (lambda m: m.answer('one text'), 'texts is one text; give a list'),
    (lambda m: m.answer([3]), r'texts\[0\] is a int; give text'),
    (lambda m: m.answer(['x'], task='nope'), "no task is called 'nope'; there are disk, net"),
    (lambda m: m.save('x', format='onnx'), "format 'onnx'"),
    (lambda m: m.generate([3]), r'prompts\[0\] is a int; give text'),
  ],
)  # fmt: skip
def test_a_model_refuses_what_it_cannot_read(trained, call, words):
  with pytest.raises(jcl.UserError, match=words):
    call(trained[0].model)


def test_a_damaged_answer_format_is_one_line(trained, tmp_path):
  trained[0].model.save(tmp_path / 'exported')
  file = tmp_path / 'exported' / 'jcl.json'
  assert read_format(file).labels == ('data_loss', 'no_space', 'slow', 'time_out')
  values = json.loads(file.read_text())
  for damaged in ('{', '[]', json.dumps({**values, 'classes_of': [[9]]}), json.dumps({'x': 1})):
    file.write_text(damaged)
    with pytest.raises(jcl.UserError, match='is not the answer format of a model'):
      jcl.load_model(tmp_path / 'exported')


def test_importing_starts_no_backend_and_reads_little():
  code = (
    'import sys, time; t = time.perf_counter(); import jcl; '
    'print(time.perf_counter() - t, "jax" in sys.modules, "numpy" in sys.modules)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  seconds, *loaded = done.stdout.split()
  assert loaded == ['False', 'False']
  assert float(seconds) < 0.5
  assert set(jcl.__all__) <= set(dir(jcl))
