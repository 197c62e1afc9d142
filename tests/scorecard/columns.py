"""The columns of the scorecard.

A new column is a function that raises `Wrong` with a figure, and a line of CHECKS (or of SHARED,
where it belongs to no method).
"""

from collections.abc import Callable
from typing import NamedTuple

from scorecard import (
  anchors,
  checks,
  chosen,
  directions,
  drawn,
  general_text,
  own_answers,
  past,
  shared,
  solved,
  subspaces,
  taught,
  terms,
)
from scorecard.cases import Case


class Check(NamedTuple):
  """A column.

  Attributes:
    run: raises `Wrong`.
    could: whether a case has what the column looks at; a cell may say "does not apply" only where
      it has not.
  """

  run: Callable[[Case], None]
  could: Callable[[Case], bool] = lambda case: True


# Columns that hold figures against an oracle, finite differences or the loop's own programs are
# compiled with XLA's optimisations; the others, which compare programs with each other, without.
OPTIMISED = ('value', 'gradient', 'solved', 'subspace', 'taught', 'tasks', 'moves', 'traces')
EVERYWHERE = ('value', 'gradient', 'padding', 'packed', 'order', 'devices', 'split', 'tasks')
CHECKS: dict[str, Check] = {
  'value': Check(checks.value),
  'gradient': Check(checks.gradient),
  'padding': Check(checks.padding),
  'packed': Check(checks.packed),
  'mask': Check(checks.mask),
  'order': Check(checks.order),
  'devices': Check(checks.devices),
  'split': Check(checks.split, checks.accumulates),
  'neutral': Check(checks.neutral, checks.has_neutral),
  'moves': Check(checks.moves),
  'teacher': Check(past.teacher, past.has_teacher),
  'fisher': Check(past.fisher, past.measures),
  'average': Check(past.average, past.averages),
  'freeze': Check(past.freeze, past.warms_up),
  'solved': Check(solved.solved, solved.solves),
  'subspace': Check(subspaces.course, subspaces.keeps),
  'taught': Check(taught.alone, taught.has_one),
  'drawn': Check(drawn.each_epoch, drawn.teaches_itself),
  'tasks': Check(checks.three_tasks),
  'kd': Check(past.direction, past.distils),
  'empty': Check(checks.empty),
  'head': Check(checks.head, checks.classifies),
  'shared_classes': Check(checks.shared_classes, checks.classifies),
  'composed': Check(checks.composed, checks.composes),
  'orders': Check(checks.orders, checks.has_partners),
  'expansion': Check(past.expansion, past.grows),
  'traces': Check(checks.traces, checks.steps),
  'combine': Check(directions.combine, directions.combines),
}
SHARED: dict[str, Callable[[], None]] = {
  'reservoir': shared.reservoir,
  'quota': shared.quota,
  'merges': shared.merged,
  'dft': shared.dft,
  'anchor': anchors.base,
  'self_taught': drawn.variants,
  'own_answers': own_answers.replayed,
  'corpus': general_text.mixed,
  'project': directions.projected,
  'masked': directions.masked,
  'chosen_state': chosen.state,
  'chosen_on_devices': chosen.devices,
  'terms': terms.measured,
}
