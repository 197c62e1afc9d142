"""Own answers: what is refused, and a small run; which rows replay is a column of the scorecard."""

import pytest
from support import runs, tiny

import jcl
from jcl import methods
from jcl.errors import UserError
from jcl.memory import own_answers
from jcl.training import experiment


@pytest.mark.parametrize(
  ('name', 'given', 'says'),
  [
    (
      'replay',
      {'answers': 'own', 'update': 'every_epoch'},
      r"method\.answers is 'own'; it must be",
    ),
    ('derpp', {'answers': 'own'}, r"method\.answers is 'own'; it must be one of 'stored'"),
    ('replay', {'keep': 'all'}, r"method\.keep .*answers 'own'"),
    ('replay', {'answers': 'own', 'top_k': 3}, r'method\.top_k .*temperature'),
    ('replay', {'answers': 'own', 'least_log_probability': -1.0}, r'least_log_.*confident'),
    ('replay', {'answers': 'own', 'keep': 'confident', 'least_log_probability': 0.5}, 'at most 0'),
  ],
)
def test_what_own_answers_cannot_have_is_refused(name, given, says):
  made = runs.config(name)
  for field, value in given.items():
    setattr(made.method, field, value)
  with pytest.raises(UserError, match=says) as error:
    experiment.check(made)
  assert '\n' not in str(error.value)


def test_own_answers_of_a_head_or_to_raw_text_are_refused():
  made = runs.config('replay', backbone={'head': 'linear'})
  made.method.answers = 'own'
  with pytest.raises(UserError, match=r"method\.answers .*backbone\.head ''"):
    experiment.check(made)
  with pytest.raises(UserError, match=r"method\.answers is 'own'; it must be 'stored' with raw"):
    methods.settings_class('replay')(answers='own').check_run('cpt', tiny.tools('plain'))


@pytest.mark.slow
def test_a_run_says_how_many_own_answers_are_kept():
  stream = jcl.load_stream('synthetic', max_tasks=2, max_train_per_task=8, max_test_per_task=2)
  train = jcl.TrainConfig(steps=1, batch_size=8, learning_rate=1e-2)
  result = jcl.learn(
    stream, 'replay', model=runs.from_scratch(), train=train, answers='own', quiet=True
  )
  (line,) = result.results['own_answers']
  assert line['asked'] == 8
  assert line['kept'] == line['right'] <= 8


def test_nothing_is_asked_of_an_empty_buffer():
  tools = tiny.tools('plain')
  settings = methods.settings_class('replay')(answers='own')
  assert own_answers.make({}, [], tools.stream.tasks[0], tools, None, settings) == ([], [])
  assert tools.reports == {}
  assert own_answers.examples([]) == []
