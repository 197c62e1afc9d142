"""A run without a workdir: the same numbers, nothing on the disk, callbacks that see it all."""

import jax
import numpy as np
import pytest
from support import runs

from jcl import learning
from jcl.storage.in_memory import MemoryLog, NoSnapshots
from jcl.training import run_output, task_trainer
from jcl.training.experiment import assemble
from jcl.training.run_state import Run
from jcl.training.step_inputs import outline_on_devices, place_on_devices, step_inputs


class Watcher:
  """Keeps what a run tells it."""

  def __init__(self):
    self.steps, self.rows, self.tasks, self.starts, self.ends = [], [], [], [], []
    self.on_start, self.on_end = self.starts.append, self.ends.append
    self.on_step, self.on_evaluation = self.steps.append, self.rows.append
    self.on_task = self.tasks.append


@pytest.fixture(scope='module')
def both(tmp_path_factory):
  """-> a run in memory with a watcher, and the same run in a folder."""
  made = runs.config('replay', stream={'max_tasks': 2}, evaluate={'every_epochs': 1})
  watcher = Watcher()
  finished = learning.run(made, None, quiet=True, callbacks=[watcher])
  folder = tmp_path_factory.mktemp('run') / 'run'
  return finished, watcher, learning.run(made, folder, quiet=True), folder


def test_it_ends_in_the_same_bits_as_a_run_in_a_folder(both):
  finished, _, other, _ = both
  for key in ('params_sha256', 'matrix', 'metrics', 'mix', 'buffer'):
    assert finished.results[key] == other.results[key], key
  assert finished.results['finished']
  assert finished.results['resumes'] == []


def test_it_leaves_parameters_and_memory(both):
  finished, _, other, _ = both
  for one, two in zip(
    jax.tree.leaves(finished.last.params), jax.tree.leaves(other.last.params), strict=True
  ):
    np.testing.assert_array_equal(one, two)
  assert finished.last.memory['buffer']['examples'] == other.last.memory['buffer']['examples']


def test_callbacks_see_every_logged_step_every_score_and_every_task(both):
  _, watcher, other, folder = both
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  assert len(watcher.steps) + len([r for r in watcher.rows if r['split'] == 'dev']) == len(lines)
  assert [(s['task'], s['step']) for s in watcher.steps][:2] == [(0, 1), (0, 2)]
  assert all(np.isfinite(s['loss']) for s in watcher.steps)
  tests = [row for row in watcher.rows if row['split'] == 'test']
  names = other.results['tasks']
  assert [row['task'] for row in tests] == [None, *names]
  assert [list(row['scores'].values()) for row in tests] == [
    [x for x in row if x is not None] for row in other.results['matrix']
  ]
  assert [len(done['matrix']) for done in watcher.tasks] == [3, 3]
  assert [done['finished'] for done in watcher.tasks] == [False, True]


def test_callbacks_are_told_where_in_the_run_it_is(both):
  finished, watcher, _, _ = both
  (start,) = watcher.starts
  assert (start['run_step'], start['tasks_done'], start['resumed']) == (0, 0, False)
  assert start['tasks'] == finished.results['tasks']
  assert start['config'] == finished.results['config']
  assert watcher.ends == [True]
  assert [line['run_step'] for line in watcher.steps] == list(range(1, len(watcher.steps) + 1))
  last = max(line['step'] for line in watcher.steps if line['task'] == 0)
  tests = [row for row in watcher.rows if row['split'] == 'test']
  wanted = [(0, 0), (last, 1), (len(watcher.steps), 2)]
  assert [(row['run_step'], row['tasks_done']) for row in tests] == wanted
  dev = [(row['run_step'], row['tasks_done']) for row in watcher.rows if row['split'] == 'dev']
  assert dev[-1] == (len(watcher.steps), 1)


def test_a_callback_needs_only_the_methods_it_wants():
  class Nothing:
    pass

  output = run_output.RunOutput(None, None, None, MemoryLog(), NoSnapshots(), [Nothing()], True)
  output.step({'step': 1})
  assert output.log.lines == [{'step': 1}]
  assert 'no workdir' in output.last_good_snapshot()


def test_the_step_gets_copies_of_what_it_gives_up_and_shapes_where_nothing_runs():
  made = runs.config('ewc', stream={'max_tasks': 2})
  parts = assemble(made)
  params = jax.device_get(parts.initial_params())
  params = jax.tree.map(jax.numpy.asarray, params)
  task = parts.stream.tasks[0]
  plan = parts.method.plan({'teacher': {}}, task)
  start = parts.optimizer().init
  given = parts, params, {'anchor': params}, plan
  real = step_inputs(*given, place_on_devices(parts), start, step=3)
  pointers = lambda tree: {x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)}
  assert not pointers(real.state['params']) & pointers(params)
  assert int(real.state['step']) == 3
  outlined = step_inputs(*given, outline_on_devices(parts), lambda p: jax.eval_shape(start, p))
  shape = lambda tree: jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)
  assert shape(outlined.state) == shape(real.state)
  assert shape(outlined.fixed) == shape(real.fixed)
  assert real.weights == outlined.weights


def test_what_is_due_between_two_steps_is_what_the_settings_say():
  made = runs.config('seq', evaluate={'every_steps': 3, 'every_epochs': 2})
  made.train.keep_best = True
  loop = runs.Loop(assemble(made), None, quiet=True)
  loaded = lambda number, epoch=0, ends=False, last=False: task_trainer.LoadedBatch(
    number, None, 0, 0, 0, 0, (), epoch, ends, last
  )
  due = loop.trainer._due
  assert due(loaded(0)) == (False, False, False)
  assert due(loaded(2)) == (False, True, False)
  assert due(loaded(3, epoch=0, ends=True)) == (False, False, True)
  assert due(loaded(4, epoch=1, ends=True)) == (False, True, True)
  assert due(loaded(6, last=True)) == (False, False, True)
  assert isinstance(loop.last, Run | None)
