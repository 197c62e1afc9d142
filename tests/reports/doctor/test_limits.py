"""The limits of the findings, as the documentation says them."""

import math
from fractions import Fraction

import pytest
from support import ROOT

from jcl.reports.doctor import finding, forgetting, guessing, learning, past, penalties

SAYS = {
  'diverged': f'more than {learning.LOST:g} nats above twice' if learning.LEAPS == 2 else '',
  'forgets as expected': f'forgetting above {penalties.FORGOTTEN:g}',
  'forgets all the same': f'more than {100 * forgetting.HELD:g} % of what',
  'not learned': f'less than {finding.LEARNED:g} ',
  'known before': f'{100 * learning.KNOWN:g} % or more',
  'loss rises': f'{100 * (learning.RISES - 1):.0f} % above its start',
  'few test rows': f'fewer than {guessing.FEWEST_ROWS} test rows, so that two standard deviations '
                   f'of its score are {100 / guessing.FEWEST_ROWS**0.5:g} points',
  'loss stays up': f'by less than {100 * (1 - learning.STAYS):.0f} % in the last quarter of the '
                   f'task, to no less than {learning.FITTED:g} nats',
  'loss does not fall': f'less than {100 * (1 - learning.FALLS):.0f} %, in a task that was not '
                        f'learned; from {learning.HIGH} times the default rate',
  'loss still falls': f'more than {100 * (1 - learning.STILL):.0f} % in the last quarter of a '
                      f'task, to no less than {learning.LEFT:g} nats',
  'clipped': f'above {learning.CLIPPED} times',
  'penalty not felt': f'below {100 * penalties.FELT["gradient"]:g} % in later tasks, and '
                      f'forgetting above {penalties.FORGOTTEN:g}',
  'penalty drowns the loss': f'above {100 * penalties.DROWNED:g} %, or above '
                             f'{100 * penalties.HOLDS:g} % of the gradient',
  'little replay': f'below {100 * past.REPLAYED:g} %',
  'less replay than asked': 'less than half' if past.ASKED == 0.5 else '',
  'a young buffer, an old buffer': f'less than half, or more than {past.AGE[1]:g} times',
  'tasks not written': f'less than {100 * past.WRITTEN:g} % of an equal share',
  'invalid answers': f'above {100 * learning.INVALID:g} %',
}  # fmt: skip


@pytest.mark.parametrize('name', SAYS)
def test_the_documentation_has_each_limit(name):
  page = (ROOT / 'docs' / 'reading-results.md').read_text()
  (cell,) = [
    line.split('|')[2] for line in page.splitlines() if line.startswith(f'| {name} |')
  ]  # fmt: skip
  assert SAYS[name]
  assert SAYS[name] in cell


def test_the_documentation_has_the_limits_of_a_guess():
  page = (ROOT / 'docs' / 'reading-results.md').read_text()
  (part,) = [p for p in page.split('\n\n') if p.startswith('Where all answers of a task are')]
  text = ' '.join(part.split())
  for says in (
    f'less than {finding.LEARNED:g} above that', f'more than {100 * guessing.ERROR:g} % of cases',
    f'known to {100 * finding.KNOWN:g} %', f'fewer than {guessing.FEWEST_ROWS} test rows',
    'four classes 33.3 % is a guess and 35.4 % is not',
  ):  # fmt: skip
    assert says in text
  judged = [guessing.Answered(('a',), 96, right, 0.25).guessed for right in (32, 34)]
  assert judged == [True, False]


@pytest.mark.parametrize(
  ('rows', 'right', 'chance', 'guessed'),
  [
    (4, 2, 0.5, False),  # 5.2 % of tasks known to 90 % give no more
    (4, 1, 0.5, True),  # 0.4 %
    (12, 7, 0.5, True),  # guesses give as many in 39 %, known ones no more in 0.4 %
    (12, 8, 0.5, False),  # 2.6 % of known ones
    (96, 0, 0.25, True),
    (96, 33, 0.25, True),  # guesses give as many in 2.53 % of cases, and more in 1.48 %
    (10000, 2990, 0.25, True),  # beyond the noise, and less than 5 points above chance
    (10000, 3010, 0.25, False),
    (1000, 900, 0.9, False),
    (1000, 850, 0.9, True),  # worse than one answer for all
  ],
)
def test_a_guess_is_told_by_exact_shares(rows, right, chance, guessed):
  """The shares are sums of the probabilities of each count."""
  share = lambda counts, p: sum(
    math.comb(rows, k) * Fraction(p) ** k * (1 - Fraction(p)) ** (rows - k) for k in counts
  )
  if rows < 100:
    by_guess, by_known = share(range(right, rows + 1), chance), share(range(right + 1), 0.9)
    assert (by_guess > 0.025 and by_known < 0.025) == guessed
  assert guessing.Answered(('a',), rows, right, chance).guessed == guessed


def test_a_setting_is_found_by_its_last_name():
  settings = {'method.ewc.lambda_ewc': 5, 'method.name': 'ewc', 'train.clip_norm': 1.0}
  results = {'method': 'ewc', 'tasks': ['a'], 'matrix': [[None]]}
  run = finding.Run(results, {}, {}, settings)
  assert run.setting('lambda_ewc') == 5.0
  assert run.setting('name') is None
  assert run.setting('lambda_l2') is None
  assert run.sweep('lambda_ewc', [0.5, 1e6]) == (
    'jcl sweep --workdir=WORKDIR --setting=method.ewc.lambda_ewc --values=0.5,1e+06'
  )


def test_the_share_of_a_gradient_is_of_sums_over_a_task():
  """The end of a task, where nothing is left to learn, does not decide."""
  norms = {
    0: [{'ce': 1.0, 'ewc': 9.0}],  # the first task does not count
    1: [{'ce': 3.0, 'ewc': 1.0}, {'ce': 0.0, 'ewc': 1.0}],
    2: [{'ce': 9.0, 'ewc': 1.0}],
    3: [{'ce': 8.0, 'ewc': 2.0}],
  }
  run = finding.Run({'method': 'ewc', 'tasks': [*'abcd'], 'matrix': [[]]}, {}, norms, {})
  assert penalties.share_of_gradient(run, 'ewc') == 0.2
  assert penalties.share_of_gradient(run, 'mas') is None
