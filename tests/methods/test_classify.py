"""Runs that classify with a head over the classes of the stream, on decoders and encoders."""

import json

import jax
import numpy as np
import pytest
from support import model_folder, rounding, runs

from jcl import workdir as workdirs
from jcl.backbones.files import hf
from jcl.config import TrainConfig
from jcl.errors import UserError
from jcl.preflight import checks
from jcl.step.optimizer import make_optimizer
from jcl.trained_run import TrainedRun
from jcl.training import experiment

SIZES = {'width': 48, 'feed_forward': 96}


def config(method, scenario='cil', **backbone):
  """Two tasks of four classes each, enough of them to be learned in seconds."""
  made = runs.config(
    method,
    stream={'max_tasks': 2, 'max_train_per_task': 0, 'max_test_per_task': 48},
    backbone={'head': 'linear', **({} if 'path' in backbone else SIZES), **backbone},
    train={'learning_rate': 2e-3, 'head_learning_rate': 5e-3, 'epochs': 6, 'batch_size': 32},
    evaluate={'batch_size': 48},
  )
  made.scenario = scenario
  return made


CELLS = [('seq', 'cil', 'linear'), ('replay', 'cil', 'cosine')]
# For slow tests.
MORE = [('derpp', 'til', 'cosine'), ('seq', 'til', 'linear'), ('derpp', 'cil', 'linear')]


def trained(cells, factory):
  """Returns {(method, scenario, head): (workdir, results)} of runs of seconds."""
  done = {}
  for cell in cells:
    folder = factory.mktemp('classify') / 'run'
    made = config(*cell[:2], head=cell[2])
    workdirs.open_workdir(str(folder), made)
    done[cell] = folder, runs.run(made, folder)
  return done


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The runs of `CELLS`."""
  return trained(CELLS, tmp_path_factory)


@pytest.fixture(scope='module')
def more_finished(tmp_path_factory):
  """The runs of `MORE`."""
  return trained(MORE, tmp_path_factory)


def test_heads_learn_and_forget_as_language_models_do(finished):
  learn_and_forget(finished)


@pytest.mark.slow
def test_heads_of_more_scenarios_learn_and_forget(more_finished):
  learn_and_forget(more_finished)


def learn_and_forget(finished):
  for cell, (_, results) in finished.items():
    matrix = results['matrix']
    assert min(matrix[1][0], matrix[2][1]) >= 0.7, cell
    if cell[:2] == ('seq', 'cil'):
      assert matrix[2][0] == 0  # the last classes answer everything
    else:
      assert matrix[2][0] >= (0.6 if cell[0] == 'seq' else 0.7), cell


def test_a_head_never_answers_with_a_class_it_may_not_know(finished):
  answers_are_allowed(finished)


@pytest.mark.slow
def test_a_head_of_more_scenarios_never_does(more_finished):
  answers_are_allowed(more_finished)


def answers_are_allowed(finished):
  """Class-incremental: no class of a task to come; task-incremental: the task's own alone."""
  for (_, scenario, _), (folder, results) in finished.items():
    run = TrainedRun(workdirs.load_workdir(str(folder)), folder)
    tools, tasks = run.tools, run.parts.stream.tasks
    names = tools.stream.classes
    run.tools = tools.at(0)
    for task, score in run.scores('test'):
      task_id_given = [names[c] for c in task.classes]
      seen = [names[c] for t in tasks[:1] for c in t.classes]
      assert set(score.answers) <= set(task_id_given if scenario == 'til' else seen)
    assert all(invalid in (0, None) for row in results['invalid'] for invalid in row)
    assert (results['metrics']['forward_transfer'] is None) == (scenario == 'cil')


def test_the_whole_head_is_there_from_the_start_and_later_classes_stay_as_they_were(finished):
  folder, _ = finished['seq', 'cil', 'linear']
  parts = experiment.assemble(workdirs.load_workdir(str(folder)))
  head = parts.initial_params()['head']
  assert head['kernel'].shape == (48, len(parts.stream.classes))
  now = TrainedRun(workdirs.load_workdir(str(folder)), folder).now
  moved = np.abs(np.asarray(now.params['head']['kernel'])).max(0)
  assert (moved > 0).all()  # every class was met by now


