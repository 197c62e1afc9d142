"""Single sections of the page: when they are empty, and what they make of their figures."""

import pytest
from support import reported
from support.reported import Parts

from jcl.reports.history import history
from jcl.reports.page import answers, costs, past, scores, source, training
from jcl.reports.page.source import Source


def made(**more):
  return Source(reported.run(**more), reported.log())


def test_sections_without_anything_to_show_are_empty():
  bare = Source({'method': 'seq', 'tasks': ['a', 'b'], 'matrix': [[0.1, 0.2]]})
  nothing = history(bare.results, ())
  for part in (answers.flips, answers.classes, past.pseudo_samples, past.own_answers, past.buffer,
               costs.costs, scores.forgotten):  # fmt: skip
    assert part(bare) == '', part.__name__
  assert training.training(bare, nothing) == ''


def test_what_is_forgotten_is_told_from_what_is_gained():
  assert 'On average a task ends 50.0 points below its best earlier score.' in scores.in_words(
    made()
  )
  gains = made(matrix=[[0.0] * 3, [0.4, 0.1, None], [0.5, 0.5, 0.2], [0.9, 0.9, 0.9]])
  assert 'points above its best earlier score' in scores.in_words(gains)
  keeps = made(matrix=[[0.0] * 3, [0.9, 0.1, None], [0.9, 0.9, 0.2], [0.9, 0.9, 0.9]])
  assert 'Nothing was forgotten' in scores.in_words(keeps)
  worse = scores.in_words(Source(reported.text_run()))
  assert 'a task ends 0.225 nats per token worse than its best earlier score' in worse
  never = made(matrix=[[0.0] * 3, [0.0, 0.0, None], [0.0] * 3, [0.0] * 3])
  assert 'Nothing was learned' in scores.in_words(never)


def test_a_better_cell_of_the_matrix_is_darker():
  page = Parts(scores.matrix(reported.run(), reported.MATRIX, 'M'))
  later = [(words, a['style']) for a, words in page.all('td') if a['class'] == 'n later']
  assert later == [('60.0', '--v:0.600'), ('30.0', '--v:0.300'), ('40.0', '--v:0.400')]
  page = Parts(scores.matrix(reported.text_run(), reported.text_run()['matrix'], 'M'))
  own = [a['style'] for a, _ in page.all('td') if a['class'] == 'n own']
  assert own == ['--v:0.887', '--v:0.968', '--v:1.000']  # of 0.9 to 4.0 nats


def test_curves_show_scores_inside_tasks():
  one = made()
  page = Parts(scores.task_curves(one.results, history(one.results, one.lines)))
  lines = [a['data-name'] for a, _ in page.all('polyline')]
  assert lines == ['dev', 'test'] * 3
  page = Parts(scores.task_curves(one.results, history(one.results, ())))
  assert [a['data-name'] for a, _ in page.all('polyline')] == ['test'] * 3


def test_a_loss_far_from_its_end_has_a_logarithmic_axis():
  log = [
    {'task': 0, 'step': s, 'loss': 10.0 ** (2 - s), 'ce': 10.0 ** (2 - s)} for s in (1, 2, 3, 4)
  ]
  one = Source(reported.run(weights=[]), log)
  page = training.training(one, history(one.results, log))
  assert 'the axis is logarithmic' in page
  assert 'Share of each term' not in page  # the weights are not known
  flat = [{**line, 'loss': 1.0, 'ce': 0.5} for line in log]
  assert 'logarithmic)' not in training.training(one, history(one.results, flat))


def test_shares_of_the_loss_are_told_with_their_means():
  one = made()
  rows = Parts(training.training(one, history(one.results, one.lines))).table('Mean share')
  shares = {row[0]: float(row[1]) for row in rows[1:]}
  assert sum(shares.values()) == pytest.approx(100, abs=0.3)
  assert set(shares) == {'qa', 'gen', 'ewc'}


@pytest.mark.parametrize(
  ('value', 'shown'),
  [(None, '·'), (0, '0 B'), (999, '999 B'), (2_500_000, '2.5 MB'), (7.1e12, '7.1 TB')],
)
def test_bytes_have_a_unit(value, shown):
  assert costs.in_bytes(value) == shown


