"""What a run's matrix holds is the metric of its tasks, and results.json says which."""

import dataclasses

import pytest
from support import runs

from jcl.errors import UserError
from jcl.reports import results, tables
from jcl.streams import load
from jcl.training.evaluate import Score
from jcl.training.task_metrics import with_metrics

SMALL = {'max_tasks': 2, 'max_train_per_task': 20, 'max_test_per_task': 8}


def test_the_matrix_holds_the_metric_that_is_asked_for(tmp_path):
  made = runs.config('seq', stream=SMALL, train={'epochs': 1}, evaluate={'metric': 'macro_f1'})
  with pytest.raises(runs.Killed):
    runs.run(made, tmp_path / 'run', kill=('train', 1))
  runs.run(made, tmp_path / 'run')
  found = results.read(tmp_path / 'run' / 'results.json')
  assert found['task_metrics'] == ['macro_f1', 'macro_f1']
  assert set(found['answer_scores']) == {'macro_f1', 'exact_match'}
  assert found['matrix'] == found['answer_scores']['macro_f1']
  exact = found['answer_scores']['exact_match']
  assert [len(row) for row in exact] == [2, 2, 2]
  assert None not in [cell for row in exact for cell in row]
  assert 'macro_f1 in %' in tables.matrix_tables(found)[0].title


def test_the_unit_of_a_matrix():
  one = {'method': 'seq', 'tasks': ['a', 'b'], 'matrix': []}
  assert results.unit_of(one) == 'accuracy in %'  # of an older jcl
  assert results.unit_of(one | {'task_metrics': ['exact_match'] * 2}) == 'accuracy in %'
  mixed = one | {'task_metrics': ['rouge_l', 'exact_match']}
  assert results.unit_of(mixed) == 'scores in %: a rouge_l, b exact_match'
  assert results.unit_of(one | {'score': 'log_perplexity'}).endswith('nats per target')


def test_a_metric_that_there_is_not():
  made = runs.config('seq', stream=SMALL)
  stream = load(made.stream)
  tasks = [dataclasses.replace(task, metric='bleu') for task in stream.tasks]
  other = dataclasses.replace(stream, tasks=tuple(tasks))
  with pytest.raises(UserError, match=r"the metric of task '.*' is 'bleu': give one of"):
    with_metrics(made, other)
  made.evaluate.metric = 'token_f1'
  assert {t.metric for t in with_metrics(made, other).tasks} == {'token_f1'}


def test_the_entry_of_the_matrix_is_the_value_of_the_metric():
  score = Score([True, False], None, ['a', 'b'], [-1, -1], 'rouge_l', {'rouge_l': 0.3})
  assert (score.accuracy, score.value, score.merit) == (0.5, 0.3, 0.3)
