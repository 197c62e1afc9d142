"""The record of a run: seconds by kind, resumes, the digest of the parameters."""

import dataclasses

import numpy as np
import pytest
from support import runs

from jcl.config import StreamConfig
from jcl.streams import Stream, load
from jcl.training import recorder
from jcl.training.experiment import assemble
from jcl.training.model_digest import digest
from jcl.training.recorder import Clock, Recorder


@pytest.fixture
def clock(monkeypatch):
  """-> a clock, [seconds], and a list with the seconds that were spent in compilation."""
  now, compiled = [0.0], [0.0]
  monkeypatch.setattr(recorder.time, 'monotonic', lambda: now[0])
  made = Clock()

  def passed(seconds, compiling=0.0):
    now[0] += seconds
    compiled[0] += compiling
    monkeypatch.setattr(recorder, '_compiled', compiled[0])

  monkeypatch.setattr(recorder, '_compiled', 0.0)
  return made, passed


def test_work_inside_work_counts_as_the_inner_kind_and_compilation_as_its_own(clock):
  made, passed = clock
  with made.of('train'):
    passed(5.0, compiling=2.0)
    with made.of('memory'):
      passed(3.0)
    passed(1.0)
  passed(100.0)
  assert made.seconds == {
    'train': 4.0, 'generate': 0.0, 'evaluate': 0.0, 'memory': 3.0, 'compile': 2.0
  }  # fmt: skip


def test_generation_in_an_evaluation_is_evaluation(clock):
  made, passed = clock
  with made.of('evaluate'), made.of('generate'):
    passed(2.0)
  assert made.seconds['evaluate'] == 2.0
  assert made.seconds['generate'] == 0.0


def test_a_resume_says_where_it_goes_on():
  record = Recorder(assemble(runs.config('seq', stream={'max_tasks': 2})))
  at = lambda phase, step=0: record.resume(phase, step, 7, (3, 4))
  assert at(0) == {
    'phase': 'init', 'task': None, 'step': 0, 'from_snapshot': 7, 'steps_repeated': 3,
    'chunks_repeated': 4,
  }  # fmt: skip
  assert [(at(p)['phase'], at(p)['task']) for p in range(1, 7)] == [
    ('evaluate', None), ('before_task', 0), ('train', 0), ('after_task', 0), ('evaluate', 0),
    ('before_task', 1),
  ]  # fmt: skip
  assert at(3, step=9)['step'] == 9
  assert at(4, step=9)['step'] == 0  # steps are those of training


def test_the_digest_sees_names_shapes_and_the_last_bit():
  one = {'a': np.ones((2, 3), np.float32), 'b': np.zeros(2, np.float32)}
  assert digest(one) == digest({'b': one['b'], 'a': one['a']})
  nudged = {**one, 'a': one['a'].copy()}
  nudged['a'][0, 0] = np.nextafter(np.float32(1), np.float32(2))
  others = [nudged, {**one, 'a': one['a'].reshape(3, 2)}, {'a': one['a'], 'c': one['b']}]
  assert len({digest(one), *map(digest, others)}) == 4


def test_an_example_that_flipped_can_be_found():
  """Named by task, split, number, id and place, with its text; no control character is left."""
  made = lambda split: {
    task: [
      {'text': f'{task} \x1b[31m{i} ' + 'long ' * 40, 'label': f'{task}_{i % 2}',
       'id': f'{split} {task}{i}'}
      for i in range(8)
    ]
    for task in ('red', 'blue')
  }  # fmt: skip
  stream = Stream.from_rows(made('train'), test=made('test'), overlap='keep', id='id')
  config = runs.config('seq')
  config.stream = dataclasses.replace(stream.settings, overlap='keep')
  record = Recorder(assemble(config, stream=stream))
  whole = [True] * 8
  record._state |= {
    'right': {0: whole, 1: whole}, 'last': {0: [i != 3 for i in range(8)], 1: whole}
  }  # fmt: skip
  flips = record._flips()
  assert (flips['count'], flips['of']) == (1, 16)
  (found,) = flips['examples']
  example = stream.tasks[0].test[3]
  assert found == {
    'task': 'red', 'split': 'test', 'number': example.number, 'id': 'test red3',
    'place': 'red/test[3]', 'text': found['text'], 'answer': 'red_1', 'answered': None,
  }  # fmt: skip
  assert found['text'].startswith('red \\x1b[31m3 long')
  assert len(found['text']) == 80
  assert stream.example((0, found['number'])) is example


def test_every_row_of_the_synthetic_stream_has_a_name_of_its_own():
  stream = load(StreamConfig())
  assert len({e.name for e in stream.examples}) == len(stream.examples)
