"""The comparison of methods: ranks, bounds, paired differences, costs."""

import copy
import re

import pytest
from support import reported
from support.reported import Parts

from jcl.reports import comparison_plot, plots
from jcl.reports.comparison import group_runs
from jcl.reports.page import compared, document, ranking


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
  assert header[:3] == ['method', 'A_T', 'forgetting']  # what a phone shows at first sight
  assert [[row[0], *row[3:5]] for row in rows] == [
    ['joint (upper bound)', '·', '1'], ['lamol', '1', '3'], ['replay', '2', '2'],
    ['seq (lower bound)', '·', '3'],
  ]  # fmt: skip
  lamol, replay = (dict(zip(header, row, strict=True)) for row in rows[1:3])
  # The ends are 30, 40 and 100 %; the last cannot rise, so the mean rises by 2/3 of each step.
  assert lamol['A_T'] == '77.3 ± 1.7'
  assert lamol['A_T − seq'] == '20.7 ± 1.7, p < 0.001'
  assert lamol['A_T − best'] == '·'
  assert replay['A_T − seq'] == '6.7 ± 0.0, p < 0.001'
  assert replay['A_T − best'].startswith('−13.7 ± ')
  more = parts.table('More of each method')
  replay = dict(zip(more[0], more[3], strict=True))
  assert replay['method'] == 'replay'
  assert replay['bytes'] == '2.5 MB'
  assert replay['tokens'] == '12,444'
  shown = {'Ā', 'BWT', 'worst just learned', 'invalid %', 'pseudo kept %', 'distinct %', 'train s'}
  assert shown < set(more[0])  # columns that the terminal may leave out


def test_bounds_have_no_rank_and_the_page_says_so(parts):
  told = next(words for _, words in parts.all('p') if 'upper bound' in words)
  assert 'Bounds have no rank and are not the best.' in told
  bounds = Parts(document.document([reported.run('seq'), reported.run('joint')]))
  assert 'rank' not in bounds.table('Methods from the best')[0]


@pytest.mark.parametrize(
  ('metrics', 'unit'),
  [(['exact_match'] * 3, 'accuracy in %'), (['macro_f1'] * 3, 'macro_f1 in %')],
)
def test_the_unit_stands_in_the_words_about_the_scores(metrics, unit):
  runs = [reported.run(m, seed=s, task_metrics=metrics) for m in ('seq', 'lamol') for s in (0, 1)]
  for some in (runs, runs[::2]):
    said = [words for _, words in Parts(document.document(some)).all('p') if unit in words]
    assert len(said) == 1
    assert f'A_T is the mean over all tasks at the end, {unit}; forgetting' in said[0]
    assert ('± is the 95 % interval over seeds' in said[0]) == (len(some) > 2)


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
  assert ranking.tokens_of({'method': 'a', 'tasks': ['a'], 'matrix': []}) is None
  assert compared.parts(group_runs([reported.text_run(), reported.text_run(seed=1)]))


def test_runs_of_other_models_are_neither_ranked_nor_subtracted():
  def of(method, path, epochs=1, by=0.0):
    config = {'backbone': {'path': path}, 'train': {'seed': 0, 'epochs': epochs}}
    return {**reported.run(method, matrix=better(reported.MATRIX, by)), 'config': config}

  page = Parts(document.document([
    of('seq', ''), of('replay', '', by=0.1), of('closed_form', 'models/minilm-l6', by=0.2),
    of('seq', 'models/smollm2.gguf', by=0.3), of('seq', 'models/smollm2.gguf', 2, by=0.4),
    of('ewc', 'models/smollm2.gguf', 2, by=0.5),
  ]))  # fmt: skip
  header, *rows = page.table('Methods by A_T; ranks and differences hold within one model')
  cells = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
  assert cells['replay (from scratch)']['rank'] == '1'
  assert cells['replay (from scratch)']['A_T − seq'] == '6.7'
  assert cells['closed_form (minilm-l6)']['A_T − seq'] == '·'
  assert cells['closed_form (minilm-l6)']['rank'] == '1'
  # 0.5 − 0.4 in two of three tasks: of the two seq, the one with as many epochs
  assert cells['ewc (smollm2)']['A_T − seq'] == '6.7'
  assert any(words.startswith('the models differ') for _, words in page.all('p'))
  (title,) = [words for _, words in page.all('h1')]
  assert title == 'seq, replay, closed_form, ewc on synthetic (cil)'
  settings = page.table('Settings')
  assert settings[0] == ['method', 'train.epochs', 'backbone.path']


def test_words_about_tests_stand_only_where_there_are_several_seeds(parts):
  explained = lambda page: [words for _, words in page.all('p') if 't-test' in words]
  alone = Parts(document.document([reported.run(), reported.run('seq')]))
  assert explained(alone) == []
  (words,) = explained(parts)
  assert 'corrected for the number of methods in the column (Holm)' in words
  (meaning,) = [words for _, words in parts.all('dd') if 't-test' in words]
  assert 'p-values are corrected' in meaning


def test_a_score_stands_in_the_row_where_it_was_measured():
  joint = reported.run('joint', matrix=[[0.0, 0.1, 0.0], [None] * 3, [None] * 3, [0.9, 0.9, 0.9]])
  page = Parts(document.document([reported.run('seq'), joint]))
  assert page.table('Mean over seeds')[1:] == [
    ['1', '90.0', '·'], ['2', '70.0', '·'], ['3', '56.7', '90.0']
  ]  # fmt: skip


def test_a_method_has_one_colour_in_picture_and_page():
  joint = reported.run('joint', matrix=[[0.0, 0.1, 0.0], [None] * 3, [None] * 3, [0.9, 0.9, 0.9]])
  groups = group_runs([reported.run('seq'), joint, reported.run()])
  css = document._file('page.css')
  light = re.findall(r'--c\d: (#\w+);', css)[: len(comparison_plot.COLOURS)]
  assert list(comparison_plot.COLOURS) == light
  drawn = [comparison_plot._style(i, group).colour for i, group in enumerate(groups)]
  assert drawn == [light[0], plots.INK, light[2]]
  page = Parts(document.document([run for group in groups for run in group.runs]))
  lines = {a['data-name']: a['class'] for a, _ in page.all('polyline')}
  assert [lines[name] for name in ('seq', 'joint', 'lamol')] == [
    'line c0', 'line ink dash', 'line c2'
  ]  # fmt: skip
  ends = [a['class'] for a, _ in page.all('circle') if a['r'] == '4'][:3]
  assert ends == ['dot c0', 'dot ink dash', 'dot c2']


@pytest.mark.parametrize('several', [True, False])
def test_a_column_of_numbers_has_one_format(several):
  """Units in one column (bytes) and values to four digits (of the loss) aside."""
  seconds = lambda i: {'train': 38.9 + i % 3, 'generate': 3.0 * i, 'compile': 19.25 - i / 4}
  runs = [{**one, 'seconds': seconds(i)} for i, one in enumerate(RUNS if several else RUNS[:1])]
  page = Parts(document.document(runs, [reported.log() for _ in runs]))
  captions = {words for _, words in page.all('caption')}
  free = ('First and last', 'Cost in numbers', 'Settings', 'The run', 'Weight of each', 'Drift')
  looked = 0
  for caption in sorted(captions):
    if caption.startswith(free):
      continue
    for column in zip(*page.table(caption)[1:], strict=True):
      numbers = [c for c in column if re.fullmatch(r'[−+]?[\d,]+(\.\d+)?', c)]
      looked += len(numbers)
      assert len({len(c.partition('.')[2]) for c in numbers}) <= 1, (caption, column)
  assert looked > 50
