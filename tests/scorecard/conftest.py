"""Says every cell's outcome as a line of JSON, for `launch/check.py`.

JCL_SCORECARD names the file; which cells are run, see `names`.
"""

import json
import os
import pathlib

import pytest

import jcl
from scorecard import names
from scorecard.wrong import Wrong

OUT = 'JCL_SCORECARD'


def _say(line: dict) -> None:
  if os.environ.get(OUT):
    with open(os.environ[OUT], 'a') as file:
      file.write(json.dumps(line) + '\n')


def _cell(item: pytest.Item) -> tuple[str, str]:
  """(check, method); the own row's columns come last in both."""
  return item.callspec.params['check'], item.callspec.params['method']


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
  """Leaves the cells that are asked for, in the order of rows, and says which they are."""
  mine = [i for i in items if i.get_closest_marker('scorecard') and hasattr(i, 'callspec')]
  wanted = set(names.asked())
  if wanted:
    gone = [i for i in mine if not {_cell(i), ('*', _cell(i)[1])} & wanted]
    config.hook.pytest_deselected(items=gone)
    items[:] = [i for i in items if i not in gone]
    mine = [i for i in mine if i not in gone]
  _say({'jcl': str(pathlib.Path(jcl.__file__).parent), 'cells': [_cell(i) for i in mine]})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  """A wrong figure is a fail, any other exception an error."""
  report = yield
  if item.get_closest_marker('scorecard') and (report.when == 'call' or not report.passed):
    check, method = _cell(item)
    line = {'check': check, 'method': method, 'outcome': 'pass', 'seconds': round(call.duration, 2)}
    reason = dict(item.user_properties).get('does not apply')
    if reason:
      line |= {'outcome': 'does not apply', 'says': reason}
    if call.excinfo is not None:
      kind, said = call.excinfo.type, ' '.join(str(call.excinfo.value).split())
      fails = issubclass(kind, Wrong)
      line |= {
        'outcome': 'fail' if fails else 'error',
        'says': said if fails else f'{kind.__name__}: {said}'[:500],
      }
    _say(line)
  return report
