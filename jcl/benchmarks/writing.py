"""Workloads that write: top-k sampling of pseudo samples, and greedy answers."""

from collections.abc import Sequence
from typing import TypeVar

from jcl.benchmarks.bench import Bench
from jcl.benchmarks.timing import Case, Work
from jcl.benchmarks.work import Contender, Prompts

Item = TypeVar('Item')


def spread(items: Sequence[Item], count: int) -> list[Item]:
  """Returns `count` of the items, evenly over all of them; all where there are fewer."""
  count = min(count, len(items))
  return [items[i * len(items) // count] for i in range(count)]


def pseudo(bench: Bench, rows: int | None = None) -> Prompts:
  """Returns prompts from which pseudo samples of the first task are drawn, as LAMOL does.

  Args:
    bench: the benchmark.
    rows: that are continued together; None: as each contender does by default.
  """
  one, text = bench.setting, bench.setting.parts.text
  prompt = [*text.start, text.generation_token(0)]
  longest = max(len(text.rows(e)[1].targets) for e in one.parts.stream.tasks[0].train)
  count = max(one.request.drawn, rows or 0)
  return Prompts([prompt] * count, longest, one.settings.top_k, rows)


def greedy_prompts(bench: Bench, rows: int | None = None) -> Prompts:
  """Returns test inputs of the first two tasks, to be answered greedily; arguments as `pseudo`."""
  one, parts = bench.setting, bench.setting.parts
  tests = [e for t in parts.stream.tasks[:2] for e in t.test]
  asked = spread(tests, max(one.request.drawn, rows or 0))
  return Prompts([parts.text.prompt(e) for e in asked], parts.longest_answer, 1, rows)


def case(bench: Bench, name: str, prompts: Prompts, unit: str = 'token') -> Case:
  """Times how prompts are continued, once warm.

  Args:
    bench: the benchmark.
    name: of the case.
    prompts: to be continued.
    unit: `token`: seconds count by new token, up to the end of each row; else by prompt.
  """
  taking = [c for c in bench.contenders if prompts.rows in (None, c.fixed_rows or prompts.rows)]
  written: dict[str, int] = {}
  for contender in taking:
    written[contender.name] = _tokens(contender.write(prompts))

  def work(contender: Contender) -> Work:
    def write() -> float:
      found = contender.write(prompts)
      return float(_tokens(found) if unit == 'token' else len(found))

    return write

  seconds = bench.alternate(name, {c.name: work(c) for c in taking})
  facts = {'prompts': float(len(prompts.ids)), 'tokens at most': float(prompts.longest)}
  facts |= {f'{name}: tokens a prompt': n / len(prompts.ids) for name, n in written.items()}
  if unit == 'token':
    made = Case(name, unit, seconds)
    facts |= {f'{key}: tokens a second': 1 / made.median(key) for key in seconds}
  return Case(name, unit, seconds, facts)


def _tokens(rows: Sequence[Sequence[int]]) -> int:
  """Returns the number of tokens of all rows."""
  return sum(map(len, rows))


def sample(bench: Bench) -> list[Case]:
  """Times top-k sampling, each contender as it does by default, then with equal batches."""
  found = [case(bench, 'sample', pseudo(bench))]
  return found + [
    case(bench, f'sample/{rows}', pseudo(bench, rows)) for rows in bench.setting.request.rows
  ]


def greedy(bench: Bench) -> list[Case]:
  """Times greedy answers, each contender as it does by default, then with equal batches."""
  found = [case(bench, 'greedy', greedy_prompts(bench))]
  return found + [
    case(bench, f'greedy/{rows}', greedy_prompts(bench, rows))
    for rows in bench.setting.request.rows
  ]
