"""`jcl report` on folders of runs that were never trained: the page, and what it warns of."""

import json

import pytest
from absl import flags
from support import reported

from jcl.commands import command_line, report
from jcl.errors import UserError


@pytest.fixture
def folder(tmp_path):
  for method in ('seq', 'lamol'):
    run = tmp_path / 'runs' / method
    run.mkdir(parents=True)
    (run / 'results.json').write_text(json.dumps(reported.run(method)))
    lines = [json.dumps(line) for line in reported.log()]
    (run / 'metrics.jsonl').write_text('\n'.join([*lines, '{"task": 0, "lo', '']))
  return tmp_path / 'runs'


def call(folder):
  given = flags.FlagValues()
  report.define_flags(given, [])
  command_line.define_output_flags(given)
  command_line.parse(given, [f'--runs={folder}', f'--out={folder.parent / "all"}'])
  report.run(given)
  return (folder.parent / 'all' / 'report.html').read_text('utf-8')


def test_the_page_has_the_curves_and_damaged_lines_are_told(folder, capsys):
  page = call(folder)
  assert page.count('Loss and its terms') == 2
  said = capsys.readouterr().out
  place = folder / 'lamol' / 'metrics.jsonl'
  assert f'warning: {place}: damaged lines, which the page leaves out: 1' in said


def test_runs_of_two_streams_are_refused_and_nothing_is_written(folder):
  other = folder / 'other'
  other.mkdir()
  (other / 'results.json').write_text(json.dumps(reported.run('ewc', stream='clinc150')))
  with pytest.raises(UserError, match='are of different streams'):
    call(folder)
  assert not (folder.parent / 'all').exists()


def test_a_folder_without_results_is_refused(tmp_path):
  with pytest.raises(UserError, match=r'holds no results\.json'):
    call(tmp_path)
