"""The package `jcl_outside` on the path, and entry points that name what is in it."""

import pathlib
import sys

from support import TESTS

OUTSIDE = TESTS / 'support' / 'outside'


def on_path(monkeypatch) -> None:
  """Puts the package on the path, as PYTHONPATH would, imported afresh."""
  monkeypatch.syspath_prepend(str(OUTSIDE))
  for name in [n for n in sys.modules if n.partition('.')[0] == 'jcl_outside']:
    monkeypatch.delitem(sys.modules, name)


def installed(monkeypatch, folder: pathlib.Path, package: str, **methods: str) -> None:
  """Puts the metadata of an installed package on the path.

  Args:
    monkeypatch: the fixture.
    folder: where the metadata are written.
    package: name of the package.
    **methods: entry points of the group `jcl.methods`, name by name.
  """
  info = folder / package / f'{package}-1.0.dist-info'
  info.mkdir(parents=True)
  (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n')
  lines = [f'{name} = {place}\n' for name, place in methods.items()]
  (info / 'entry_points.txt').write_text('[jcl.methods]\n' + ''.join(lines))
  monkeypatch.syspath_prepend(str(folder / package))
