"""Kills runs again and again, lets them end, and compares each with one that was left alone.

    python launch/soak.py --minutes=30 --seed=0 [--methods=lamol,ewc] [--workdir=DIR]

Children die by SIGKILL, at an event drawn from all that a run passes or at any moment, or are asked
to stop by SIGTERM; the same run then goes on. Whatever differs at the end, to the bit, and whatever
was done twice beyond what the settings allow, ends with exit status 1. Needs the extra `test`.
"""

import collections
import importlib.util
import json
import pathlib
import sys
import tempfile
import time

from absl import flags

from jcl import cli
from jcl.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tests'))

flags.DEFINE_float('minutes', 30, 'how long')
flags.DEFINE_integer('seed', 0, 'of what is drawn', lower_bound=0)
flags.DEFINE_string('methods', '', 'names, with commas; empty: all')
flags.DEFINE_string(
  'workdir', '', 'new folder that runs stay in; empty: they go when they are equal'
)

KILLS = (3, 9)  # of a run, at least and at most
GENTLE = 0.1  # of them that are requests to stop
TIMED = 0.4  # of them that strike at any moment, not at an event
EVERY = (1, 2, 5)  # steps and chunks that a kill may cost


class Soak:
  """Rounds of one run left alone and one killed.

  Attributes:
    struck: kills by kind.
    rounds: runs compared, by method.
    wrong: what differed.
  """

  def __init__(self, root: pathlib.Path, seed: int):
    import numpy as np

    self._root, self._random = root, np.random.default_rng(seed)
    self.struck: collections.Counter = collections.Counter()
    self.rounds: collections.Counter = collections.Counter()
    self.wrong: list[str] = []

  @property
  def kills(self) -> int:
    """SIGKILLs that struck."""
    return sum(count for kind, count in self.struck.items() if kind != 'asked to stop')

  def round(self, method: str, number: int) -> None:
    """Compares one killed run with one left alone."""
    from support import kills

    random, folder = self._random, self._root / f'{number}-{method}'
    folder.mkdir(parents=True)
    every = {name: int(random.choice(EVERY)) for name in ('every_steps', 'every_chunks')}
    variants = kills.variants(method)
    more = variants[int(random.integers(len(variants)))]
    more = {**more, 'checkpoint': every | more.get('checkpoint', {})}
    made = kills.config(method, seed=int(random.integers(2**31)), **more)
    start = time.monotonic()
    try:
      life = kills.whole(made, folder / 'alone')
      seconds = time.monotonic() - start
      for _ in range(int(random.integers(KILLS[0], KILLS[1] + 1))):
        if not self._strike(made, folder / 'killed', life, seconds):
          break
      assert kills.start(made, folder / 'killed') == 0
      kills.check_repeats(folder / 'killed', made)
      kills.check_same(folder / 'killed', folder / 'alone')
      self.rounds[method] += 1
    except AssertionError as error:
      self.wrong.append(f'{method}, {more}: {" ".join(str(error).split())[:400]}')

  def _strike(self, made, folder: pathlib.Path, life: list, seconds: float) -> bool:
    """One life of a run, cut short -> False when it had ended before."""
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


def run() -> int:
  """Soaks, prints how it goes and a table at the end -> exit status."""
  from jcl import methods
  from jcl.reports.report import aligned

  minutes, given = flags.FLAGS.minutes, flags.FLAGS.methods
  names = list(dict.fromkeys(given.split(','))) if given else list(methods.BUILT_IN)
  for name in names:
    methods.settings(name)
  if not minutes > 0:
    raise UserError(f'--minutes={minutes}: give a number above 0')
  if importlib.util.find_spec('pytest') is None:
    raise UserError("pytest is missing; install the extra test: pip install -e '.[test]'")
  kept = pathlib.Path(flags.FLAGS.workdir) if flags.FLAGS.workdir else None
  if kept is not None and kept.exists():
    raise UserError(f'--workdir: {kept} is there already; name a new folder')
  cli.use_compile_cache()
  with tempfile.TemporaryDirectory(prefix='jcl-soak-') as scratch:
    soak = Soak(kept or pathlib.Path(scratch), flags.FLAGS.seed)
    start, number = time.monotonic(), 0
    while time.monotonic() - start < 60 * minutes:
      soak.round(names[number % len(names)], number)
      number += 1
      print(
        f'{(time.monotonic() - start) / 60:5.1f} min: {number} runs, {soak.kills} kills, '
        f'{len(soak.wrong)} differences', flush=True,
      )  # fmt: skip
      if soak.wrong and kept is None:
        print(soak.wrong[-1])
  print(aligned([['killed', 'times'], *([k, str(n)] for k, n in soak.struck.most_common())]))
  print(aligned([['method', 'runs equal'], *([k, str(n)] for k, n in soak.rounds.items())]))
  for line in soak.wrong:
    print(f'DIFFERENT  {line}')
  print(
    json.dumps(
      {'minutes': round((time.monotonic() - start) / 60, 1), 'seed': flags.FLAGS.seed,
       'runs': number, 'kills': soak.kills, 'differences': len(soak.wrong)}
    )
  )  # fmt: skip
  return 1 if soak.wrong else 0


if __name__ == '__main__':
  cli.main(run)
