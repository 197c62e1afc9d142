"""Sinks are told every metric once, also of a run that was killed, and never end a run."""

import json
import re

import pytest
from support import ROOT
from support.told import events, tell

import jcl
from jcl import sinks
from jcl.errors import UserError
from jcl.sinks import metrics, sink
from jcl.training.callbacks import EVENTS, Callbacks


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
  """Pictures are not drawn here."""
  monkeypatch.setattr(sink, 'heat_map_png', lambda results: b'\x89PNG')


class Kept(jcl.Sink):
  """Keeps what it is told."""

  name = 'kept'

  def __init__(self):
    super().__init__()
    self.runs, self.written, self.pictures, self.ends = [], [], [], []

  def open(self, run, settings, note):
    self.runs.append((run, settings, note))

  def write(self, values, axis, at):
    self.written.append((dict(values), axis, at))

  def picture(self, name, png, at):
    assert png.startswith(b'\x89PNG')
    self.pictures.append((name, at))

  def flush(self):
    return {'length': len(self.written)}

  def close(self, finished):
    self.ends.append(finished)


def test_every_metric_is_written_at_its_place(tmp_path):
  one = Kept()
  tell(one, events(str(tmp_path)))
  (run, settings, note), *more = one.runs
  assert not more
  assert (run['name'], run['method'], note) == (tmp_path.name, 'seq', {})
  assert settings == {'train.epochs': 2, 'train.trainable': "('a', 'b')"}
  first, step, speed, *_ = one.written
  assert first == ({'test/bank': 0.0, 'test/travel': 0.1}, 'tasks', 0)
  terms = {'train/rate': 0.1, 'train/loss': 1.5, 'train/ce': 1.25, 'train/gradient_norm': 2.0}
  assert step == (terms, 'run_step', 1)
  assert speed == ({'speed/seconds_per_step': 0.5, 'speed/tokens_per_second': 9.0}, 'run_step', 1)
  assert ({'gradient/ce': 0.5, 'gradient/ewc': 0.25}, 'run_step', 4) in one.written
  assert ({'dev/bank': 0.5}, 'run_step', 4) in one.written
  last = {'metrics/forgetting': 0.6, 'seconds/train': 2.0, 'tokens/train': 18.0, 'pseudo/kept': 5.0}
  assert one.written[-1] == (last, 'tasks', 2)
  assert one.pictures == [('matrix', 1), ('matrix', 2)]
  assert one.ends == [True]


@pytest.mark.parametrize('killed', range(2, 17))
def test_a_resumed_run_goes_on_in_its_run_and_repeats_nothing(killed, tmp_path):
  """A run is killed after any event; it goes back to its beginning or to its last lines."""
  whole = Kept()
  tell(whole, events(None))
  (tmp_path / 'run').mkdir()
  every = events(str(tmp_path / 'run'))
  dying = Kept()
  tell(dying, every[:killed])
  for back in (1, max(killed - 3, 1)):
    again = Kept()
    tell(again, [events(str(tmp_path / 'run'), resumed=True)[0], *every[back:]])
    assert dying.written + again.written == whole.written
    assert again.runs[0][0]['id'] == dying.runs[0][0]['id']
    assert again.runs[0][2] == {'length': len(dying.written)}
    path = tmp_path / 'run' / 'sinks' / 'kept.json'
    note = json.loads(path.read_text())
    note |= {'told': list(dying._told), 'own': {'length': len(dying.written)}}
    path.write_text(json.dumps(note))  # as the kill left it


def test_a_run_that_begins_again_is_another_one(tmp_path):
  first, second = Kept(), Kept()
  tell(first, events(str(tmp_path)))
  tell(second, events(str(tmp_path)))
  assert first.runs[0][0]['id'] != second.runs[0][0]['id']
  assert second.written == first.written


