"""Every field of results.json and metrics.jsonl is documented, and what is documented occurs."""

import json
import re

import pytest
from support import ROOT, runs

PAGE = (ROOT / 'docs' / 'reading-results.md').read_text()
SMALL = {'max_tasks': 2, 'max_train_per_task': 16, 'max_test_per_task': 4}
OPEN = {  # objects whose keys are the data's
  'overlap': 'TASK', 'buffer[].tasks': 'TASK', 'buffer[].classes': 'CLASS',
  'pseudo[].by_task': 'TASK', 'metrics_train': 'METRIC',
  'answer_scores': 'METRIC', 'weights[].terms': 'TERM',
}  # fmt: skip


def documented(heading: str) -> dict[str, bool]:
  """{field: whether it is optional} of the tables in a section of the page."""
  text = re.split(r'^## ', PAGE.split(f'\n## {heading}\n')[1], flags=re.MULTILINE)[0]
  rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| `')]
  names = [
    (name, '*optional:*' in row[-1]) for row in rows for name in re.findall(r'`(.+?)`', row[0])
  ]
  assert len(dict(names)) == len(names), 'a field stands twice'
  return dict(names)


def fields(value: object, path: str = '') -> set[str]:
  """The paths of all fields of a results.json."""
  if path == 'config':
    return {'config.GROUP.SETTING'}
  if isinstance(value, dict):
    if path in OPEN:
      return {f'{path}.{OPEN[path]}'} if value else set()
    return {f for k, inner in value.items() for f in fields(inner, f'{path}.{k}'.lstrip('.'))}
  if isinstance(value, list) and value and isinstance(value[0], dict):
    return {f for inner in value for f in fields(inner, f'{path}[]')}
  return {path}


def learned(
  tmp_path, method: str, killed: bool = False, settings: dict | None = None, **more
) -> tuple[dict, list[dict]]:
  """Results and log of a run of two tasks of one epoch, as the files have them."""
  folder = tmp_path / f'{method} {len(list(tmp_path.iterdir()))}'
  more['train'] = {'epochs': 1} | more.get('train', {})
  made = runs.config(method, stream=SMALL, **more)
  for field, value in (settings or {}).items():
    setattr(made.method, field, value)
  if killed:
    with pytest.raises(runs.Killed):
      runs.run(made, folder, kill=('train', 1))
  runs.run(made, folder)
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return json.loads((folder / 'results.json').read_text()), list(map(json.loads, lines))


def check(results: dict, lines: list[dict]) -> None:
  known, logged = documented('results.json'), documented('metrics.jsonl')
  found = fields(results)
  empty = {name.split('[]')[0] for name in known if '[]' in name} | {'negative_flips'}
  assert found - known.keys() - empty == set()
  needed = {name for name, optional in known.items() if not optional}
  if results['negative_flips'] is None:
    needed = {name for name in needed if not name.startswith('negative_flips')}
  assert needed - found == set()
  assert {key for line in lines for key in line} - {'task', 'step'} - logged.keys() == set()


@pytest.mark.slow
def test_a_run_with_pseudo_samples_and_a_penalty(tmp_path):
  results, lines = learned(tmp_path, 'lamol+ewc', killed=True, evaluate={'every_epochs': 1})
  check(results, lines)
  assert {'qa', 'gen', 'ewc', 'dev'} <= {key for line in lines for key in line}
  assert {'pseudo[].verbatim', 'resumes[].phase'} <= fields(results)


@pytest.mark.slow
def test_every_documented_field_occurs(tmp_path):
  """But for those of a bad step, changed settings, or one generation token for three tasks."""
  probe = tmp_path / 'probe.txt'
  probe.write_text('what will the weather be like in the mountains tomorrow\n')
  small = {'l1': 1e-9, 'l2': 1e-9, 'gradient_norms_every': 2}
  made = [
    learned(tmp_path, 'lamol_kd+ewc+l2+mas', killed=True, train=small),
    learned(tmp_path, 'derpp', adversarial={'epsilon': 0.1}),
    learned(tmp_path, 'distill', evaluate={'probe': str(probe)}),
    learned(tmp_path, 'closed_form'),
    learned(tmp_path, 'closed_form', settings={'solver': 'lda', 'projection': 4000}),
    learned(tmp_path, 'closed_form', settings={'choose_state': True}),
    learned(tmp_path, 'agem', train={'speed_every': 30.0}, settings={'answers': 'own'}),
    learned(tmp_path, 'olora'),
    learned(tmp_path, 'sdft'),
    learned(tmp_path, 'pretrain', evaluate={'every_epochs': 1}),
    learned(tmp_path, 'seq', train={'epochs': 12, 'learning_rate': 1e-2}),  # it forgets
    learned(tmp_path, 'replay', train={'learning_rate': 1e3}),  # it diverges
  ]
  for results, lines in made:
    check(results, lines)
  rare = {
    'config_changes[].time',
    'config_changes[].snapshot',
    'config_changes[].changes.SETTING',
    'metrics_train.METRIC',
    'refused_steps[].task',
    'refused_steps[].count',
    'pseudo[].by_task.TASK',
  }
  found = {f for results, _ in made for f in fields(results)}
  assert documented('results.json').keys() - found == rare
  logged = {key for _, lines in made for line in lines for key in line}
  terms = documented('metrics.jsonl').keys() - logged
  assert terms == {'refused', 'rows'}
