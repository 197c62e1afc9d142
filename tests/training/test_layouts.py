"""A run goes on with other devices, another layout and other chunks: the same within rounding."""

import itertools
import json

import chex
import jax
import numpy as np
import pytest
from support import rounding, runs
from support.launchers import forks

from jcl import distributed
from jcl.storage.checkpoint import Snapshots
from jcl.trained_run import TrainedRun
from jcl.training import experiment
from jcl.training.folds import Journal

# Sums over devices are taken in another order, in each of ten steps at a rate of 1e-2. The memory
# holds squares of gradients. A state lost on the way is off by 1e-2.
ROUNDING = rounding.trained(10, 1e-2, terms=64, depth=rounding.layers(1, gradient=True))
SHARDED = {'train.fsdp': True}
HALVES = {'train.fsdp': True, 'train.microbatches': 2}
WHOLE = {'train.fsdp': False, 'train.microbatches': 1}
# (devices, from, to, what changes, step after which it dies), in this order.
CELLS = [
  (8, '', 'whole', {}, 0),
  (8, '', 'cut', {}, 1),
  (8, 'cut', 'sharded', SHARDED, 0),
  (1, 'cut', 'one', {'evaluate.batch_size': 10}, 0),
]
# There and back again.
MORE = [
  (1, 'cut', 'one cut', {}, 3),
  (2, 'cut', 'two sharded', HALVES, 3),
  (8, 'one cut', 'eight again', SHARDED, 0),
  (8, 'two sharded', 'back', WHOLE, 0),
]


