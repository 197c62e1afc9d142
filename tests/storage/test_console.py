"""Lines in an output of any encoding: nothing is lost, nothing ends in an error."""

import io
import os
import shlex
import subprocess
import sys

import pytest
from support import ROOT

from jcl.learning import Result
from jcl.storage import console

LINE = 'Ā 97.5 ± 1 · a → b … 天 é 🙂 \ud800'
SAID = {
  'ascii': 'A 97.5 +/- 1 . a -> b ... \\u5929 \\xe9 \\U0001f642 \\ud800',
  'cp1252': 'A 97.5 ± 1 · a -> b … \\u5929 é \\U0001f642 \\ud800',
  'latin-1': 'A 97.5 ± 1 · a -> b ... \\u5929 é \\U0001f642 \\ud800',
  'utf-8': 'Ā 97.5 ± 1 · a → b … 天 é 🙂 \\ud800',
}


def output(encoding: str) -> io.TextIOWrapper:
  return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline='')


@pytest.mark.parametrize('encoding', SAID)
def test_a_line_is_said_in_any_encoding(encoding, monkeypatch):
  out = output(encoding)
  console.show(LINE, out)
  assert out.buffer.getvalue().decode(encoding) == SAID[encoding] + '\n'
  monkeypatch.setattr(sys, 'stdout', out)
  assert console.sayable(LINE) == SAID[encoding]
  console.make_outputs_plain()
  print(LINE, flush=True)  # as a command does
  assert out.buffer.getvalue().decode(encoding) == 2 * (SAID[encoding] + '\n')


def test_an_output_without_an_encoding(monkeypatch):
  monkeypatch.setattr(sys, 'stdout', None)
  console.make_outputs_plain()
  assert console.sayable('天') == '天'


def test_a_result_prints_itself_in_any_encoding(monkeypatch):
  out = output('ascii')
  monkeypatch.setattr(sys, 'stdout', out)
  matrix = [[0.5, None], [0.5, None], [1.0, 0.5]]
  results = {
    'method': 'seq', 'stream': 's', 'scenario': 'cil', 'seed': 0, 'tasks': ['天', 'b'],
    'score': 'accuracy', 'matrix': matrix, 'metrics': {'average_accuracy': 0.75},
  }  # fmt: skip
  print(Result(results, None))
  out.flush()
  assert b'\\u5929' in out.buffer.getvalue()


FULL = 'error: stdout: No space left on device; free some space, and the same command goes on'
ENDED = 'error: stdout: Broken pipe; the program that reads it has ended'


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize(
  ('how', 'status', 'says'),
  [('--help > /dev/full', 2, FULL), ('--help > >(exec true)', 2, ENDED),
   ('nonsense 2> /dev/full', 2, ''), ('--help >&-', 0, ''), ('--help <&- >&- 2>&-', 0, '')],
)  # fmt: skip
def test_an_output_that_is_full_or_closed(how, status, says, unbuffered):
  done = subprocess.run(
    ['bash', '-c', f'exec {sys.executable} -m jcl.cli {how}'], cwd=ROOT,
    capture_output=True, text=True, timeout=60, check=False,
    env={**os.environ, 'PYTHONUNBUFFERED': unbuffered},
  )  # fmt: skip
  assert (done.returncode, done.stderr.strip()) == (status, says)


def test_a_file_does_not_take_the_place_of_a_closed_output(tmp_path):
  code = (
    'import sys; from jcl.storage import console; console.name_outputs(); '
    'file = open(sys.argv[1], "w"); print(file.fileno(), file=file)'
  )
  there = shlex.join([sys.executable, '-c', code, str(tmp_path / 'a')])
  subprocess.run(['bash', '-c', f'{there} <&- >&- 2>&-'], check=True, cwd=ROOT)
  assert int((tmp_path / 'a').read_text()) > 2


@pytest.mark.parametrize('encoding', ['idna', 'undefined', 'utf-16', 'hz', 'iso2022_jp'])
def test_an_encoding_that_can_write_no_line_becomes_utf8(encoding, monkeypatch):
  out = output(encoding)
  monkeypatch.setattr(sys, 'stdout', out)
  console.make_outputs_plain()
  print(LINE, flush=True)
  console.show(LINE)
  assert out.buffer.getvalue().decode(out.encoding).count('97.5') == 2


class Terminal(io.StringIO):
  encoding = 'utf-8'

  def isatty(self) -> bool:
    return True


@pytest.mark.parametrize(
  ('environment', 'coloured'),
  [({}, True), ({'NO_COLOR': ''}, True), ({'NO_COLOR': '1'}, False), ({'TERM': 'dumb'}, False)],
)
def test_warnings_have_a_colour_on_a_terminal_unless_it_is_turned_off(
  environment, coloured, monkeypatch
):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.delenv('NO_COLOR', raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  output = Terminal()
  assert console.has_colours(output) == coloured
  console.show('warning: a: b', output)
  console.show('after bank: 3', output)
  sign = '\x1b[33mwarning:\x1b[0m' if coloured else 'warning:'
  assert output.getvalue() == f'{sign} a: b\nafter bank: 3\n'
  file = io.StringIO()
  console.show('warning: a', file)
  assert file.getvalue() == 'warning: a\n'
