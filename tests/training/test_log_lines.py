"""Logged steps: a short task has enough of them for a mean, and every task its last."""

import pytest
from support import runs

from jcl.training import experiment
from jcl.training.loop import Loop


@pytest.mark.parametrize(
  ('steps', 'every', 'logged'),
  [
    (12, 10, [*range(1, 13)]),  # fewer than 16: all
    (37, 10, [*range(1, 38, 2)]),
    (34, 10, [*range(1, 34, 2), 34]),  # the last one too
    (34, 1, [*range(1, 35)]),
  ],
)
def test_steps_of_a_short_task_are_logged(steps, every, logged):
  made = runs.config('seq', stream={'max_tasks': 2}, train={'steps': steps, 'log_every': every})
  loop = Loop(experiment.assemble(made), None, quiet=True)
  loop.run()
  for task in (0, 1):
    lines = [line for line in loop.output.log.lines if line['task'] == task and 'loss' in line]
    assert [line['step'] for line in lines] == logged
