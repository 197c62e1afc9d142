"""The tests of the repository, which `check` and `soak` call and a wheel does not hold."""

import importlib.util
import pathlib
import sys

import jcl
from jcl.errors import UserError


def use_tests(command: str) -> None:
  """Puts the folder of the tests on the path of imports.

  Args:
    command: name of the command that needs them.

  Raises:
    UserError: jcl runs from a wheel, or pytest is missing.
  """
  tests = pathlib.Path(jcl.__file__).resolve().parent.parent / 'tests'
  if not (tests / 'scorecard' / 'run.py').is_file():
    raise UserError(
      f'jcl {command} runs the tests of the repository, which the installed package does not hold; '
      f"clone the repository, pip install -e '.[test]' in it, and call jcl {command} again"
    )
  if importlib.util.find_spec('pytest') is None:
    raise UserError("pytest is missing; install the extra test: pip install -e '.[test]'")
  if str(tests) not in sys.path:
    sys.path.insert(0, str(tests))
