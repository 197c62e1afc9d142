"""Runs that go on elsewhere, in a process with so many devices: FOLDER CELL CELL …

A cell is JSON: the method, the folder that a run goes on from (empty: a new run) and the one that
it goes on in, what changes in its config, and the step of the second task after whose snapshot it
dies (0: it ends). What each run says is printed as a line of JSON.
"""

import json
import pathlib
import shutil
import sys

from jcl import workdir
from jcl.training import experiment
from support import runs


class Cut(runs.Loop):
  """Dies when the snapshot of a step of the second task is on the disk; keeps what it says."""

  def __init__(self, made, folder, step):
    self.lines, self._step = [], step
    super().__init__(experiment.assemble(made), folder, quiet=True)
    self.output.say = self.lines.append

  def _save(self, now):
    super()._save(now)
    if self._step and (now.done, now.step) == (2 + 4 + 1, self._step):
      self.output.snapshots.wait()
      raise runs.Killed


def config(method):
  """Two tasks of five steps each, a snapshot after every step."""
  return runs.config(
    method, stream={'max_tasks': 2}, train={'steps': 5, 'gradient_norms_every': 2},
    checkpoint={'every_steps': 1},
  )  # fmt: skip


def run(root: pathlib.Path, cell: dict) -> list[str]:
  """Runs a cell -> what it said."""
  folder, made, said = root / cell['to'], config(cell['method']), []
  if cell['source']:
    shutil.copytree(root / cell['source'], folder)
  for name, value in cell['changes'].items():
    section, field = name.split('.')
    setattr(getattr(made, section), field, value)
  allowed = list({**cell['changes'], **cell['allowed']})
  workdir.open_workdir(str(folder), made, allowed, said.append)
  loop = Cut(made, folder, cell['cut'])
  try:
    loop.run()
    assert not cell['cut']
  except runs.Killed:
    assert cell['cut']
  return said + loop.lines


if __name__ == '__main__':
  for text in sys.argv[2:]:
    print(json.dumps(run(pathlib.Path(sys.argv[1]), json.loads(text))))
