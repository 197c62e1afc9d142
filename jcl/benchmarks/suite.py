"""The workloads, and one run of the benchmark from a request to its results."""

import pathlib
import tempfile
from collections.abc import Callable

from jcl.benchmarks import host, machine, ours, setting, start, table, training, writing
from jcl.benchmarks.bench import Bench
from jcl.benchmarks.request import Request, check
from jcl.benchmarks.setting import Setting
from jcl.benchmarks.timing import Case
from jcl.benchmarks.work import Contender
from jcl.errors import count_of
from jcl.step.numerics import computing
from jcl.types import Json

MEASURE: dict[str, Callable[[Bench], list[Case]]] = {
  'task': training.task,
  'step': training.step,
  'sample': writing.sample,
  'greedy': writing.greedy,
  'fisher': host.fisher,
  'replay': host.replay,
  'snapshot': host.snapshot,
  'start': start.start,
  'long': training.long,
}


def contenders(made: Setting) -> list[Contender]:
  """Returns jcl and those it is measured against; torch is imported where it is asked for."""
  found = [ours.contender(made)]
  for name in made.request.against:
    from jcl.benchmarks import torch_loop

    found.append(torch_loop.contender(name, made))
  return found


@computing
def run(
  request: Request, say: Callable[[str], None],
  choose: Callable[[Setting], list[Contender]] = contenders,
) -> Json:  # fmt: skip
  """Measures all workloads of a request and returns the results, see `table.as_json`.

  Args:
    request: what is to be measured.
    say: takes a line for the user.
    choose: the setting -> the contenders, jcl first.

  Raises:
    UserError: the request is wrong, or a contender does other work than jcl.
  """
  check(request)
  before = machine.clocks()
  with tempfile.TemporaryDirectory(prefix='jcl-benchmark-') as scratch:
    folder = pathlib.Path(scratch)
    say(f'reading model and data; {count_of(request.learned, "step")} on the first task')
    made = setting.make(request, folder)
    around = machine.described()
    if request.against:
      around |= machine.torch_threads()
    for line in table.head(made, around, before):
      say(line)
    plan = made.plan(made.task.train, made.past)
    first = setting.composed(made.parts, plan, 1, request.batch_size, 1)[0]
    tokens = sum(len(row.tokens) for row in first)
    rates = machine.matmul_rates(made.parts.decoder_config, tokens)
    say(table.rates_line(rates))
    bench = Bench(made, choose(made), folder, rates['all'], say)
    if len(bench.contenders) > 1:
      training.show(bench)
    cases = [case for name in request.workloads for case in MEASURE[name](bench)]
    notes = [note for contender in bench.contenders for note in contender.notes]
  return table.as_json(made, around, (before, machine.clocks()), rates, cases, notes)
