"""Shows that a change of the code changes no number: python tests/support/same_numbers.py OUT.json

Trains seven methods on two tasks of the quickstart with seed 0, by the launcher, and writes the
accuracy matrix and the SHA-256 of the parameters of each. With a second file, made by an earlier
version of the code on the same machine, it compares the two and ends with status 1 where they
differ: python tests/support/same_numbers.py OUT.json BEFORE.json
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

METHODS = ('seq', 'lamol', 'lamol_kd', 'derpp', 'replay', 'ewc', 'lora')
ROOT = pathlib.Path(__file__).resolve().parents[2]


def trained(method: str, workdir: str) -> dict:
  """`params_sha256` and the matrix of one run."""
  command = [
    sys.executable, str(ROOT / 'launch' / 'train.py'),
    f'--config={ROOT / "configs" / "quickstart.py"}:{method}', f'--workdir={workdir}',
    '--config.train.seed=0', '--config.stream.max_tasks=2',
  ]  # fmt: skip
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  subprocess.run(command, check=True, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
  results = json.loads((pathlib.Path(workdir) / 'results.json').read_text())
  return {name: results[name] for name in ('params_sha256', 'matrix')}


def main(out: str, before: str = '') -> int:
  """Writes the numbers to `out` and compares them with those in `before`."""
  found = {}
  for method in METHODS:
    with tempfile.TemporaryDirectory() as workdir:
      found[method] = trained(method, workdir)
    print(method, found[method]['params_sha256'], found[method]['matrix'][-1], flush=True)
  pathlib.Path(out).write_text(json.dumps(found, indent=1) + '\n')
  if not before:
    return 0
  earlier = json.loads(pathlib.Path(before).read_text())
  differing = [method for method in METHODS if found[method] != earlier[method]]
  print(f'differing: {", ".join(differing) or "none"}')
  return int(bool(differing))


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
