"""Prompts that are spread over a split, and draws of replay, on the tiny setting."""

import pytest

from jcl.benchmarks import host, writing
from jcl.benchmarks.ours import up_to


@pytest.mark.parametrize(
  ('size', 'count', 'found'), [(6, 3, [0, 2, 4]), (5, 2, [0, 2]), (2, 4, [0, 1]), (3, 0, [])]
)
def test_items_are_taken_evenly_over_all_of_them(size, count, found):
  assert writing.spread(range(size), count) == found


def test_new_tokens_count_up_to_the_end_of_sequence():
  assert up_to([5, 2, 0, 0], 2) == [5, 2]
  assert up_to([5, 6], 2) == [5, 6]


def test_the_largest_buffer_is_the_workload_itself(monkeypatch):
  from jcl.benchmarks.timing import Case

  held = type('Request', (), {'held': (50, 10)})
  bench = type('Bench', (), {'setting': type('Setting', (), {'request': held})})
  monkeypatch.setattr(
    host, '_draws', lambda bench, name, count: Case(name, 'step', {'jcl': [1.0]}, {'held': count})
  )
  found = {case.name: case.facts['held'] for case in host.replay(bench)}
  assert found == {'replay': 50, 'replay/10': 10}
