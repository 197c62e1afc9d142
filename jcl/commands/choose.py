"""Says which method suits a use, why, what it costs, and the command that runs it.

    jcl choose
    jcl choose --old_data=no --task_told=yes --raw_text=no --pretrained=yes --output=text

On a terminal it asks what no flag answers, and only what matters for the use. Elsewhere a question
without its flag is refused. Nothing is trained.
"""

import sys
import textwrap
from collections.abc import Sequence

from absl import flags

from jcl.commands import choices
from jcl.commands.choices import QUESTIONS, Choice, Question
from jcl.errors import UserError
from jcl.storage import console

WIDTH = 80  # columns of what is printed, but for commands


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command, one for each question."""
  for name, question in QUESTIONS.items():
    flags.DEFINE_enum(name, None, list(question.answers), _page(question), given)


def run(given: flags.FlagValues) -> None:
  """Asks what is open and prints the choice."""
  answers = {name: str(given[name].value) for name in QUESTIONS if given[name].value is not None}
  asks = sys.stdin.isatty() and sys.stdout.isatty()
  asked: set[str] = set()
  while isinstance(step := choices.next_step(answers), str):
    if not asks:
      question = QUESTIONS[step]
      right = ' or '.join(f'--{step}={answer}' for answer in question.answers)
      raise UserError(f'--{step} is missing. {question.asks} Give {right}')
    answers[step] = _ask(QUESTIONS[step])
    asked.add(step)
  needless = [name for name in answers if name not in asked and not _matters(name, answers)]
  for name in needless:
    console.show(f'note: --{name} changes nothing here', sys.stderr)
  for line in describe(step, answers):
    console.show(line)


def describe(row: Choice, answers: choices.Answers) -> list[str]:
  """Returns the lines about a choice: why, what it costs, and what to run.

  Args:
    row: of the table.
    answers: to the questions.
  """
  parts = [
    (row.method, row.title.lower()),
    ('why', row.why),
    *(('costs', line) for line in choices.cost_of(row.method).split('\n')),
    ('caution', row.caution.replace('`', '')),
    ('others', ', '.join(row.others)),
  ]
  lines = []
  for name, text in parts:
    if text:
      lines += textwrap.wrap(f'{name}: {text}', WIDTH, subsequent_indent='  ')
  return [
    *lines, 'run, with --config.stream.path= your manifest (docs/data.md):',
    f'    {row.command(answers)}', 'beside plain fine-tuning and joint training:',
    f'    {row.comparison(answers)}',
  ]  # fmt: skip


def _page(question: Question) -> str:
  """Returns a question and the meanings of its answers as one line of help."""
  meanings = [f'{answer}: {what}' for answer, what in question.answers.items() if what]
  return ' '.join([question.asks, '; '.join(meanings)]).strip()


def _matters(name: str, answers: choices.Answers) -> bool:
  """Whether the choice or its command would be another one under some other answer."""
  lines = lambda given: (
    step if isinstance(step := choices.next_step(given), str) else describe(step, given)
  )
  without = {key: value for key, value in answers.items() if key != name}
  return any(lines({**without, name: other}) != lines(answers) for other in QUESTIONS[name].answers)


def _ask(question: Question) -> str:
  """Asks a person until an answer is one of those that there are; its beginning is enough.

  Raises:
    UserError: the input has ended.
  """
  for answer, what in question.answers.items():
    if what:
      console.show(f'  {answer}: {what}')
  while True:
    console.show(f'{question.asks} [{"/".join(question.answers)}]')
    try:
      word = input('> ').strip().lower()
    except (EOFError, KeyboardInterrupt):
      raise UserError('the input ended before the last question; answer, or give flags') from None
    found = [answer for answer in question.answers if word and answer.startswith(word)]
    if len(found) == 1:
      return found[0]
    console.show(f'{word!r} is none of them; the first letters are enough')