def test_a_classifier_is_exported_and_learns_on(finished, tmp_path):
  folder, _ = finished['seq', 'cil', 'linear']
  run = TrainedRun(workdirs.load_workdir(str(folder)), folder)
  run.model.save(tmp_path / 'out')
  words = json.loads((tmp_path / 'out' / 'head.json').read_text())
  assert words['classes'] == len(run.parts.stream.classes)
  again = hf.load(str(tmp_path / 'out'))
  np.testing.assert_array_equal(
    again.params['head']['kernel'], np.asarray(run.now.params['head']['kernel'])
  )
  made = config('seq', path=str(tmp_path / 'out'))
  start = experiment.assemble(made).initial_params()
  np.testing.assert_array_equal(
    start['layers']['q']['kernel'], np.asarray(run.now.params['layers']['q']['kernel'])
  )
  made.backbone.head, made.train.head_learning_rate = '', 1e-3
  with pytest.raises(UserError, match=r'writes no answers; give backbone.head'):
    experiment.assemble(made)


@pytest.mark.parametrize('pooling', ['', 'mean'])
@pytest.mark.slow
def test_an_encoder_trains_whole(pooling, tmp_path, monkeypatch):
  """Two epochs move every leaf that a gradient reaches: all, where nothing is frozen."""
  # Its 40 words are hardly any of the stream's, which a run is refused for.
  monkeypatch.setattr(checks, 'refuse', lambda parts, workdir: None)
  (tmp_path / 'bert').mkdir()
  model_folder.load_encoder(tmp_path / 'bert', model_folder.golden('bert', 'encoder'))
  made = config('replay', path=str(tmp_path / 'bert'), pooling=pooling)
  made.stream.max_train_per_task, made.stream.max_length, made.train.epochs = 40, 16, 2
  parts = experiment.assemble(made)
  assert parts.text.pooling == (pooling or 'first')
  before = parts.initial_params()
  loop = runs.Loop(parts, runs_folder(tmp_path / 'run'), quiet=True)
  results = loop.run()
  assert results['finished']
  after = TrainedRun(made, tmp_path / 'run').now.params
  for path, x in hf.tensors.flatten(before).items():
    assert not np.array_equal(x, np.asarray(hf.tensors.flatten(after)[path])), path


def runs_folder(folder):
  folder.mkdir()
  return folder


def test_a_head_has_a_rate_of_its_own():
  params = {'head': {'kernel': np.ones((2, 2), np.float32)}, 'other': np.ones(2, np.float32)}
  settings = TrainConfig(learning_rate=1e-5, head_learning_rate=1e-3, weight_decay=0.0)
  optimizer = make_optimizer(settings)
  updates, _ = optimizer.update(params, optimizer.init(params), params)
  ratio = jax.tree.leaves(updates['head'])[0].max() / updates['other'].max()
  assert ratio == pytest.approx(100, rel=rounding.tolerance(1))  # of updates of a gradient of ones


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    (dict(method='lamol'), "backbone.head is 'linear', but lamol writes its answers"),
    (dict(scenario='iil'), "'linear', which needs classes and a scenario out of cil, til, dil"),
    (dict(method='distill', scenario='til'), 'needs classes and a scenario out of cil, dil with'),
    (dict(head='cubic'), "backbone.head is 'cubic'; it must be one of '', 'linear', 'cosine'"),
    (dict(pooling='first'), 'first'),
  ],
)
def test_heads_where_they_have_no_meaning_are_refused(change, says):
  with pytest.raises(UserError, match=says):
    experiment.assemble(config(**{'method': 'seq', **change}))


def test_an_encoder_without_a_head_is_refused(tmp_path):
  (tmp_path / 'bert').mkdir()
  model_folder.load_encoder(tmp_path / 'bert', model_folder.golden('bert', 'encoder'))
  made = runs.config('seq', backbone={'path': str(tmp_path / 'bert')})
  with pytest.raises(UserError, match=r'writes no answers; give backbone.head=linear or cosine'):
    experiment.assemble(made)


def test_settings_of_a_head_reach_the_model():
  made = config('seq', head='cosine', pooling='mean')
  shape = experiment.assemble(made).decoder_config
  assert (shape.head, shape.pooling, shape.classes) == ('cosine', 'mean', 8)
