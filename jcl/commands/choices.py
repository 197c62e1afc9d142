"""Which method when: questions about a use, and the methods that answer them.

`jcl choose` asks from here, and README's chooser and its table of measured methods say what stands
here; tests compare them. A new method is one entry of `COSTS`, and a name in a row of `TABLE`.
"""

import dataclasses
from collections.abc import Mapping

Answers = Mapping[str, str]  # {question: answer}


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a use.

  Attributes:
    asks: the question as a person reads it.
    answers: {answer: its meaning}.
  """

  asks: str
  answers: Mapping[str, str]


YES_NO = {'yes': '', 'no': ''}
QUESTIONS: dict[str, Question] = {  # by the name of the flag, in the order in which they are asked
  'raw_text': Question('Is the data raw text, without inputs and answers?', YES_NO),
  'task_told': Question('Is the task of an input told at test time?', YES_NO),
  'old_data': Question('May examples of old tasks be kept?', YES_NO),
  'output': Question(
    'Does a classifier answer, or does the model write text?',
    {'classifier': 'one of a set of classes', 'text': 'the model writes its answer'},
  ),
  'pretrained': Question(
    'Do you start from a pretrained model?',
    {
      'no': 'from scratch',
      'yes': 'from a pretrained model',
      'keep': 'from a pretrained model whose general abilities must stay',
    },
  ),
  'own_samples': Question('May the model write examples of old tasks by itself?', YES_NO),
}


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of a method beside plain training.

  Attributes:
    what: in words.
    times: training time as a multiple of that of `seq`, as docs/methods.md has it; empty: it is
      not measured there.
  """

  what: str
  times: str = ''


FISHER = 'two copies of the parameters; a backward pass an example at the end of a task'
COSTS: dict[str, Cost] = {
  'joint': Cost('all data, at once', '0.9'),
  'single': Cost('a model a task, and the task told', '1.0'),
  'replay': Cost('a buffer of old examples; 0.3 of them for each new one', '1.1'),
  'derpp': Cost(
    "the buffer; as many old rows as new; the old model's states at their targets, one forward "
    'pass each a task',
    '1.5',
  ),
  'reptile': Cost(
    'the buffer; a step on old rows for each on new; one more copy of the parameters', '1.5'
  ),
  'lamol_kd': Cost(
    "two rows an example; pseudo samples are generated, 0.5 a new example; the old model's states "
    'at their targets',
    '2.4',
  ),
  'maml': Cost('the buffer; a gradient through a gradient', '9'),
  'lamol': Cost('as `lamol_kd`, without the states', '2.3'),
  'l2kd': Cost(
    'as `lamol`, but `gamma` 0.2 and one shared token; a teacher that is trained on the new task '
    'alone first',
    '2.3',
  ),
  'agem': Cost('the buffer; as many old rows as new, and a gradient of their own', '2.5'),
  'distill': Cost("the old model's states on the new rows, one forward pass each a task", '1.0'),
  'sdft': Cost(
    'an answer to each example is generated in every epoch, and one forward pass over prompts with '
    'demonstrations; one more copy of the parameters'
  ),
  'l2': Cost('a copy of the parameters', '1.0'),
  'mas': Cost(FISHER, '1.0'),
  'ewc': Cost(FISHER, '1.0'),
  'seq': Cost('nothing', '1'),
  'lora': Cost('an adapter a task; no optimiser state for what is frozen', '0.5'),
  'expand': Cost('two more blocks a task: a model of 12 layers at the end, of 2 at the start', '3'),
  'olora': Cost("room for all tasks' adapters from the start", '0.5'),
  'slao': Cost('two adapters, however many tasks; no optimiser state for what is frozen', '0.5'),
  'osft': Cost(
    'as much as the projections again; a singular value decomposition of each before each task',
    '1.0',
  ),
  'cls_er': Cost(
    'the buffer; as many old rows as new; two averages of the parameters, one more forward pass',
    '2.3',
  ),
  'ema': Cost('an average of the parameters, which is what is evaluated', '1.0'),
  'seq_star': Cost('nothing; no gradient goes into the model after the first task'),
  'closed_form': Cost('no training step: one forward pass over the rows, and sums on the host'),
  'pretrain': Cost('old corpora; 0.25 of their tokens for each new one, by default'),
}


@dataclasses.dataclass(frozen=True)
class Choice:
  """A row of the table.

  Attributes:
    needs: {question: the answers under which the row holds}.
    title: the use in words, as README names it; several rows may share one.
    method: what to run.
    why: the reason.
    others: methods to try beside it.
    also: questions whose answer changes the command, and not the method.
    config: config that comes with jcl.
    flags: further flags of the command.
    caution: what to look at before trusting it.
  """

  needs: Mapping[str, tuple[str, ...]]
  title: str
  method: str
  why: str
  others: tuple[str, ...] = ()
  also: tuple[str, ...] = ()
  config: str = 'own_tasks'
  flags: tuple[str, ...] = ()
  caution: str = ''

  def command(self, answers: Answers) -> str:
    """Returns the command that trains the method, for the uses that `answers` name."""
    return f'jcl train --config={self.config}:{self.method} ' + ' '.join(
      [f'--workdir=runs/{self.method}', *self.settings(answers)]
    )

  def comparison(self, answers: Answers) -> str:
    """Returns the command that trains the method beside its bounds."""
    names = ','.join(dict.fromkeys(['seq', self.method, 'joint']))
    return f'jcl compare --config={self.config} --methods={names} ' + ' '.join(
      [f'--workdir=runs/{self.method}-compared', *self.settings(answers)]
    )

  def settings(self, answers: Answers) -> list[str]:
    """Returns the flags of the command that depend on the answers, and those of the row."""
    found = list(self.flags)
    given = lambda flag: any(one.startswith(f'--config.{flag}=') for one in found)
    classifies = 'output' in (*self.needs, *self.also) and answers.get('output') == 'classifier'
    if classifies and not given('backbone.head'):
      found.append('--config.backbone.head=linear')
    if answers.get('pretrained') == 'no' and not given('backbone.path'):
      found.append('--config.backbone.path=')
    if answers.get('task_told') == 'yes' and self.title != RAW:
      found.append('--config.scenario=til')
    return found


