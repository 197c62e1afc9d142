"""HTML by small functions: what is text is escaped and cut, what is a table can be sorted."""

import pytest
from support.reported import Parts

from jcl.reports.page import legend, markup
from jcl.reports.page.markup import Number


@pytest.mark.parametrize(
  ('text', 'most', 'shown'),
  [
    ('short', 10, 'short'),
    ('one two three', 9, 'one two…'),
    ('exactly 10', 10, 'exactly 10'),
    ('abcde\u0301f', 6, 'abcd…'),  # é stays whole
    ('ab👍🏽cdef', 4, 'ab…'),  # and so does a hand with its colour
    ('a👩\u200d👧bcd', 3, 'a…'),  # and a family
    ('a👩\u200d👧bcd', 5, 'a👩\u200d👧…'),
    ('two\nlines', 20, 'two\\nlines'),
    ('', 5, ''),
  ],
)
def test_a_text_is_cut_between_letters(text, most, shown):
  assert markup.cut(text, most) == shown


def test_text_is_escaped_and_markup_is_not():
  inner = markup.tag('b', 'a < b', title='"<', data_v=None, class_='x')
  assert inner == '<b title="&quot;&lt;" class="x">a &lt; b</b>'
  assert markup.tag('p', inner) == f'<p>{inner}</p>'
  assert markup.own('<i>') == '<bdi dir="auto">&lt;i&gt;</bdi>'


def test_a_table_says_what_a_column_is_sorted_by():
  rows = [['a', Number('1,000', 1000), 'x'], ['b', '·', 'y']]
  page = Parts(markup.table('Some', ['name', 'count', 'word'], rows, 'words', filtered=True))
  assert page.table('Some') == [['name', 'count', 'word'], ['a', '1,000', 'x'], ['b', '·', 'y']]
  (cell, _), *_ = page.all('td')
  assert cell['data-v'] == '1000'
  assert cell['class'] == 'n'
  assert cell['data-label'] == 'count'
  assert [a.get('class') for a, _ in page.all('td')] == ['n', None, 'n', None]
  assert page.all('table')[0][0]['data-filter'] == ''


@pytest.mark.parametrize(
  ('hyphen', 'minus'),
  [
    ('-13.7 ± 1.0', '−13.7 ± 1.0'), ('-1.2 → -0.3', '−1.2 → −0.3'), ('1e-05', '1e-05'),
    ('2026-01-02', '2026-01-02'), ('at-1', 'at-1'), ('-.5', '−.5'), ('a - b', 'a - b'), ('·', '·'),
  ],
)  # fmt: skip
def test_a_negative_number_has_a_minus_and_no_hyphen(hyphen, minus):
  assert markup.minus(hyphen) == minus
  page = Parts(markup.table('Some', ['a', 'b'], [['x', Number(hyphen, -1.5)]]))
  ((cell, words),) = page.all('td')
  assert (words, cell['data-v']) == (minus, '-1.5')  # what it is sorted by


def test_empty_parts_are_left_out():
  assert markup.section('Title', 'here', ['', markup.Html('')]) == ''
  assert markup.join(['', 'a', '', 'b'], '-') == 'a-b'


def test_the_legend_has_every_metric():
  words = dict(
    zip(*[[w for _, w in Parts(legend.legend()).all(t)] for t in ('dt', 'dd')], strict=True)
  )
  assert {'A_T', 'Ā', 'forgetting', 'BWT', 'FWT', 'negative flip', 'share of the loss'} <= set(
    words
  )
  assert all(words.values())
