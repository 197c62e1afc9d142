"""`jcl choose`: every use has an answer, every answer a command that holds, and README says it."""

import builtins
import itertools
import re
import shlex
import sys

import pytest
from absl import flags
from support import ROOT

from jcl import commands, methods
from jcl.commands import choices, choose, command_line, config_flag
from jcl.commands.choices import COSTS, QUESTIONS, TABLE
from jcl.errors import UserError
from jcl.training import experiment

BOUNDS = {'seq', 'joint'}  # of every comparison
NOT_ADVISED = {'agem': 'it uses the rows of replay and holds off half of what replay does'}
USES = [
  dict(zip(QUESTIONS, given, strict=True))
  for given in itertools.product(*(question.answers for question in QUESTIONS.values()))
]


def choice(answers: dict) -> choices.Choice:
  """The row that answers a use whose questions are all answered."""
  found = choices.next_step(answers)
  assert isinstance(found, choices.Choice)
  return found


def parsed(command: str) -> flags.FlagValues:
  """The flags of a command, read as `jcl` reads them."""
  jcl, name, *rest = shlex.split(command)
  assert jcl == 'jcl'
  given = flags.FlagValues()
  command_line.check_names(rest)
  commands.load(name).define_flags(given, rest)
  command_line.parse(given, rest)
  return given


COMMANDS = sorted({choice(use).command(use) for use in USES})
COMPARISONS = sorted({choice(use).comparison(use) for use in USES})


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_is_one_that_jcl_takes(command):
  experiment.check(config_flag.read(parsed(command)))


@pytest.mark.parametrize('command', COMPARISONS)
def test_every_comparison_is_one_that_jcl_takes(command):
  given = parsed(command)
  for config in config_flag.read_each(given, given.methods):
    experiment.check(config)


def test_every_row_answers_some_use():
  assert {id(choice(use)) for use in USES} == {id(row) for row in TABLE}


def test_every_method_has_its_place_and_its_cost():
  """A new method stands in the table, or here with the reason why it is not advised."""
  named = {name for row in TABLE for one in (row.method, *row.others) for name in one.split('+')}
  assert named | BOUNDS | NOT_ADVISED.keys() == set(methods.BUILT_IN)
  assert set(COSTS) == set(methods.BUILT_IN)


def rows(page: str, cells: int) -> dict[str, list[str]]:
  """{method: cells} of the tables in a section that open with a method's name."""
  section = page.split('\n## Which method when\n')[1].split('\n## ')[0]
  found = re.findall(rf'^\| `(\w+)`¹? \|((?:[^|\n]*\|){{{cells - 1}}})$', section, re.MULTILINE)
  return {name: [cell.strip() for cell in rest.split('|')[:-1]] for name, rest in found}


def test_costs_are_those_that_were_measured():
  measured = rows((ROOT / 'docs' / 'methods.md').read_text(), 6)
  assert len(measured) > 12
  for name, cost in COSTS.items():
    if name in measured:
      *_, times, what = measured[name]
      assert (times, what) == (cost.times, cost.what), name
    else:
      assert not cost.times, f'{name}: no figure stands in docs/methods.md'


def test_the_readme_says_what_the_table_says():
  readme = (ROOT / 'README.md').read_text()
  measured = rows((ROOT / 'docs' / 'methods.md').read_text(), 6)
  short = rows(readme, 5)
  assert short.keys() > BOUNDS
  for name, (accuracy, forgetting, times, what) in short.items():
    there = measured[name]
    assert [accuracy, forgetting, times, what] == [there[0], there[1], there[3], there[4]], name
  section = readme.split('\n## Which method when\n')[1].split('\n## ')[0]
  bullets = dict(
    re.findall(r'^- \*\*(.+?):\*\* (.+?)(?=^- |^$)', section, re.MULTILINE | re.DOTALL)
  )
  wanted: dict[str, set[str]] = {}
  for row in TABLE:
    names = {name for one in (row.method, *row.others) for name in one.split('+')}
    wanted.setdefault(row.title, set()).update(names)
  words = {title: set(re.findall(r'\w+', ' '.join(re.findall(r'`([\w+]+)`', text))))
           for title, text in bullets.items()}  # fmt: skip
  assert {title: found & set(methods.BUILT_IN) for title, found in words.items()} == wanted


def called(capsys, *arguments: str) -> str:
  """The output of `jcl choose`."""
  given = flags.FlagValues()
  choose.define_flags(given, arguments)
  command_line.parse(given, arguments)
  choose.run(given)
  return capsys.readouterr().out


def test_flags_answer_and_the_end_is_a_command(capsys):
  said = called(capsys, '--old_data=yes', '--task_told=no', '--raw_text=no', '--pretrained=no',
                '--output=classifier')  # fmt: skip
  assert said.startswith('replay: old examples may be kept\nwhy: it is the cheapest')
  assert 'costs: replay: 1.1 times the training time of seq; a buffer of old examples' in said
  assert said.count('\n    jcl ') == 2
  assert ('    jcl train --config=own_tasks:replay --workdir=runs/replay '
          '--config.backbone.head=linear --config.backbone.path=\n') in said  # fmt: skip
  assert max(len(line) for line in said.splitlines() if '    jcl' not in line) <= 80


def test_without_a_terminal_a_missing_answer_is_named(capsys):
  with pytest.raises(UserError, match=r'--old_data is missing. May examples .* --old_data=yes or'):
    called(capsys, '--raw_text=no', '--task_told=no')


def test_a_flag_that_changes_nothing_is_named(capsys):
  given = flags.FlagValues()
  arguments = ['--raw_text=yes', '--old_data=yes', '--pretrained=yes', '--own_samples=yes']
  choose.define_flags(given, arguments)
  command_line.parse(given, arguments)
  choose.run(given)
  assert capsys.readouterr().err == 'note: --own_samples changes nothing here\n'


def typed(monkeypatch, *lines: str) -> None:
  """Stands a person in at a terminal, who types these lines."""
  words = iter(lines)

  def answer(prompt: str) -> str:
    found = next(words, None)
    if found is None:
      raise EOFError
    return found

  monkeypatch.setattr(builtins, 'input', answer)
  monkeypatch.setattr(sys.stdin, 'isatty', lambda: True)
  monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)


def test_a_person_is_asked_what_matters_and_again_after_nonsense(monkeypatch, capsys):
  typed(monkeypatch, 'perhaps', '', 'n', 'y', 'text', 'no')
  said = called(capsys, '--task_told=no')
  assert said.count('raw text') == 3
  assert 'task of an input' not in said
  assert 'by itself' not in said  # with old examples the model need not write any
  assert '\nreplay: ' in said


def test_an_input_that_ends_is_one_line(monkeypatch, capsys):
  typed(monkeypatch, 'n')
  with pytest.raises(UserError, match='the input ended before the last question'):
    called(capsys)
