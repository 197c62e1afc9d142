"""Kills runs again and again, lets them end, and compares each with one that was left alone.

    jcl soak --minutes=30 --seed=0 [--methods=lamol,ewc] [--workdir=DIR]

Processes die by SIGKILL, at an event drawn from all that a run passes or at any moment, or are
asked to stop by SIGTERM; the same run is then resumed. Half of the runs read files of their own,
which are edited between two lives: such a resume must be refused, and go on once they are restored.
The exit status is 1 if the end of a run differs in one bit, if more was repeated than the settings
allow, or if an edit went unnoticed. It needs a clone of the repository and the extra `test`.
"""

import collections
import dataclasses
import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from jcl.commands import command_line, jax_settings, repository
from jcl.config import Config
from jcl.errors import UserError, count_of

KILLS = (3, 9)  # kills of a run, at least and at most
GENTLE = 0.1  # fraction of the kills that are requests to stop
TIMED = 0.4  # fraction of the kills that strike at any moment, not at an event
OWN = 0.5  # fraction of the pairs that read files of their own
EDITED = 0.5  # fraction of the kills of those after which the files are edited
EVERY = (1, 2, 5)  # steps and chunks that a kill may cost


class Soak:
  """Pairs of runs of the same config, one left alone and one killed.

  Attributes:
    started: number of pairs.
    struck: number of kills by kind.
    refused: number of resumes on edited inputs, each of which must be refused, by kind.
    rounds: number of pairs that were equal, by method.
    wrong: a line for each pair that differs.
  """

  def __init__(self, root: pathlib.Path, seed: int):
    import numpy as np

    self._root, self._random = root, np.random.default_rng(seed)
    self.started = 0
    self.struck: collections.Counter = collections.Counter()
    self.refused: collections.Counter = collections.Counter()
    self.rounds: collections.Counter = collections.Counter()
    self.wrong: list[str] = []

  @property
  def kills(self) -> int:
    """Number of kills by SIGKILL."""
    return sum(count for kind, count in self.struck.items() if kind != 'asked to stop')

  def round(self, method: str) -> None:
    """Trains one pair of runs in a new folder and compares them."""
    from support import kills

    random, folder = self._random, self._root / f'{self.started}-{method}'
    self.started += 1
    folder.mkdir(parents=True)
    made, more = self._draw_config(method, folder)
    start = time.monotonic()
    try:
      life = kills.whole(made, folder / 'alone')
      seconds = time.monotonic() - start
      for _ in range(int(random.integers(KILLS[0], KILLS[1] + 1))):
        if not self._strike(made, folder / 'killed', life, seconds):
          break
        if made.backbone.path and random.random() < EDITED:
          self._resume_edited(made, folder)
      assert kills.start(made, folder / 'killed') == 0
      kills.check_repeats(folder / 'killed', made)
      kills.check_same(folder / 'killed', folder / 'alone')
      self.rounds[method] += 1
    except AssertionError as error:
      self.wrong.append(
        f'{method}, {more}, packing {made.train.packing}: {" ".join(str(error).split())[:400]}'
      )

  def _draw_config(self, method: str, folder: pathlib.Path) -> tuple[Config, dict]:
    """Draws the settings of a pair of runs and whether it reads files of its own.

    Args:
      method: its name.
      folder: where such files are written.

    Returns:
      The config, and those of its settings that were drawn, by section.
    """
    from support import kills

    random = self._random
    every = {name: int(random.choice(EVERY)) for name in ('every_steps', 'every_chunks')}
    variants = kills.variants(method)
    more = variants[int(random.integers(len(variants)))]
    more = {**more, 'checkpoint': every | more.get('checkpoint', {})}
    made = kills.config(method, seed=int(random.integers(2**31)), **more)
    if made.scenario != 'cpt':  # whose blocks have no place left
      if made.method.takes_steps:
        made.train.packing = str(random.choice(['on', 'off']))
      if random.random() < OWN:
        made = self._on_own_files(made, folder)
    return made, more

  def _on_own_files(self, made: Config, folder: pathlib.Path) -> Config:
    """Writes tables and a base model of their own for a pair of runs; returns its config."""
    from support import own_data

    manifest = own_data.write(folder / 'data')
    own = own_data.config(manifest).stream
    made.stream = dataclasses.replace(own, max_length=made.stream.max_length)
    return own_data.pretrained(made, own_data.base_model(folder / 'base', manifest))

  def _resume_edited(self, made: Config, folder: pathlib.Path) -> None:
    """Edits rows, tokenizer or weights of a killed run, which must then be refused; restores."""
    from support import kills, own_data

    from jcl.training import inputs

    manifest, base = folder / 'data' / 'manifest.json', folder / 'base'
    edits = {
      'stream.data': (own_data.edit_rows, manifest),
      'backbone.tokenizer': (own_data.edit_tokenizer, base),
      'backbone.weights': (own_data.edit_weights, base),
    }
    word = str(self._random.choice(list(edits)))
    for name in ('data', 'base'):
      shutil.copytree(folder / name, folder / f'{name}.kept')
    edit, place = edits[word]
    edit(place)
    begun = (folder / 'killed' / inputs.FILE).exists()  # else the kill came before it was written
    if begun:
      kills.start(made, folder / 'killed', refused=True)
      assert f'{word} of ' in kills.said(folder / 'killed'), f'{word}: refused for another reason'
      self.refused[word] += 1
    for name in ('data', 'base'):
      shutil.rmtree(folder / name)
      (folder / f'{name}.kept').rename(folder / name)

  def _strike(self, made: Config, folder: pathlib.Path, life: list, seconds: float) -> bool:
    """Starts the run once and kills it; returns False if it ended before."""
    from support import kills

    random, die_at, after, gently = self._random, None, 0.0, False
    last = kills.last_event(folder)
    kind = 'at any moment'
    if random.random() < TIMED:
      after = float(random.uniform(0.05, seconds))
      gently = bool(random.random() < GENTLE / TIMED)
    else:
      place = life.index(last) if last in life else 0
      # Not too far on, so that several kills find their place before the run ends.
      most = min(place + 2 + len(life) // 5, len(life))
      die_at = life[int(random.integers(place, most))]
      kind = kills.kind(die_at)
    code = kills.start(made, folder, die_at, after, gently)
    if code:
      self.struck['asked to stop' if gently else kind] += 1
    return code != 0


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  flags.DEFINE_float('minutes', 30, 'minutes to go on', None, None, given)
  flags.DEFINE_integer('seed', 0, 'seed of the methods, settings and kills', 0, None, given)
  command_line.define_list(given, 'methods', '', 'names of methods, with commas; empty: all')
  command_line.define_path(
    given, 'workdir', '', 'new folder that the runs stay in; empty: a temporary one'
  )


def run(given: flags.FlagValues) -> int:
  """Soaks, prints how it goes and a table at the end, and returns the exit status."""
  from jcl import methods

  repository.use_tests('soak')
  names = list(dict.fromkeys(given.methods))
  for name in names:
    methods.settings(name)
  if not given.minutes > 0:
    raise UserError(f'--minutes={given.minutes}: give a number above 0')
  kept = pathlib.Path(given.workdir) if given.workdir else None
  if kept is not None and kept.exists():
    raise UserError(f'--workdir: {kept} is there already; name a new folder')
  jax_settings.use_compile_cache()
  with tempfile.TemporaryDirectory(prefix='jcl-soak-') as scratch:
    soak = Soak(kept or pathlib.Path(scratch), given.seed)
    seconds = _soak(soak, names or list(methods.BUILT_IN), 60 * given.minutes, kept is None)
  _print_table(soak)
  figures = {
    'minutes': round(seconds / 60, 1), 'seed': given.seed, 'runs': soak.started,
    'kills': soak.kills, 'refused': soak.refused.total(), 'differences': len(soak.wrong),
  }  # fmt: skip
  print(json.dumps(figures))
  return 1 if soak.wrong else 0


def _soak(soak: Soak, names: Sequence[str], seconds: float, at_once: bool) -> float:
  """Trains pairs of runs of the methods in turn and returns the seconds that it took.

  Args:
    soak: the pairs.
    names: of the methods.
    seconds: after which no new pair begins.
    at_once: whether to print a difference when it is found.
  """
  start, passed = time.monotonic(), 0.0
  while passed < seconds:
    soak.round(names[soak.started % len(names)])
    passed = time.monotonic() - start
    print(
      f'{passed / 60:5.1f} min: {count_of(soak.started, "run")}, {count_of(soak.kills, "kill")}, '
      f'{count_of(len(soak.wrong), "difference")}', flush=True,
    )  # fmt: skip
    if soak.wrong and at_once:
      print(soak.wrong[-1])
  return passed


def _print_table(soak: Soak) -> None:
  """Prints the number of kills by kind and of equal pairs by method, and each difference."""
  from jcl.reports.report import align_columns

  print(align_columns([['killed', 'times'], *([k, str(n)] for k, n in soak.struck.most_common())]))
  edited = soak.refused.most_common()
  print(align_columns([['edited and refused', 'times'], *([k, str(n)] for k, n in edited)]))
  print(align_columns([['method', 'runs equal'], *([k, str(n)] for k, n in soak.rounds.items())]))
  for line in soak.wrong:
    print(f'DIFFERENT  {line}')
