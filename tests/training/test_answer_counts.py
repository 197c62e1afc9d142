"""Right answers by class, examples that flipped, bytes of a method's memory."""

import jax.numpy as jnp
import numpy as np
import pytest

from jcl.streams.stream import Stream
from jcl.training import answer_counts
from jcl.training.evaluate import LogPerplexity, Score
from jcl.training.kept_bytes import bytes_kept


@pytest.fixture(scope='module')
def stream():
  rows = lambda split: {
    task: [{'text': f'{split} {task} {i}', 'label': f'{task}_{i % 2}'} for i in range(4)]
    for task in ('red', 'blue')
  }
  return Stream.from_rows(rows('train'), test=rows('test'))


def test_answers_are_counted_by_the_class_that_was_wanted(stream):
  red, other = (stream.classes.index(stream.classes[i]) for i in range(2))
  labels = [e.label for e in stream.tasks[0].test]
  assert labels == [red, other, red, other]
  score = Score([True, False, False, False], 0.25, ['', 'x', '', ''], [red, -1, other, red])
  assert answer_counts.by_class(stream, 0, score) == [
    {'task': 'red', 'class': 'red_0', 'examples': 2, 'right': 1, 'wrong': [['red_1', 1]]},
    {'task': 'red', 'class': 'red_1', 'examples': 2, 'right': 0,
     'wrong': [[None, 1], ['red_0', 1]]},
  ]  # fmt: skip
  assert answer_counts.by_class(stream, 0, LogPerplexity(1.0, 3)) == []


def test_an_example_that_flipped_has_the_answer_of_now(stream):
  said = ['a', 'b', 'c\x1b' + 'd' * 99, 'red 1']
  score = Score([True, False, False, False], None, said, [-1, -1, -1, 1])
  wrong = answer_counts.wrong_now(stream, [True, False, True, True], score.right, score)
  assert wrong == {2: wrong[2], 3: stream.written_labels[1]}
  (line,) = answer_counts.flips(stream, [(0, 2)], {0: wrong})
  assert line['answered'].startswith('c\\x1bddd')
  assert len(line['answered']) == 80
  assert (line['text'], line['answer']) == ('test red 2', 'red_0')


def test_a_memory_counts_with_its_arrays_texts_and_the_examples_it_refers_to(stream):
  arrays = {
    'teacher': {'w': jnp.zeros((2, 3)), 'b': np.zeros(2, np.int8)},
    'n': 1,
    'x': ['é', None],
  }
  assert bytes_kept(arrays, stream) == 24 + 2 + 8 + 2
  example = stream.tasks[1].train[0]
  held = {'buffer': {'examples': [example.reference], 'seen': 4}}
  texts = len(example.text) + len(example.answer)
  assert bytes_kept(held, stream) == texts + 2 * 8 + 8
