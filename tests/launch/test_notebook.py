"""The notebook runs, on a small setting, and is committed without outputs."""

import os
import subprocess
import sys

import nbformat
import pytest
from support import ROOT

NOTEBOOK = ROOT / 'launch' / 'notebooks' / 'quickstart.ipynb'
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
resources = {'metadata': {'path': sys.argv[3]}}
nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
nbformat.write(notebook, sys.argv[2])
"""


def test_no_outputs_are_committed():
  cells = nbformat.read(NOTEBOOK, 4).cells
  assert len(cells) > 10
  assert not any(cell.get('outputs') or cell.get('execution_count') for cell in cells)


@pytest.mark.slow
def test_it_runs_and_ends_in_a_picture(tmp_path):
  done = tmp_path / 'done.ipynb'
  ran = subprocess.run(
    [sys.executable, '-c', EXECUTE, str(NOTEBOOK), str(done), str(NOTEBOOK.parent)],
    env={**os.environ, 'JCL_SMALL': '1'},
    capture_output=True, text=True, timeout=900, check=False,
  )  # fmt: skip
  assert ran.returncode == 0, ran.stderr[-3000:]
  cells = nbformat.read(done, 4).cells
  text = [o.get('text', '') for c in cells for o in c.get('outputs', ())]
  assert any('after kitchen' in t and 'A_T' in t for t in text)
  assert any('drawn' in t and 'verbatim' in t for t in text)
  pictures = [o for c in cells for o in c.get('outputs', ()) if 'image/png' in o.get('data', {})]
  assert len(pictures) == 1