def test_learned_tasks_differences_and_counts():
  assert source.Source(reported.run(matrix=reported.MATRIX[:2])).learned == 1
  assert source.difference(reported.run(), -0.05) == '−5.0'
  assert source.difference(reported.run(), 0.05) == '+5.0'
  assert source.difference(reported.run(), 0.0) == '0.0'
  assert source.count_cell('x').shown == '·'


def test_pseudo_samples_of_a_line_are_shared_out():
  page = Parts(past.pseudo_samples(made()))
  widths = [float(a['width']) for a, _ in page.all('rect') if a['class'].startswith('part')][:3]
  assert [w / 356 for w in widths] == pytest.approx([6 / 16, 4 / 16, 6 / 16], abs=1e-3)
  assert '62.5 %' in page.all('p')[0][1]
  assert page.table('Pseudo samples')[2][1] == 'all before'


def test_each_term_has_its_share_of_the_gradients_by_task():
  one = made()
  page = training.training(one, history(one.results, one.lines))
  assert 'Share of each term in the gradients, %' in page
  header, *rows = Parts(page).table('Share of the sum of the norms')
  assert header == ['task', 'qa', 'gen', 'ewc']
  # 2, 1 and 0.1 · steps, over steps 4, 8 and 12: 11/12, 11/24 and 0.3
  assert rows == [['travel', '54.7', '27.4', '17.9'], ['music', '54.7', '27.4', '17.9']]
  bare = made()._replace(lines=[line for line in one.lines if 'gradient_norms' not in line])
  assert 'in the gradients' not in training.training(bare, history(bare.results, bare.lines))


def test_confusions_are_a_picture_too():
  """Of five cards lost one is right, three are flights and one is no label."""
  page = Parts(answers.classes(made()))
  header, *rows = page.table('Share of the test examples of a class')
  assert header == ['wanted ↓ answered →', 'card lost', 'book flight', 'no label']
  assert rows == [['card lost', '20', '60', '20']]
  dark = [a.get('style') for a, _ in page.all('td') if str(a.get('class')).startswith('n ')]
  assert dark[:3] == ['--v:0.200', '--v:0.600', '--v:0.200']
  right = [{'task': 'bank', 'class': 'a', 'examples': 5, 'right': 5, 'wrong': []}]
  assert 'taken for what' not in answers.classes(made(by_class=right))
  many = [{'task': 'a', 'class': f'{i}', 'examples': 9, 'right': 0, 'wrong': [[f'{i + 1}', 9]]}
          for i in range(30)]  # fmt: skip
  header, *rows = Parts(answers.classes(made(by_class=many))).table('Share of the test examples')
  assert (len(header), len(rows)) == (13, 12)


def test_bars_show_the_classes_with_wrong_answers_alone():
  by_class = lambda right: [
    {'task': 'bank', 'class': f'c{i}', 'examples': 24, 'right': n, 'wrong': [['x', 24 - n]]}
    for i, n in enumerate(right)
  ]  # fmt: skip
  for right, title, bars in (
    ([24, 20, 24, 3], 'Classes with wrong answers (2 of 4)', ['3 of 24', '20 of 24']),
    (range(25), 'The 12 classes of lowest accuracy (24 of 25 have wrong answers)',
     [f'{n} of 24' for n in range(12)]),
  ):  # fmt: skip
    page = Parts(answers.classes(made(by_class=by_class(right))))
    assert page.all('figcaption')[0][1] == title
    assert [words for a, words in page.all('text') if a.get('class') == 'strong'] == bars
    assert len(page.table('Newest answers by class')) == len(right) + 1
  page = Parts(answers.classes(made(by_class=by_class([24, 24]))))
  assert page.all('p')[-1][1] == 'All newest answers are right.'
  assert not page.all('svg')
  assert len(page.table('Newest answers by class')) == 3


def test_settings_that_were_changed_stand_in_the_history():
  lines = [{'time': '2026-01-02', 'snapshot': 7, 'changes': {'train.learning_rate': [0.1, 0.01]}}]
  page = Parts(costs.facts(made(config_changes=lines)))
  assert page.table('Settings that were changed')[1:] == [
    ['2026-01-02', '7', 'train.learning_rate', '0.1', '0.01']
  ]
  assert 'were changed' not in costs.facts(made())
