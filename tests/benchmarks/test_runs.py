"""Tiny runs of every workload: they end, their results have the schema, all losses agree."""

import dataclasses
import json
import subprocess
import sys

import pytest
from support import ROOT, slow

from jcl.benchmarks import first_step, ours, request, setting, start, suite, training
from jcl.benchmarks.bench import Bench
from jcl.benchmarks.work import Shown
from jcl.errors import UserError

TINY = request.Request(
  ('step',), rounds=2, batch_size=4, steps=1, learned=1, batches=(4,), lengths=(16,), drawn=4,
  rows=(3,), evaluate_rows=4, held=(50, 200), examples=(40,), block=32, compiled=False,
)  # fmt: skip
CASES = {
  'task': ['task', 'task/samples', 'task/teacher', 'task/steps', 'task/evaluation'],
  'step': ['step', 'step/4x16'],
  'sample': ['sample', 'sample/3'],
  'greedy': ['greedy', 'greedy/3'],
  'fisher': ['fisher'],
  'replay': ['replay', 'replay/50'],
  'snapshot': ['snapshot', 'snapshot/restore'],
  'long': ['long'],
}
START = ['start', 'start/cold', 'start/preflight-40']


@pytest.fixture(scope='module', autouse=True)
def _small():
  """A model of one narrow layer."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setting, 'SMALL', {'width': 16, 'layers': 1, 'heads': 2, 'feed_forward': 16})
    patch.setattr(setting, 'VOCABULARY', 300)
    yield


@pytest.fixture(scope='module')
def made(_small, tmp_path_factory):
  """A setting that tests share."""
  return setting.make(TINY, tmp_path_factory.mktemp('benchmark'))


def check_schema(found, names, contenders=('jcl',)):
  found = json.loads(json.dumps(found))
  assert [case['name'] for case in found['cases']] == names
  for case in found['cases']:
    assert case['seconds'].keys() <= set(contenders)
    assert all(len(times) == TINY.rounds for times in case['seconds'].values())
    assert all(x > 0 for times in case['seconds'].values() for x in times)
  others = set(contenders) - {'jcl'}
  assert all(set(ratios) <= others for ratios in found['ratios'].values())
  assert found['matmul']['all'] > 0
  assert {'jax', 'processor', 'cores'} <= found['machine'].keys()
  assert len(found['clocks']) == 2


@pytest.mark.slow
def test_every_workload_runs_with_jcl_alone():
  asked = dataclasses.replace(TINY, workloads=tuple(CASES))
  check_schema(suite.run(asked, lambda line: None), [n for names in CASES.values() for n in names])


@pytest.mark.slow
def test_a_fresh_process_and_preflight():
  check_schema(suite.run(dataclasses.replace(TINY, workloads=('start',)), lambda line: None), START)


@pytest.mark.parametrize('length', slow.but([8], [8, 16, 33]))
def test_made_up_rows_are_as_long_as_was_asked(made, length):
  bench = Bench(made, [], made.folder, 1.0, lambda line: None)
  new, old = training.made_up(bench, 8, length)
  assert len(new) + len(old) == 8
  assert old
  sizes = [max(len(r.tokens) for r in made.parts.text.rows(e)) for e in [*new, *old]]
  assert max(sizes) <= length
  assert min(sizes) >= min(length // 2 - 1, 5)


@pytest.mark.parametrize('length', [7, 4000])
def test_rows_that_cannot_be_are_refused(made, length):
  bench = Bench(made, [], made.folder, 1.0, lambda line: None)
  with pytest.raises(UserError, match=f'--lengths has {length}; rows of this model have 8 to'):
    training.made_up(bench, 8, length)


class Doctored:
  """A learner whose loss is a little other."""

  def __init__(self, learner):
    self._learner = learner

  def __getattr__(self, name):
    return getattr(self._learner, name)

  def show(self):
    found = self._learner.show()
    return Shown(found.loss * 1.001, found.gradient_norm)


@pytest.mark.slow
def test_a_contender_with_another_loss_stops_the_benchmark(made):
  mine, said = ours.contender(made), []
  doctored = dataclasses.replace(
    mine, name='doctored', learner=lambda lesson: Doctored(mine.learner(lesson))
  )
  bench = Bench(made, [mine, doctored], made.folder, 1.0, said.append)
  for workload in (training.show, training.step):
    with pytest.raises(UserError, match=r'doctored shows the loss .* nothing was timed'):
      workload(bench)
  assert not said  # nothing was timed


@pytest.mark.slow
def test_the_same_contender_twice_has_ratios():
  def choose(made):
    return [ours.contender(made), dataclasses.replace(ours.contender(made), name='twin')]

  asked = dataclasses.replace(TINY, workloads=('step', 'replay'), batches=())
  found = suite.run(asked, lambda line: None, choose)
  check_schema(found, ['step', *CASES['replay']], ('jcl', 'twin'))
  assert found['ratios']['step']['twin'] > 0


def test_torch_loops_show_the_same_loss_with_and_without_a_past(made):
  pytest.importorskip('torch')
  from jcl.benchmarks import torch_loop

  names = ['torch', 'torch-tuned']
  contenders = [ours.contender(made), *(torch_loop.contender(name, made) for name in names)]
  bench = Bench(made, contenders, made.folder, 1.0, lambda line: None)
  for old in (made.past, []):
    lesson = training.lesson(bench, made.task.train, old)
    assert any(row.replay for row in lesson.steps[lesson.shown]) == bool(old)
    with bench.learners(lesson) as learners:  # it compares them
      assert list(learners) == ['jcl', *names]


@pytest.mark.slow
def test_every_workload_runs_against_torch():
  pytest.importorskip('torch')
  asked = dataclasses.replace(TINY, workloads=(*CASES, 'start'), against=('torch', 'torch-tuned'))
  found = suite.run(asked, lambda line: None)
  check_schema(
    found, [*(n for names in CASES.values() for n in names), *START],
    ('jcl', 'torch', 'torch-tuned'),
  )  # fmt: skip
  assert found['ratios'].keys() >= {'task', 'step', 'sample', 'greedy', 'fisher', 'long', 'start'}


def test_the_first_step_of_a_fresh_process_is_that_of_the_job(made):
  bench = Bench(made, [ours.contender(made)], made.folder, 1.0, lambda line: None)
  job = start._job(bench, made.exported(made.parts))
  lesson = setting.lesson(made.parts, made.plan(made.task.train, []), 1, TINY.batch_size, 1)
  assert [row['tokens'] for row in job['rows']] == [r.tokens.tolist() for r in lesson.steps[0]]
  assert 0 < first_step.take(job) < 100


def test_jcl_alone_imports_no_torch():
  code = 'import sys; from jcl.benchmarks import suite; sys.exit("torch" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0
