"""Metrics of answers: values by hand, other alphabets, and what is refused."""

import importlib.util
import math

import pytest

from jcl.errors import UserError
from jcl.reports import answer_metrics
from jcl.reports.answer_metrics import METRICS, measured


def test_words_of_any_alphabet():
  assert answer_metrics.words("It's 3_4, für DICH!") == ['it', 's', '3', '4', 'für', 'dich']
  assert answer_metrics.words('支持 yes反对') == ['支', '持', 'yes', '反', '对']
  assert answer_metrics.words('…') == []


@pytest.mark.parametrize(
  ('metric', 'answer', 'wanted', 'value'),
  [
    ('first_word', 'A\nfor it is', 'a', 1),
    ('first_word', 'An A', 'A', 0),
    ('first_word', '', '', 0),
    ('token_f1', 'a b b', 'b a c', 2 / 3),
    ('token_f1', 'b', '', 0),
    ('token_f1', '?', '!', 1),
    ('edit_similarity', ' abcd', 'abxd', 0.75),
    ('edit_similarity', 'x = f ( )', 'x = f ( )', 1),
    ('exact_match', 'a', 'b', 0),
    ('macro_f1', 'a', 'b', 0),
  ],
)
def test_of_one_answer(metric, answer, wanted, value):
  found = measured([metric], [answer == wanted], [answer], [wanted])
  assert found == {metric: value}


def test_macro_f1_by_hand():
  """a: P 1/2, R 1; b: P 1, R 1/2; c: never said; of `d`, which nobody wants, no class counts."""
  wanted, said = ['a', 'b', 'b', 'c'], ['a', 'b', 'a', 'd']
  right = [w == s for w, s in zip(wanted, said, strict=True)]
  found = measured(['macro_f1', 'exact_match'], right, said, wanted)
  assert math.isclose(found['macro_f1'], (2 / 3 + 2 / 3 + 0) / 3, rel_tol=1e-15)
  assert found['exact_match'] == 0.5


def test_an_answer_that_may_not_be_right_is_no_class():
  assert measured(['macro_f1'], [False], ['[UNK]'], ['[UNK]']) == {'macro_f1': 0}


def test_rouge_l_by_hand_and_as_the_package_has_it():
  scorer = pytest.importorskip('rouge_score.rouge_scorer', reason='needs the extra rouge')
  assert answer_metrics.rouge_l('a b c d', 'a x c') == pytest.approx(2 * 2 / 7, rel=1e-15)
  assert answer_metrics.rouge_l('支持', '支持') == 1
  own = scorer.RougeScorer(['rougeL'])
  pair = 'The cat sat on the mat.', 'A cat_was on THE mat'
  assert answer_metrics.rouge_l(*pair) == own.score(*reversed(pair))['rougeL'].fmeasure


def test_refused(monkeypatch):
  for metric in METRICS[:3]:
    answer_metrics.check(metric, 'evaluate.metric')
  with pytest.raises(
    UserError, match=r"^the metric of task 'a' is 'bleu': give one of exact_match"
  ):
    answer_metrics.check('bleu', "the metric of task 'a'")
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
    UserError, match=r"is 'rouge_l', which .*: pip install 'jcl\[rouge\]', or set"
  ):
    answer_metrics.check('rouge_l', 'evaluate.metric')
