"""Executes the notebooks of this folder into a copy with outputs, or sets the address they name.

    python launch/notebooks/execute.py --out=executed [--small] [--names=quickstart,lora]
    python launch/notebooks/execute.py --repository=https://github.com/you/jcl

`repository.txt` holds the address that the badges and the first cells name; the second command
writes it and them. The notebooks here stay without outputs. It needs the extra `notebooks`.
"""

import argparse
import os
import pathlib
import sys

try:
  import nbclient
  import nbformat
except ImportError as error:
  sys.exit(
    f'error: {error.name} is not installed: pip install "jcl[notebooks]", or -e ".[notebooks]"'
  )

HERE = pathlib.Path(__file__).resolve().parent
ADDRESS = HERE / 'repository.txt'
BADGE = (
  '[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]'
  '(https://colab.research.google.com/github/{owner}/blob/main/launch/notebooks/{name}.ipynb)'
)
SETUP = """import importlib.util
import pathlib
import subprocess
import sys

REPOSITORY = '{address}'  # where Colab installs jcl from

if importlib.util.find_spec('jcl') is None:
  places = (pathlib.Path.cwd(), *pathlib.Path.cwd().parents)
  clone = next((str(p) for p in places if (p / 'jcl').is_dir()), '')
  source = clone or f'git+{{REPOSITORY}}'
  assert '/OWNER/' not in source, 'set REPOSITORY to the address of jcl'
  subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', source], check=True)"""


def names() -> list[str]:
  """Returns the names of the notebooks."""
  return sorted(file.stem for file in HERE.glob('*.ipynb'))


def badge(name: str, address: str) -> str:
  """Returns the badge of a notebook."""
  return BADGE.format(owner=address.removeprefix('https://github.com/'), name=name)


def set_address(address: str) -> None:
  """Writes the address of the repository, and the first cells of all notebooks."""
  ADDRESS.write_text(f'{address}\n')
  for name in names():
    file = HERE / f'{name}.ipynb'
    notebook = nbformat.read(file, 4)
    notebook.cells[0].source = badge(name, address)
    notebook.cells[2].source = SETUP.format(address=address)
    nbformat.write(notebook, file)


def execute(name: str, out: pathlib.Path, small: bool) -> None:
  """Executes a notebook into a copy.

  Args:
    name: of the notebook.
    out: folder of the copy, in which it runs too.
    small: on settings of seconds.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed; the copy has the outputs up to there.
  """
  notebook = nbformat.read(HERE / f'{name}.ipynb', 4)
  os.environ['JCL_SMALL'] = '1' if small else ''
  resources = {'metadata': {'path': str(out)}}
  try:
    nbclient.NotebookClient(notebook, timeout=3600, resources=resources).execute()
  finally:
    for cell in notebook.cells:
      if 'outputs' in cell:  # bars of progress are of no use later
        cell.outputs = [output for output in cell.outputs if output.get('name') != 'stderr']
    nbformat.write(notebook, out / f'{name}.ipynb')


def main() -> None:
  """Reads the flags and does what they say."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument('--out', type=pathlib.Path, help='folder of the copies')
  flags.add_argument('--small', action='store_true', help='settings of seconds, as JCL_SMALL=1')
  flags.add_argument('--names', default='', help='notebooks, with commas; all by default')
  flags.add_argument('--repository', default='', help='address of the repository on GitHub')
  given = flags.parse_args()
  if given.repository:
    if not given.repository.startswith('https://github.com/'):
      flags.error('--repository: give https://github.com/OWNER/NAME')
    set_address(given.repository.rstrip('/'))
  elif not given.out:
    flags.error('--out is missing; give --out=FOLDER')
  if given.out:
    given.out.mkdir(parents=True, exist_ok=True)
    small = given.small or bool(os.environ.get('JCL_SMALL'))
    wanted = given.names.split(',') if given.names else names()
    if unknown := set(wanted) - set(names()):
      flags.error(f'--names: no notebook {min(unknown)}; there are {", ".join(names())}')
    for name in wanted:
      copy = given.out / f'{name}.ipynb'
      try:
        execute(name, given.out.resolve(), small)
      except nbclient.exceptions.CellExecutionError as error:
        sys.exit(f'error: a cell failed: {error.ename}: {error.evalue}; {copy} shows where')
      print(copy, flush=True)


if __name__ == '__main__':
  main()
