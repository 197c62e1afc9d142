"""The comparison of methods: ranks, bounds, paired differences, costs."""

import copy

import pytest
from support import reported
from support.reported import Parts

from jcl.reports.comparison import group_runs
from jcl.reports.page import compared, document


def better(matrix, by):
  found = copy.deepcopy(matrix)
  found[-1] = [min(1.0, x + by) for x in found[-1]]
  return found


RUNS = [
  *(reported.run('seq', seed=s) for s in range(3)),
  *(reported.run('lamol', seed=s, matrix=better(reported.MATRIX, 0.3 + s / 100)) for s in range(3)),
  *(reported.run('replay', seed=s, matrix=better(reported.MATRIX, 0.1)) for s in range(2)),
  reported.run('joint', matrix=better(reported.MATRIX, 0.6)),
]


@pytest.fixture(scope='module')
def parts():
  return Parts(document.document(RUNS))


def test_methods_are_ranked_with_their_bounds_and_differences(parts):
  header, *rows = parts.table('Methods from the best')
  assert [row[:3] for row in rows] == [
    ['joint (upper bound)', '1', '1'], ['lamol', '2', '3'], ['replay', '3', '2'],
    ['seq (lower bound)', '4', '3'],
  ]  # fmt: skip
  lamol, replay = (dict(zip(header, row, strict=True)) for row in rows[1:3])
  # The ends are 30, 40 and 100 %; the last cannot rise, so the mean rises by 2/3 of each step.
  assert lamol['A_T'] == '77.3 ± 1.7'
  assert lamol['A_T − seq'] == '20.7 ± 1.7, p < 0.001'
  assert lamol['A_T − best'] == '·'
  assert replay['A_T − seq'] == '6.7 ± 0.0, p < 0.001'
  assert replay['A_T − best'].startswith('-13.7 ± ')
  assert replay['bytes'] == '2.5 MB'
  assert replay['tokens'] == '12,444'


def test_verdicts_are_said_in_words(parts):
  said = [words for _, words in parts.all('li')]
  assert 'lamol is above seq, the lower bound, and the interval leaves out 0.' in said
  assert any(w.startswith('replay is below the best') for w in said)
  alone = Parts(document.document([reported.run(), reported.run('seq')]))
  assert any('One seed has no interval' in words for _, words in alone.all('p'))


def test_the_page_has_curves_tasks_and_costs(parts):
  captions = [words for _, words in parts.all('figcaption')]
  for title in ('Average over the tasks learned so far (%)', 'Learned and kept',
                'A_T against seconds', 'A_T against tokens', 'A_T against bytes'):  # fmt: skip
    assert title in captions
  assert {row[0]: row[1] for row in parts.table('Score at the end')}['replay'] == '40.0 ± 0.0'
  assert len(parts.all('details', **{'class': 'run'})) == len(RUNS)


def test_joint_training_is_a_level_line_and_another_order_is_no_other_stream():
  joint = reported.run('joint', matrix=[[0.0, 0.1, 0.0], [None] * 3, [None] * 3, [0.9, 0.9, 0.9]])
  turned = {**reported.run('seq', seed=1), 'tasks': ['music', 'bank', 'travel']}
  page = Parts(document.document([reported.run('seq'), turned, joint]))
  label = next(
    a['aria-label'] for a, _ in page.all('svg') if 'so far at the end' in a['aria-label']
  )
  assert 'joint 90' in label
  (line,) = [a for a, _ in page.all('polyline') if a['data-name'] == 'joint']
  (_, first), (_, last) = (p.split(',') for p in line['points'].split())
  assert first == last
  rows = {row[0]: row[1:] for row in page.table('Score at the end')}
  assert rows['seq (lower bound)' if 'seq (lower bound)' in rows else 'seq'][0].startswith('35.0')


def test_tokens_of_a_run_without_any_are_not_known():
  assert compared.tokens_of({'method': 'a', 'tasks': ['a'], 'matrix': []}) is None
  assert compared.parts(group_runs([reported.text_run(), reported.text_run(seed=1)]))
