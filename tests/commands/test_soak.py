"""The soak draws runs that every method takes, on the synthetic stream and on files of its own."""

import pytest
from support import slow

from jcl import methods
from jcl.commands import soak
from jcl.preflight import checks
from jcl.training import experiment


@pytest.mark.parametrize('method', slow.but(['seq_star', 'closed_form'], list(methods.BUILT_IN)))
def test_a_drawn_run_can_be_assembled(method, tmp_path, monkeypatch):
  seen = set()
  for own in (0.0, 1.0):
    monkeypatch.setattr(soak, 'OWN', own)
    made, _ = soak.Soak(tmp_path, seed=1)._draw_config(method, tmp_path / str(own))
    parts = experiment.assemble(made)
    checks.checkup(parts)
    task = parts.stream.tasks[0]
    parts.method.plan(parts.method.init(parts.initial_params(), parts.stream, parts.tools), task)
    seen.add(made.stream.name)
  assert len(seen) == (1 if made.scenario == 'cpt' else 2)
