"""Lines in an output of any encoding: nothing is lost, nothing ends in an error."""

import io
import sys

import pytest

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