def test_without_a_workdir_nothing_is_noted(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  one = Kept()
  tell(one, events(None))
  assert one.runs[0][0]['name'] == 'seq-synthetic'
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('broken', ['open', 'write', 'picture', 'flush', 'close'])
def test_a_sink_that_fails_is_left_out_with_a_warning(broken, tmp_path):
  one, other, said = Kept(), Kept(), []

  def fails(*given):
    raise RuntimeError('no\nroom')

  setattr(one, broken, fails)
  listeners = Callbacks([one, other], said.append)
  for event, value in events(str(tmp_path)):
    listeners.tell(event, value)
  assert said == ['warning: kept: RuntimeError: no room; the run goes on without it']
  assert len(other.written) == 16
  assert other.ends == [True]


def test_what_another_callback_raises_ends_the_run():
  class Mine:
    def on_step(self, line):
      raise ValueError('mine')

  with pytest.raises(ValueError, match='mine'):
    Callbacks([Mine()], print).tell('on_step', {})


@pytest.mark.parametrize('name', sinks.BUILT_IN)
def test_a_missing_package_is_named_with_its_extra(name, tmp_path, monkeypatch):
  packages = {'tensorboard': 'tensorboardX'}
  monkeypatch.setitem(__import__('sys').modules, packages.get(name, name), None)
  (one,), said = sinks.named([name]), []
  listeners = Callbacks([one], said.append)
  for event, value in events(str(tmp_path)):
    listeners.tell(event, value)
  (line,) = said
  assert line.startswith(f'warning: the package {packages.get(name, name)} cannot be imported')
  assert line.endswith(f"pip install 'jcl[{name}]'; the run goes on without it")


def test_names_of_sinks():
  assert [type(one).__name__ for one in sinks.named(['wandb', 'trackio'])] == ['WandB', 'Trackio']
  with pytest.raises(
    UserError, match="--sinks: nothing is called 'tensorbord'; did you mean tensorb"
  ):
    sinks.named(['tensorbord'])
  with pytest.raises(UserError, match='--sinks: json:dumps is no sink; give a class that inherits'):
    sinks.named(['json:dumps'])


def test_every_metric_has_a_unit():
  assert metrics.unit('train/loss', 'accuracy').startswith('the objective')
  assert metrics.unit('train/ewc', 'accuracy').startswith('nats per target')
  assert metrics.unit('test/bank', 'accuracy') == 'accuracy, a share from 0 to 1'
  assert metrics.unit('dev/bank', 'log_perplexity') == 'minus nats per token'
  assert metrics.unit('else/x', 'accuracy') == ''
  kept = Kept()
  tell(kept, events(None))
  names = {name for values, _, _ in kept.written for name in values}
  assert all(map(kept.unit, names))


def test_every_metric_and_its_unit_is_documented():
  page = (ROOT / 'docs' / 'extending.md').read_text().split('\n| metric | unit |\n')[1]
  rows = [line.strip('| ').split(' | ') for line in page.split('\n\n')[0].splitlines()[1:]]
  found = {
    f'{name.partition("/")[0]}/*' if name.rpartition('/')[2].isupper() else name: unit
    for names, unit in rows
    for name in re.findall('`(.+?)`', names)
  }
  score = 'that of the matrix'
  assert found == {k: score if v == metrics.SCORE else v for k, v in metrics.UNITS.items()}


def test_every_event_is_documented():
  page = (ROOT / 'docs' / 'extending.md').read_text().split('\n| method | told | when |\n')[1]
  rows = page.split('\n\n')[0].splitlines()[1:]
  assert [re.findall('`(.+?)`', row)[0] for row in rows] == list(EVENTS)
  told = dict(events(None))
  for row, event in zip(rows, EVENTS[:1], strict=False):
    assert set(re.findall('`(.+?)`', row)[1:]) == set(told[event])


def test_a_doubtful_loss_is_no_metric_and_a_refused_step_is():
  assert metrics.of_step({'task': 0, 'step': 3, 'doubtful': {'ce': 99.0}, 'uniform': 3.0}) == {}
  assert metrics.of_step({'task': 0, 'step': 3, 'refused': ['ce', 'loss'], 'rows': []}) == {
    'train/refused': 2.0
  }


def test_the_package_of_a_sink_is_imported():
  assert sink.package('json', 'x') is json
