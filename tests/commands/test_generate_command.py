"""What a model wrote is printed as a terminal may show it."""

import types

import numpy as np
from absl import flags
from support import runs, tiny

import jcl.trained_run
import jcl.workdir
from jcl.commands import command_line, generate

HOSTILE = 'a\x1b[31m b\nc\u202e 天气'
SHOWN = r'a\x1b[31m b\nc\u202e 天气'


class Trained:
  """A run whose samples steer a terminal."""

  def __init__(self, *_):
    text = types.SimpleNamespace(
      encoder=types.SimpleNamespace(policy='refuse'), written=lambda name: name,
      text_format='lamol', decode=lambda ids: HOSTILE,
      parse=lambda ids: (HOSTILE, HOSTILE) if ids[0] else None,
    )  # fmt: skip
    self.tools = types.SimpleNamespace(text=text)
    self.parts = types.SimpleNamespace(stream=tiny.stream())

  def samples(self, *_):
    yield 'home', np.array([[1], [0]])

  def continued(self, *_):
    return [HOSTILE]


def called(monkeypatch, config, *arguments):
  monkeypatch.setattr(jcl.trained_run, 'TrainedRun', Trained)
  monkeypatch.setattr(jcl.workdir, 'load_workdir', lambda *_: config)
  given = flags.FlagValues()
  generate.define_flags(given, arguments)
  command_line.parse(given, ['--workdir=run', *arguments])
  generate.run(given)


def test_pseudo_samples_are_escaped(monkeypatch, capsys):
  called(monkeypatch, runs.config('lamol'))
  assert capsys.readouterr().out.splitlines() == [
    'home: 1 of 2 well formed', f'  {SHOWN}  →  {SHOWN}', f'  (not well formed) {SHOWN}'
  ]  # fmt: skip


def test_continuations_are_escaped(monkeypatch, capsys):
  called(monkeypatch, runs.config('pretrain'), f'--prompt={HOSTILE}')
  assert capsys.readouterr().out.splitlines() == [f'{SHOWN} … {SHOWN}']
