"""Says every cell's outcome as a line of JSON, for `launch/check.py`.

JCL_SCORECARD names the file. JCL_SCORECARD_CELLS, where it is given, holds the cells to run,
`check/method` with commas; '*' is every check.
"""

import json
import os
import pathlib

import pytest

import jcl
from scorecard.wrong import Wrong

OUT, CELLS = 'JCL_SCORECARD', 'JCL_SCORECARD_CELLS'


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
  asked = os.environ.get(CELLS)
  if asked:
    wanted = {tuple(cell.split('/')) for cell in asked.split(',')}
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
