"""Column of heads that are solved: what stands there after each task."""

import numpy as np
from oracles import solvers

from scorecard import cases
from scorecard.cases import Case
from scorecard.wrong import near, nothing

ROUNDING = 1e-5  # float32, in which a head is kept


def solved(case: Case) -> None:
  """The head is the discriminant of all rows so far, class by class, and nothing else moves."""
  tools, rows = case.tools.at(cases.LAST), []
  hidden = tools.backbone.hidden
  for moment in case.moments:
    rows += [(e.label, tools.text.rows(e)[0]) for e in moment.task.train]
    states = tools.map_targets(hidden, moment.start, [row for _, row in rows])
    tools.folds.forget()
    label_N, state_ND = np.array([c for c, _ in rows]), np.concatenate(states).astype(np.float64)
    seen = np.unique(label_N)
    place_N = np.searchsorted(seen, label_N)
    strength = case.settings.shrinkage or solvers.shrinkage(state_ND, place_N, len(seen))
    found = solvers.discriminant(state_ND, place_N, len(seen), strength)
    head = moment.left['head']
    what = f'task {moment.task.index + 1}'
    near(f'{what}: kernel', np.asarray(head['kernel'])[:, seen], found[0], ROUNDING)
    near(f'{what}: bias', np.asarray(head['bias'])[seen], found[1], ROUNDING)
    kept = lambda params: cases.flat({k: x for k, x in params.items() if k != 'head'})
    nothing(f'{what}: what moves in the backbone', kept(moment.left) - kept(moment.start))


def solves(case: Case) -> bool:
  """Whether it solves a head in place of taking steps."""
  return not case.settings.takes_steps
