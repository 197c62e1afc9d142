"""The notebooks run, on small settings, are committed without outputs, and name one address."""

import importlib.util
import os
import subprocess
import sys

import nbformat
import pytest
from support import ROOT

FOLDER = ROOT / 'launch' / 'notebooks'
NAMES = sorted(file.stem for file in FOLDER.glob('*.ipynb'))
PICTURES = {'quickstart': 1, 'general_skills': 1}
SAYS = {  # in the outputs
  'quickstart': ('after kitchen', 'A_T', 'drawn', 'verbatim'),
  'own_tasks': ('helpdesk', 'after billing', "'Sports'"),
  'pseudo_samples': ('before ', "{'gamma': 0.2} A_T"),
  'new_method': ('steady on synthetic', 'steady+replay on synthetic', ' 0 red'),
  'lora': ('adapter_config.json', 'merged by ties'),
  'general_skills': ('seq on synthetic', 'distill on synthetic', 'forgetting'),
}


def module():
  """The command of the folder."""
  spec = importlib.util.spec_from_file_location('execute', FOLDER / 'execute.py')
  found = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(found)
  return found


def test_there_are_six():
  assert set(NAMES) == set(SAYS)
  assert module().names() == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_has_no_outputs_and_the_address_of_the_folder(name):
  command, address = module(), (FOLDER / 'repository.txt').read_text().strip()
  notebook = nbformat.read(FOLDER / f'{name}.ipynb', 4)
  nbformat.validate(notebook)
  cells = notebook.cells
  assert len(cells) > 8
  assert not any(cell.get('outputs') or cell.get('execution_count') for cell in cells)
  assert cells[0].source == command.badge(name, address)
  assert cells[2].source == command.SETUP.format(address=address)
  text = ''.join(cell.source for cell in cells)
  assert text.count('colab.research.google.com/github/') == 1
  assert text.count('https://github.com/') == 1
  assert 'JCL_SMALL' in text


def test_the_readme_says_that_badges_lead_nowhere_as_long_as_they_do():
  address, page = (
    (FOLDER / 'repository.txt').read_text().strip(),
    (FOLDER / 'README.md').read_text(),
  )
  assert all(f'`{name}.ipynb`' in page for name in NAMES)
  assert ('lead nowhere' in page) == ('/OWNER/' in f'{address}/')
  assert '--repository=' in page


def test_the_address_is_set_in_all_of_them(tmp_path, monkeypatch):
  command = module()
  for name in NAMES:
    (tmp_path / f'{name}.ipynb').write_bytes((FOLDER / f'{name}.ipynb').read_bytes())
  monkeypatch.setattr(command, 'HERE', tmp_path)
  monkeypatch.setattr(command, 'ADDRESS', tmp_path / 'repository.txt')
  command.set_address('https://github.com/me/mine')
  assert (tmp_path / 'repository.txt').read_text() == 'https://github.com/me/mine\n'
  for name in NAMES:
    text = (tmp_path / f'{name}.ipynb').read_text()
    assert f'github/me/mine/blob/main/launch/notebooks/{name}.ipynb' in text
    assert "REPOSITORY = 'https://github.com/me/mine'" in text
    assert 'OWNER' not in text.replace('/OWNER/', '')


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_runs(name, tmp_path):
  ran = subprocess.run(
    [sys.executable, str(FOLDER / 'execute.py'), f'--out={tmp_path}', '--small', f'--names={name}'],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True, text=True, timeout=1800, check=False,
  )  # fmt: skip
  assert ran.returncode == 0, ran.stderr[-3000:]
  cells = nbformat.read(tmp_path / f'{name}.ipynb', 4).cells
  outputs = [o for cell in cells for o in cell.get('outputs', ())]
  text = ''.join(o.get('text', '') + str(o.get('data', {}).get('text/plain', '')) for o in outputs)
  assert [words for words in SAYS[name] if words not in text] == []
  pictures = [o for o in outputs if 'image/png' in o.get('data', {})]
  assert len(pictures) == PICTURES.get(name, 0)
