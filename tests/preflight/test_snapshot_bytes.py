"""What a run is said to write and to hold, against what it does."""

import jax
import numpy as np
import pytest
from support import runs, slow

from jcl.methods import Method
from jcl.methods.seq import Seq
from jcl.preflight import checks, cost
from jcl.step import sharding
from jcl.storage import parts as snapshot_parts
from jcl.storage.checkpoint import Snapshots
from jcl.storage.encoding import encode
from jcl.training import experiment
from jcl.training.evaluate import Score


def held(workdir):
  """Bytes of the newest snapshot's arrays, by field, and those of its files."""
  snapshots = Snapshots(workdir, write=False)
  content = snapshots.latest()
  folder = workdir / 'checkpoints' / str(snapshots.number)
  snapshots.close()
  sizes = {}
  for field in ('params', 'optimizer', 'memory'):
    arrays: dict[str, np.ndarray] = {}
    encode(content[field], arrays)
    sizes[field] = sum(x.nbytes for x in arrays.values())
  return sizes, sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())


KEPT = ('replay',)  # the others are slow


@pytest.mark.parametrize(
  'method',
  [
    pytest.param(m, marks=() if m in KEPT else pytest.mark.slow)
    for m in ('seq', 'replay', 'ewc', 'derpp', 'lamol')
  ],
)
def test_a_snapshot_takes_what_is_said(method, tmp_path):
  """Every array of the model, states of a teacher within 3 %; on the disk up to 15 % less."""
  made = runs.config(
    method, train={'epochs': 1, 'batch_size': 8},
    backbone={'width': 96, 'layers': 2, 'feed_forward': 192},
    stream={'max_tasks': 2, 'max_train_per_task': 24, 'max_test_per_task': 4},
  )  # fmt: skip
  if method == 'derpp':
    made.method.buffer_size = 24
  parts = experiment.assemble(made)
  said = checks.checkup(parts).footprint
  assert said.whole
  loop = runs.Loop(parts, tmp_path, quiet=True)
  loop.score = lambda params, task, examples, tools: Score([True] * len(examples), 0.0, [])
  loop.run()
  sizes, disk = held(tmp_path)
  snapshot = said.snapshot
  assert sizes['params'] == snapshot['parameters']
  assert sizes['optimizer'] == snapshot['optimizer']
  assert 0.97 * snapshot['memory'] <= sizes['memory'] <= 1.03 * snapshot['memory']
  settled = snapshot['total'] - snapshot['under_way']
  assert 0.85 * settled <= disk <= settled


def test_what_never_changes_is_on_the_disk_twice(tmp_path, monkeypatch):
  """Bytes of the files of all snapshots at once, of which a linked one counts once."""
  monkeypatch.setattr(snapshot_parts, 'LARGE', 2**13)
  made = runs.config(
    'lora', train={'epochs': 1, 'batch_size': 8},
    backbone={'width': 96, 'layers': 2, 'feed_forward': 384},
    stream={'max_tasks': 2, 'max_train_per_task': 24, 'max_test_per_task': 4},
    checkpoint={'every_steps': 1, 'keep_tasks': True},
  )  # fmt: skip
  parts = experiment.assemble(made)
  said = checks.checkup(parts).footprint
  taken: list[int] = []

  def look(event):
    if event.kind == 'snapshot written':
      files = [p.stat() for p in tmp_path.rglob('*') if p.is_file()]
      taken.append(sum({one.st_ino: one.st_size for one in files}.values()))

  loop = runs.Loop(parts, tmp_path, quiet=True, announce=look)
  loop.score = lambda params, task, examples, tools: Score([True] * len(examples), 0.0, [])
  loop.run()
  base = said.snapshot['parameters']
  assert 0.5 * base < said.still < base
  assert 0.85 * said.disk <= max(taken) <= 1.1 * said.disk


def test_what_grows_with_the_tasks_is_counted_at_its_end():
  """A model a task, all of whose snapshots are kept, and the best parameters inside a task."""
  made = runs.config('single', checkpoint={'keep_tasks': True}, train={'keep_best': True})
  said = checks.checkup(experiment.assemble(made)).footprint
  size = said.snapshot['parameters']
  assert said.snapshot == {
    'parameters': size, 'optimizer': 2 * size + 4, 'memory': 4 * size, 'under_way': size,
    'total': 8 * size + 4,
  }  # fmt: skip
  assert said.kept == sum(3 * size + 4 + (1 + models) * size for models in (1, 2, 3))
  assert said.still == 0
  assert said.disk == 3 * said.snapshot['total'] + said.kept
  assert said.device['memory'] == 3 * size
  carried = runs.config('ewc', train={'optimizer_between_tasks': 'carried'})
  said = checks.checkup(experiment.assemble(carried)).footprint
  assert said.snapshot['under_way'] == size  # the Fisher of the task
  assert said.snapshot['memory'] == said.device['teacher'] == 2 * size + 4
  adam = 3 * size + 4  # two moments and when they began
  assert said.device['start_of_task'] == size + 2 * size + 4 + adam


@pytest.mark.parametrize(
  'method', slow.but(('ewc',), ('seq', 'reptile', 'ewc', 'derpp', 'lora', 'expand'))
)
def test_the_cheap_estimate_is_that_of_the_plan(method):
  """All but the activations, which are compiled for, in the first task."""
  made = runs.config(method, stream={'max_tasks': 1})
  now = cost.outline(made, sharding.make_mesh(1))
  said, compiled = checks.checkup(now.parts).footprint.device, cost.memory(now).values['per_device']
  for part in ('parameters', 'gradients', 'optimizer', 'teacher', 'start_of_task'):
    assert said[part] == compiled[part]


@pytest.mark.parametrize('method', ['replay', 'ewc', 'lora', 'single'])
def test_the_count_leaves_no_tracer_behind(method):
  """Under JAX_CHECK_TRACER_LEAKS, which then ends a run."""
  made = experiment.assemble(runs.config(method, checkpoint={'keep_tasks': True}))
  with jax.checking_leaks():
    assert checks.checkup(made).footprint.snapshot['total'] > 0


def test_logits_that_are_stored_are_counted_with_the_classes():
  made = runs.config('derpp', backbone={'head': 'linear'})
  made.method.targets, made.method.buffer_size = 'stored', 30
  parts = experiment.assemble(made)
  assert (
    checks.checkup(parts).footprint.snapshot['memory'] == 30 * 12 * 4 * 2
  )  # and which are covered


@pytest.mark.parametrize('hook', ['init', 'after_task'])
def test_a_method_that_looks_at_numbers_is_counted_as_far_as_it_goes(hook, tmp_path, monkeypatch):
  look = lambda params: np.asarray(jax.tree.leaves(params)[0])
  hooks = {
    'init': lambda params, stream, tools: {'teacher': {}, 'seen': look(params)},
    'after_task': lambda memory, params, task, tools: (memory | {'seen': look(params)}, params),
  }
  monkeypatch.setattr(Seq, 'build', lambda *_: Method(**{hook: hooks[hook]}))
  made = experiment.assemble(runs.config('seq'))
  said = checks.checkup(made).footprint
  assert not said.whole
  size = said.snapshot['parameters']
  assert said.snapshot['total'] == size + 2 * size + 4
  assert said.device['total'] == 5 * size + 4
  assert 'snapshots take at least' in checks.opening(checks.checkup(made), tmp_path)[2]
