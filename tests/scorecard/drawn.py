"""Columns of rows that are drawn before every epoch: from what, and who teaches them."""

import jax
import numpy as np
from oracles import texts

from jcl.memory.pseudo import FIRST_NUMBER
from scorecard import cases, checks
from scorecard.cases import Case
from scorecard.wrong import equal, nothing


def each_epoch(case: Case) -> None:
  """Before each epoch the model in training answers every prompt, with keys of that epoch alone."""
  s, ids = case.settings, case.tools.text.tokenizer.get_vocab()
  moments, epochs = case.moments, cases.TRAIN.epochs
  calls = zip(case.tools.calls, case.tools.given, strict=True)
  equal('draws', len(case.tools.calls), len(moments) * epochs)
  keys = set()
  for moment in moments:
    rows = [row for e in moment.task.train for row in texts.rows(e, False, 'plain', ids)]
    wanted = [row.tokens[: row.targets[0] + 1] for row in rows]
    longest = max(len(row.targets) for row in rows)
    for epoch in range(epochs):
      (_, first, _, most, k, temperature, _, key), (params, prompts) = next(calls)
      what = f'task {moment.task.index + 1}, epoch {epoch + 1}'
      start = moment.seen[epoch * len(moment.seen) // epochs].params
      nothing(f'{what}: what draws, less the model', cases.flat(params) - cases.flat(start))
      equal(f'{what}: prompts', list(map(list, prompts)), wanted)
      how = (s.top_k, s.temperature) if s.temperature else (1, 1.0)
      equal(f'{what}: how it draws', (first, most, k, temperature), (0, longest, *how))
      keys.add(tuple(np.asarray(jax.random.key_data(key)).tolist()))
      own = [e for e in moment.plans[epoch].new if e.number >= FIRST_NUMBER]
      said = [case.tools.say(moment.task.index, i) for i in range(len(own))]
      equal(
        f'{what}: what trains', [list(e.tokens) for e in own],
        [[*prompt, *(ids[w] for w in words.split()[:longest])]
         for prompt, words in zip(wanted, said, strict=True)],
      )  # fmt: skip
  equal('keys', len(keys), len(moments) * epochs)


def draws(case: Case) -> bool:
  """Whether it draws rows before every epoch."""
  return case.method.before_epoch is not None


def teaches_itself(case: Case) -> bool:
  """Whether these rows are own answers, which the model teaches itself."""
  return draws(case) and hasattr(case.settings, 'demonstration')


VARIANTS = (
  {'anchor': 'current', 'direction': 'reverse'},
  {'anchor': 'last', 'alpha': 1.0, 'top_k_logits': 3},
  {'anchor': 'base', 'direction': 'reverse', 'top_k_logits': 2},
  {'temperature': 0.0, 'top_k_logits': 10**6},
)


def variants() -> None:
  """Every teacher, both directions, some and all logits, in all steps of three tasks."""
  for given in VARIANTS:
    case = cases.Case('sdft', **given)
    checks.value(case)
    checks.three_tasks(case)
    each_epoch(case)
