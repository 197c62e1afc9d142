"""Runs killed by SIGKILL at events of every kind end as the one that was left alone, to the bit."""

import functools
import json
from concurrent import futures

import numpy as np
import pytest
from support import kills, slow

from jcl import methods

# Of these runs an event each in the default suite; `slow` has all methods.
FEW = {
  'seq': ('train step',),
  'lamol': ('before_task chunk', 'snapshot written'),
  'ewc': ('train step', 'after_task chunk'),
}
# Events that are the loop's, whatever the method: each method is killed at one, in turn.
TURNS = (
  'dev evaluation', 'snapshot begun', 'evaluate chunk', 'snapshot written', 'task done',
  'snapshot committed',
)  # fmt: skip
OWN = {
  'lamol': {'before_task chunk'}, 'lamol_kd': {'before_task chunk'}, 'ewc': {'after_task chunk'},
  'closed_form': {'after_task chunk'}, 'l2kd': {'before_task chunk'},
  'mas': {'after_task chunk'}, 'sdft': {'dev evaluation'},  # a chunk within the training of a task
}  # fmt: skip


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """Method -> the workdir of a run that nobody kills, and its events; each is run once."""
  root = tmp_path_factory.mktemp('alone')

  @functools.cache
  def run(method):
    return root / method, kills.whole(kills.config(method), root / method)

  return run


def checked(made, killed, reference):
  """Returns the work that was done twice, where all is well."""
  repeated = kills.check_repeats(killed, made)
  kills.check_same(killed, reference)
  return repeated


def killed_in_turn(made, root, reference, life, only=()):
  """One run, killed at an event of each kind in turn -> the kinds."""
  chosen = kills.chosen(life, np.random.default_rng(len(methods.name_of(made.method))))
  places = {kind: event for kind, event in chosen.items() if kind in only or not only}
  for event in places.values():
    assert kills.start(made, root / 'killed', event) < 0
  assert kills.start(made, root / 'killed') == 0
  repeated = checked(made, root / 'killed', reference)
  assert len(repeated) >= len(places) - 1  # killed at its very end, a run has nothing more to do
  resumes = json.loads((root / 'killed' / 'results.json').read_text())['resumes']
  assert [(r['steps_repeated'], r['chunks_repeated']) for r in resumes] == repeated[-len(resumes) :]
  assert len(resumes) >= len(places) - 1  # before the first snapshot there is nothing to go on from
  return set(places)


@pytest.mark.parametrize('method', slow.but(['seq'], FEW))
def test_a_killed_run_ends_in_the_same_bits(method, alone, tmp_path):
  made = kills.config(method)
  assert killed_in_turn(made, tmp_path, *alone(method), FEW[method]) == set(FEW[method])


def left_alone_and_killed(method, root, variant, turn):
  """A run with some of the settings of `kills.variants` -> the kinds of events that it survived.

  It is killed at a training step, at what it does between tasks, and at `turn`.
  """
  made = kills.config(method, **variant)
  root.mkdir()
  life = kills.whole(made, root / 'alone')
  others = {kills.kind(event) for event in life} - set(TURNS)
  return killed_in_turn(made, root, root / 'alone', life, {*others, turn})


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  """Method -> the kinds of events at which it was killed, two methods at a time, variants too."""
  root = tmp_path_factory.mktemp('table')
  with futures.ThreadPoolExecutor(2) as pool:
    found = {}
    for number, name in enumerate(methods.BUILT_IN):
      variants = kills.variants(name)
      turns = TURNS if methods.settings(name).takes_steps else TURNS[1:]  # it has no dev scores
      variant, turn = variants[number % len(variants)], turns[number % len(turns)]
      if name == 'sdft':  # it draws rows before an epoch, and dev scores are taken there, too
        turn = 'dev evaluation'
      found[name] = pool.submit(left_alone_and_killed, name, root / name, variant, turn)
  return found


@pytest.mark.slow
@pytest.mark.parametrize('method', list(methods.BUILT_IN))
def test_every_method_survives_kills(method, table):
  survived = table[method].result()
  steps = {'train step'} if methods.settings(method).takes_steps else set()
  assert survived >= steps | OWN.get(method, set())
  assert len(survived & set(TURNS)) == 1


@pytest.mark.slow
def test_a_choice_of_the_state_and_an_adaptation_survive_kills(tmp_path):
  made = kills.config('closed_form', backbone={'layers': 3})
  made.method.choose_state, made.method.adapt = True, 'lora'
  made.train.speed_every = 0  # such lines have times
  life = kills.whole(made, tmp_path / 'alone')
  own = {'before_task chunk', 'train step', 'after_task chunk'}
  assert killed_in_turn(made, tmp_path, tmp_path / 'alone', life, own) == own


@pytest.mark.parametrize(
  ('mutant', 'red'),
  [
    ('ignores_its_snapshots', 'steps done twice'),
    ('forgets_the_journal', 'ended at|differs'),
  ],
)
@pytest.mark.slow
def test_a_loop_that_goes_back_too_far_is_noticed(mutant, red, alone, tmp_path):
  made = kills.config('lamol')
  reference, life = alone('lamol')
  event = [e for e in life if kills.kind(e) == 'before_task chunk'][-1]
  assert kills.start(made, tmp_path / 'killed', event) < 0
  kills.start(made, tmp_path / 'killed', mutant=mutant)
  with pytest.raises(AssertionError, match=red):
    checked(made, tmp_path / 'killed', reference)


def test_differences_are_found():
  one = {'a': np.zeros(3), 'b': [1, (2.5, 'x')], 'c': None}
  assert kills.same(one, {'a': np.zeros(3), 'b': [1, (2.5, 'x')], 'c': None}) == []
  assert kills.same(one, one | {'a': -np.zeros(3)}) == ['/a']
  assert kills.same(one, one | {'a': np.zeros(3, np.float32)}) == ['/a']
  assert kills.same(one, one | {'b': [1, (2.5, 'y')]}) == ['/b/1/1']
  assert kills.same(one, one | {'b': [1]}) == ['/b length']
  assert kills.same(one, {'a': np.zeros(3), 'b': 1}) == [' keys']
