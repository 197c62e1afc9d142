"""`jcl doctor`: what it reads, and what it refuses."""

import json

import pytest

from jcl.commands import doctor
from jcl.errors import UserError

RESULTS = {
  'method': 'seq', 'tasks': ['a', 'b'], 'matrix': [[0.0, 0.0], [0.9, 0.0], [0.9, 0.01]],
  'finished': True,
}  # fmt: skip


def folder(tmp_path, log=None, **changes):
  """Writes a workdir."""
  (tmp_path / 'results.json').write_text(json.dumps(RESULTS | changes))
  if log is not None:
    (tmp_path / 'metrics.jsonl').write_bytes(log)
  return tmp_path


def test_findings_are_lines_with_their_names(tmp_path, capsys):
  doctor.show(folder(tmp_path))
  line, command = capsys.readouterr().out.splitlines()
  assert command == f'  jcl evaluate --workdir={tmp_path} --wrong=5'
  assert line.startswith('not learned: 1 of 2 tasks (b) gained less than 0.05 when they were')


def test_all_is_well_is_said(tmp_path, capsys):
  doctor.show(folder(tmp_path, matrix=[[0.0, 0.0], [0.9, 0.0], [0.9, 0.8]]))
  assert capsys.readouterr().out == 'nothing looks wrong\n'


def test_of_a_run_under_way_the_finished_tasks_are_looked_at(tmp_path, capsys):
  doctor.show(folder(tmp_path, finished=False, matrix=[[0.0, 0.0], [0.02, 0.0]]))
  first, second, _ = capsys.readouterr().out.splitlines()
  assert first == 'the run is not finished: what follows is of the tasks that are'
  assert second.startswith('not learned: 1 of 1 tasks (a)')


def test_damaged_lines_are_counted_and_a_half_written_one_is_not(tmp_path, capsys):
  good = b'{"task": 1, "loss": 1.0, "gradient_norm": 500.0}\n'
  log = good + b'{"task": 0, "lo\n' + b'\xff\xfe\n' + b'[1]\n' + 7 * good + b'{"task": 0, "lo'
  matrix = [[0.0, 0.0], [0.9, 0.0], [0.9, 0.5]]
  doctor.show(folder(tmp_path, log, config={'train': {'clip_norm': 1.0}}, matrix=matrix))
  said = capsys.readouterr().out.splitlines()
  assert said[0] == 'warning: metrics.jsonl: damaged lines, which are left out: 3'
  assert any(line.startswith('clipped: the median gradient norm of a task is 500') for line in said)


def test_a_folder_without_results_is_refused(tmp_path):
  with pytest.raises(UserError, match=r'has no results\.json'):
    doctor.show(tmp_path)
