"""Metrics of answers: how well a model's answers agree with the wanted ones, from 0 to 1.

    exact_match      share of answers that equal the wanted one, as the tokenizer gives both back
    first_word       share of answers that begin with the first word of the wanted one (`A`, `B`)
    token_f1         mean over answers of 2PR / (P + R), words as a multiset (Rajpurkar et al. 2016)
    rouge_l          mean over answers of 2PR / (P + R) of the longest common subsequence of words
                     (Lin 2004), by the package rouge-score
    edit_similarity  mean over answers of 2·(characters in common blocks) / (characters of both), by
                     difflib (Ratcliff and Obershelp)
    macro_f1         mean of the F1 of each class, over the distinct wanted answers as classes

P is precision and R is recall, with the words of the answer against those of the wanted answer.

A word is a run of letters and digits, in lower case and without stemming; each Chinese, Japanese or
Korean character is a word. For English these are the words of rouge-score's own tokenizer, which
drops all other alphabets.
"""

import collections
import difflib
import functools
import importlib.util
import re
from collections.abc import Callable, Sequence
from typing import Any

from jcl.errors import UserError

EXACT = 'exact_match'
_WORD = re.compile(
  r'[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+'
)


def words(text: str) -> list[str]:
  """Returns the words of a text, as the module defines them."""
  return _WORD.findall(text.lower())


def first_word(answer: str, wanted: str) -> float:
  """Returns whether two texts begin with the same word, 0 or 1."""
  return float(words(answer)[:1] == words(wanted)[:1] != [])


def token_f1(answer: str, wanted: str) -> float:
  """Returns the F1 of an answer's words; 1 if neither text has words, 0 if one of them has none."""
  ours, theirs = words(answer), words(wanted)
  if not ours or not theirs:
    return float(ours == theirs)
  common = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
  return 2 * common / (len(ours) + len(theirs))


def edit_similarity(answer: str, wanted: str) -> float:
  """Returns the share of characters in common blocks of two texts, without spaces around them."""
  return difflib.SequenceMatcher(None, answer.strip(), wanted.strip(), autojunk=False).ratio()


class _Words:
  """The words of this module, in the form of a tokenizer of rouge-score."""

  def tokenize(self, text: str) -> list[str]:
    return words(text)


@functools.cache
def _rouge_scorer() -> Any:
  """Returns the scorer of the package rouge-score, which is imported when it is first needed."""
  from rouge_score import rouge_scorer

  return rouge_scorer.RougeScorer(['rougeL'], tokenizer=_Words())


def rouge_l(answer: str, wanted: str) -> float:
  """Returns the F-measure of Rouge-L of an answer."""
  return float(_rouge_scorer().score(wanted, answer)['rougeL'].fmeasure)


def macro_f1(answers: Sequence[str], wanted: Sequence[str]) -> float:
  """Returns the mean over the classes of `wanted` of 2TP / (2TP + FP + FN).

  Args:
    answers: class that each answer stands for; a class that `wanted` lacks counts as wrong.
    wanted: class of each example.
  """
  said, known = collections.Counter(answers), collections.Counter(wanted)
  right = collections.Counter(a for a, w in zip(answers, wanted, strict=True) if a == w)
  return sum(2 * right[c] / (said[c] + known[c]) for c in known) / len(known)


OF_ANSWER: dict[str, Callable[[str, str], float]] = {
  'first_word': first_word,
  'token_f1': token_f1,
  'rouge_l': rouge_l,
  'edit_similarity': edit_similarity,
}
METRICS = (EXACT, *OF_ANSWER, 'macro_f1')


def check(metric: str, where: str) -> None:
  """Refuses an unknown metric, and one whose package is not installed.

  Args:
    metric: name of the metric.
    where: what names the metric, for the message.

  Raises:
    UserError: the metric is unknown, or needs a package that is missing.
  """
  if metric not in METRICS:
    raise UserError(f'{where} is {metric!r}: give one of {", ".join(METRICS)}')
  if metric == 'rouge_l' and importlib.util.find_spec('rouge_score') is None:
    raise UserError(
      f"{where} is 'rouge_l', which the package rouge-score computes: pip install 'jcl[rouge]', or "
      'set evaluate.metric=token_f1'
    )


def measured(
  metrics: Sequence[str], right: Sequence[bool], answers: Sequence[str], wanted: Sequence[str]
) -> dict[str, float]:
  """Returns {metric: value in [0, 1]} of the answers to one split.

  Args:
    metrics: names out of `METRICS`.
    right: whether each answer is the wanted one.
    answers: the answers as metrics compare them: without spaces around them, labels as written.
    wanted: the wanted answers, in the same form.
  """
  found = {}
  for metric in metrics:
    if metric == EXACT:
      found[metric] = sum(map(bool, right)) / len(right)
    elif metric == 'macro_f1':
      classes = [
        w if yes else f'not {w}' if a == w else a
        for yes, a, w in zip(right, answers, wanted, strict=True)
      ]
      found[metric] = macro_f1(classes, wanted)
    else:
      each = OF_ANSWER[metric]
      found[metric] = sum(map(each, answers, wanted)) / len(answers)
  return found
