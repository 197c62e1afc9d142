"""General ability before and after every task: its values, the same after a kill, and refusals."""

import json

import numpy as np
import pytest
from support import runs

from jcl.errors import UserError
from jcl.training import experiment, inputs, probe

SMALL = {'max_tasks': 2, 'max_train_per_task': 20, 'max_test_per_task': 8}
TEXT = 'what will the weather be like\nplease play a song for me in the kitchen tonight\n' * 3


def config(folder, text=TEXT, method='seq', **more):
  (folder / 'probe.txt').write_text(text)
  evaluate = {'probe': str(folder / 'probe.txt')}
  train = {'epochs': 1} | more.pop('train', {})
  return runs.config(method, stream=SMALL, train=train, evaluate=evaluate, **more)


@pytest.mark.slow
def test_before_and_after_every_task(tmp_path):
  """A run that is killed inside of a task and goes on has the same figures, to the bit."""
  made = config(tmp_path)
  with pytest.raises(runs.Killed):
    runs.run(made, tmp_path / 'killed', kill=('train', 1))
  again = runs.run(made, tmp_path / 'killed')['probe']
  whole = runs.run(made, tmp_path / 'whole')
  lines = json.loads((tmp_path / 'whole' / 'results.json').read_text())['probe']
  assert lines == whole['probe'] == again
  first, second, third = lines
  assert [line['task'] for line in lines] == [None, *whole['tasks']]
  assert (first['kl'], first['kl_prompts'], first['kl_next_prompts']) == (0, None, 0)
  assert 0 < first['nats'] < 20
  assert second['kl'] > 0
  assert second['kl_prompts'] > 0
  assert second['kl_next_prompts'] > 0
  assert third['kl_next_prompts'] is None


def test_the_text_in_blocks(tmp_path):
  """Every token but the first of each block is predicted once."""
  parts = experiment.assemble(config(tmp_path))
  ids = parts.text.encode(TEXT.strip())
  starts = len(parts.text.start)
  seen = [token for row in parts.probe for token in row.tokens[starts:].tolist()]
  assert seen == ids
  assert max(len(row.tokens) for row in parts.probe) <= parts.text.max_length
  for row in parts.probe:
    assert np.array_equal(row.tokens[row.targets + 1], row.wanted)
    assert len(row.targets) == len(row.tokens) - 1


def test_another_text_is_no_input_of_the_same_run(tmp_path):
  before = experiment.assemble(config(tmp_path))
  (tmp_path / 'inputs').mkdir()
  inputs.write(tmp_path / 'inputs', before.inputs)
  kept = inputs.read(tmp_path / 'inputs')
  assert inputs.differences(kept, experiment.assemble(config(tmp_path)).inputs) == {}
  now = experiment.assemble(config(tmp_path, TEXT.replace('kitchen', 'please')))
  found = inputs.differences(kept, now.inputs)
  assert list(found) == [inputs.DATA]
  assert found[inputs.DATA].startswith('evaluate.probe: ')
  (line,) = inputs.lines(found, now.config)
  assert str(tmp_path / 'probe.txt') in line


def test_a_text_that_is_trained_on(tmp_path):
  stream = experiment.assemble(config(tmp_path)).stream
  example = stream.tasks[1].train[3]
  with pytest.raises(UserError, match=r'^evaluate\.probe .*: it has words of the training text'):
    experiment.assemble(config(tmp_path, f'something else\n {example.text.upper()} \n'))


def test_thirteen_words_of_a_training_text():
  class One:
    text, answer, called = ' '.join(map(str, range(20))), 'x', 'row 1'

  class Of:
    name, train = 'a', (One,)

  class All:
    tasks = (Of,)

  probe.check_held_out(' '.join(map(str, range(3, 15))), 'f', All)  # twelve
  with pytest.raises(UserError, match=r"^f: it has words of .* of task 'a' \(row 1\): give text"):
    probe.check_held_out('so ' + ' '.join(map(str, range(3, 16))) + ' on', 'f', All)


@pytest.mark.parametrize(
  ('text', 'message'),
  [('', 'the file is empty: give it some text'), ('weather', 'a single token')],
)
def test_a_text_of_nothing(text, message, tmp_path):
  with pytest.raises(UserError, match=rf'evaluate\.probe .*probe\.txt: {message}'):
    experiment.assemble(config(tmp_path, text))


def test_no_file_and_a_head(tmp_path):
  made = config(tmp_path)
  made.evaluate.probe = str(tmp_path / 'none.txt')
  with pytest.raises(UserError, match=r'evaluate\.probe .*none\.txt: cannot be read'):
    experiment.assemble(made)
  with pytest.raises(UserError, match=r'evaluate\.probe .* a model that writes'):
    experiment.assemble(config(tmp_path, backbone={'head': 'linear'}))


@pytest.mark.slow
@pytest.mark.parametrize('method', ['lora', 'lamol', 'expand', 'pretrain', 'ema'])
def test_methods_that_change_the_tree_or_the_text(method, tmp_path):
  """The first model has no adapters, blocks or averages; it is compared all the same."""
  train = {'adapter_learning_rate': 0.1} if method == 'lora' else {}
  lines = runs.run(config(tmp_path, method=method, train=train), tmp_path / 'run')['probe']
  assert len(lines) == 3
  assert abs(lines[0]['kl']) < 1e-5
  assert lines[-1]['kl'] > 1e-4
  prompts = lines[-1]['kl_prompts']
  assert prompts is None if method == 'pretrain' else prompts > 0