NO = ('no',)
YES = ('yes',)
PRETRAINED = ('yes', 'keep')
TOLD = 'The task is told at test time'
KEPT = 'Old examples may be kept'
WRITTEN = 'Old examples may not be kept, but the model may write them'
NEITHER = "Neither old examples nor the model's own"
FROZEN = 'A classifier on a pretrained model, no old examples'
ABILITIES = 'A pretrained model must keep its general abilities'
RAW = 'Raw text'

# The first row whose needs are met answers.
TABLE: tuple[Choice, ...] = (
  Choice(
    {'raw_text': YES, 'old_data': YES}, RAW, 'pretrain',
    'new and old corpora are mixed exactly in tokens',
    also=('pretrained',), config='pretrain',
  ),
  Choice(
    {'raw_text': YES}, RAW, 'distill',
    'the model that the run starts from is its teacher, so it cannot move far from it',
    also=('pretrained',), config='pretrain', flags=('--config.method.anchor=base',),
    caution='without old text later corpora wear the earlier ones away; look at the matrix',
  ),
  Choice(
    {'task_told': YES, 'pretrained': PRETRAINED}, TOLD, 'lora',
    'each task has an adapter of its own over the frozen base: nothing is forgotten',
    others=('single',), also=('output',),
    caution='an adapter learns less than the whole model does where a task is far from the base',
  ),
  Choice(
    {'task_told': YES}, TOLD, 'single', 'each task has a model of its own: nothing is forgotten',
    others=('lora',), also=('output',),
  ),
  Choice(
    {'old_data': YES, 'pretrained': ('keep',)}, ABILITIES, 'replay+lora',
    'the base is left as it is, and old examples train the adapter beside the new ones',
    others=('expand', 'olora', 'slao'), also=('output',),
    caution='set evaluate.probe to a text of the general kind, and look at what it measures',
  ),
  Choice(
    {'old_data': YES}, KEPT, 'replay', 'it is the cheapest of what works, and nothing measured '
    'here beats it', others=('derpp', 'cls_er', 'reptile', 'maml', 'ema'), also=('output',),
  ),
  Choice(
    {'output': ('classifier',), 'pretrained': PRETRAINED}, FROZEN, 'closed_form',
    'a linear head is solved over the frozen model: nothing is forgotten, and no row is stored',
    others=('seq_star',),
    flags=(
      '--config.backbone.path=sentence-transformers/all-MiniLM-L6-v2',
      '--config.backbone.head=linear', '--config.backbone.pooling=mean',
    ),
    caution='not where the model itself must learn something new',
  ),
  Choice(
    {'pretrained': ('keep',)}, ABILITIES, 'slao',
    'the base is left as it is; one adapter is tuned task after task and merged after each',
    others=('osft', 'sdft', 'expand', 'lora', 'olora', 'distill'),
    caution='set evaluate.probe to a text of the general kind, and look at what it measures',
  ),
  Choice(
    {'own_samples': YES}, WRITTEN, 'lamol_kd',
    'before each task the model writes examples of the old ones, and they train beside the new; '
    'a label is written as text, too',
    others=('lamol', 'l2kd'), also=('pretrained',),
    caution='the model may write training texts word for word: look at `verbatim` in results.json '
    'before you call this private',
  ),
  Choice(
    {}, NEITHER, 'distill',
    'the model before the task teaches the new rows, which holds off some of the forgetting',
    others=('ewc', 'mas', 'l2'), also=('output', 'pretrained'),
    caution='without old rows a class-incremental stream is forgotten under distill, ewc, '
    'mas and l2 alike, and their weights must be searched for',
  ),
)  # fmt: skip


def next_step(answers: Answers, table: tuple[Choice, ...] = TABLE) -> str | Choice:
  """Returns the name of the next question, or the row that answers.

  Args:
    answers: given so far.
    table: rows, of which the first one that holds answers.
  """
  order = list(QUESTIONS)
  for row in table:
    if any(name in answers and answers[name] not in fit for name, fit in row.needs.items()):
      continue
    missing = [name for name in (*row.needs, *row.also) if name not in answers]
    return min(missing, key=order.index) if missing else row
  raise LookupError('the last row must hold always')


def cost_of(method: str) -> str:
  """Returns what a method or a composition takes, as lines of text."""
  lines = []
  for name in method.split('+'):
    cost = COSTS[name]
    times = f'{cost.times} times the training time of seq' if cost.times else 'time not measured'
    lines.append(f'{name}: {times}; {cost.what}')
  return '\n'.join(lines).replace('`', '')