def run_cells(root, cells):
  """Runs cells, neighbours with as many devices in one process -> what each said."""
  said = {}
  for devices, group in itertools.groupby(cells, key=lambda cell: cell[0]):
    asked = [
      dict(method='ewc', source=source, to=to, changes=changes, cut=cut, allowed=WHOLE)
      for _, source, to, changes, cut in group
    ]
    given = [str(root), *map(json.dumps, asked)]
    done = forks().module('support.layouts', *given, devices=devices, limit=400)
    assert done.status == 0, done.err[-3000:]
    for cell, line in zip(asked, done.out.splitlines(), strict=True):
      said[cell['to']] = json.loads(line)
  return said


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The workdirs of `CELLS`, and what each run said in `said.json`."""
  root = tmp_path_factory.mktemp('ewc')
  (root / 'said.json').write_text(json.dumps(run_cells(root, CELLS)))
  return root


@pytest.fixture(scope='module')
def and_back(folder):
  """The same folder with the workdirs of `MORE`."""
  (folder / 'more.json').write_text(json.dumps(run_cells(folder, MORE)))
  return folder


def ended(folder, name):
  """Parameters and memory at the end of a run."""
  found = Snapshots(folder / name, write=False).latest()
  assert found['done'] == 10
  return {'params': found['params'], 'memory': found['memory']}


def to_their_end(cells):
  return [to for _, source, to, _, cut in cells if source and not cut]


@pytest.mark.slow
@pytest.mark.parametrize('name', to_their_end(CELLS))
def test_a_run_ends_where_the_uninterrupted_one_does_within_rounding(folder, name):
  ends_alike(folder, name)


@pytest.mark.slow
@pytest.mark.parametrize('name', to_their_end(MORE))
def test_a_run_that_moves_twice_ends_where_the_uninterrupted_one_does(and_back, name):
  ends_alike(and_back, name)


def ends_alike(folder, name):
  wanted, found = ended(folder, 'whole'), ended(folder, name)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for (path, one), other in zip(
    jax.tree.leaves_with_path(wanted), jax.tree.leaves(found), strict=True
  ):
    if np.asarray(one).dtype.kind == 'f':
      largest = max(1, np.abs(one).max())
      assert np.abs(other - one).max() <= ROUNDING * largest, jax.tree_util.keystr(path)
    else:
      assert np.array_equal(other, one), jax.tree_util.keystr(path)
  results = json.loads((folder / name / 'results.json').read_text())
  assert results['finished']
  assert {r['steps_repeated'] for r in results['resumes']} == {0}
  assert {r['phase'] for r in results['resumes']} == {'train'}
  log = lines(folder, name)
  steps = [(x['task'], x['step']) for x in log if 'loss' in x]
  assert steps == [(t, s) for t in (0, 1) for s in range(1, 6)]
  norms = [x for x in log if 'gradient_norms' in x]
  assert [(x['task'], x['step']) for x in norms] == [(1, 2), (1, 4), (1, 5)]
  for line, one in zip(
    norms, (x for x in lines(folder, 'whole') if 'gradient_norms' in x), strict=True
  ):
    # The penalty pulls by how far parameters have moved: a share of at least one step of 1e-2.
    assert line['gradient_norms'] == pytest.approx(one['gradient_norms'], rel=ROUNDING / 1e-2)


def lines(folder, name):
  """The lines of metrics.jsonl."""
  return [json.loads(x) for x in (folder / name / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_it_says_that_it_is_within_rounding(folder):
  said = json.loads((folder / 'said.json').read_text())
  check_said(CELLS, said)
  assert any('within rounding' in x for x in said['sharded'])  # the same devices, another layout


@pytest.mark.slow
def test_it_says_so_each_time(and_back):
  check_said(MORE, json.loads((and_back / 'more.json').read_text()))


def check_said(cells, said):
  for devices, source, to, changes, _ in cells:
    lines = said[to]
    if not source:
      assert not any('rounding' in line for line in lines)
      continue
    moved = [x for x in lines if 'it goes on within rounding, not bit for bit' in x]
    came_from = {'cut': 8, 'one cut': 1, 'two sharded': 2}[source]
    assert len(moved) == (came_from != devices), to
    for field, value in changes.items():
      assert any(x.startswith(f'changed: {field} was') and f'is {value}, from' in x for x in lines)


# Another machine, another snapshot.


@pytest.fixture
def finished(tmp_path):
  """-> the config and the workdir of a run of one task."""
  made = runs.config('seq', stream={'max_tasks': 1}, train={'epochs': 1})
  runs.run(made, tmp_path)
  return made, tmp_path


def test_a_snapshot_of_another_jax_is_gone_on_from_and_it_is_said(finished, monkeypatch):
  made, workdir = finished
  loop = runs.Loop(experiment.assemble(made), workdir, quiet=True)
  lines = []
  monkeypatch.setattr(loop.output, 'say', lines.append)
  older = {**distributed.machine(loop.tools.mesh), 'jax': '0.0.1'}
  monkeypatch.setattr(distributed, 'machine', lambda mesh: older)
  loop.output.snapshots = Snapshots(workdir)
  loop._save(loop._start())
  loop.output.snapshots.wait()
  lines.clear()
  monkeypatch.undo()
  again = runs.Loop(experiment.assemble(made), workdir, quiet=True)
  monkeypatch.setattr(again.output, 'say', lines.append)
  assert again.run()['finished']
  said = next(line for line in lines if 'within rounding' in line)
  assert "'jax': '0.0.1'" in said
  assert f"'jax': '{jax.__version__}'" in said


def test_a_run_that_is_opened_again_says_which_snapshot_it_could_not_use(finished, capsys):
  made, workdir = finished
  (workdir / 'checkpoints' / '1' / '0' / 'small' / '_METADATA').unlink()
  assert TrainedRun(made, workdir).now.done == 2
  said, *more = capsys.readouterr().err.splitlines()
  assert (
    said == 'snapshot 1 cannot be used (0/small/_METADATA is missing): going back to the one before'
  )
  assert [line[:30] for line in more] == ['note: this run is not finished']
  assert (workdir / 'checkpoints' / '1').is_dir()


# Chunks.


def parts(batch_size):
  return experiment.assemble(runs.config('ewc', evaluate={'batch_size': batch_size}))


def square(params, batch):
  return {'w': params['w'] * batch.target_token.sum()}


def tokens(params, batch):
  return batch.target_token.astype(float) + params['w'][0]


class Enough(Exception):
  pass


def stop_after(tools, chunks):
  def on_chunk(name, done, total):
    if done == chunks:
      raise Enough

  tools.folds.on_chunk = on_chunk


@pytest.mark.parametrize('work', ['mean', 'map'])
@pytest.mark.parametrize('sizes', [(16, 12), (12, 16), (4, 3)])
def test_a_fold_that_was_cut_into_other_chunks_begins_anew(work, sizes):
  """On other devices, or with another batch size, its carry is of other rows."""
  params = {'w': np.ones(3, np.float32)}

  def do(tools, examples):
    if work == 'mean':
      return tools.mean_examples(square, params, examples)
    return tools.map_targets(tokens, params, [r for rows in tools.rows(examples) for r in rows])

  before, after = (parts(size).tools for size in sizes)
  examples = before.stream.tasks[0].train[:21]
  wanted = do(before, examples)
  before.folds.journal = Journal()
  stop_after(before, 1)
  with pytest.raises(Enough):
    do(before, examples)
  after.folds.journal = Journal([list(entry) for entry in before.folds.journal.entries])
  chex.assert_trees_all_equal(do(after, examples), wanted)


def test_a_fold_that_was_finished_answers_whatever_the_chunks():
  params = {'w': np.ones(3, np.float32)}
  before, after = (parts(size).tools for size in (16, 4))
  examples = before.stream.tasks[0].train[:21]
  wanted = before.mean_examples(square, params, examples)
  after.folds.journal = Journal([list(entry) for entry in before.folds.journal.entries])
  stop_after(after, 1)  # no chunk is computed
  chex.assert_trees_all_equal(after.mean_examples(square, params, examples), wanted)


def test_what_a_snapshot_holds_of_a_fold_stays_as_it_was():
  """A fold fills its arrays in place while the snapshot is being written."""
  params = {'w': np.ones(3, np.float32)}
  tools = parts(4).tools
  rows = [r for rows in tools.rows(tools.stream.tasks[0].train[:21]) for r in rows]
  held = []
  tools.folds.on_chunk = lambda name, done, chunks: held.append(tools.folds.journal.copied())
  wanted = np.concatenate(tools.map_targets(tokens, params, rows))
  assert len(held) > 2
  for done, ((_, count, carry, *_),) in enumerate(held, 1):
    assert count == done
    assert (carry != 0).any()
    assert np.array_equal(carry, wanted) == (done == len(held))
