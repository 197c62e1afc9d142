"""Continual pretraining on blocks of raw text, with replay of old corpora (Ibrahim et al. 2024).

    L = mean over all tokens of −log p(token | tokens before it in its block)

A share `replay_share` of the tokens that train a task comes from the corpora of earlier tasks,
exactly and evenly (`jcl.batching.packed_epochs`); 0.2 is new to old 8 : 2.
`train.schedule_between_tasks` says whether the learning rate warms up again for every task. After
every task the model is compared with the model at the start of the run, on text that is not trained
on: KL(start ‖ model) in nats per token, and perplexity, in `results.json` under `drift`.
"""

import dataclasses
import math
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.config import GIVEN, number, only_with
from jcl.memory import teacher
from jcl.memory.teacher import ExternalTeacher
from jcl.memory.tools import Tools
from jcl.methods.method import Method, Settings, require
from jcl.methods.replay import check_mix, check_tasks, mix_of
from jcl.storage import paths
from jcl.streams.references import References
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Pretrain(Settings):
  """Cross-entropy on every token."""

  # Share of a task's tokens that come from the corpora before it.
  replay_share: float = only_with(number(0.2, least=0, below=1), {'mix_by_task': ((),)})
  # `replay_share` of each task in turn; the last entry holds for all tasks after it
  mix_by_task: tuple[float, ...] = ()
  # Text file that no task has and that old tokens come from, beside earlier corpora; empty: none.
  corpus: str = ''
  # share of the old tokens that come from the corpus; 1: none from earlier tasks
  corpus_share: float = only_with(number(0.5, least=0, most=1), {'corpus': GIVEN})
  # Compare the model with the one at the start, which the memory then holds.
  drift: bool = True
  # Text file on which models are compared; empty: the test split of the first task.
  probe_path: str = ''
  text_format: ClassVar = 'packed'
  scenarios: ClassVar = ('cpt',)
  brings: ClassVar = ('rows',)
  neutral: ClassVar = {'replay_share': 0.0}

  def check(self) -> None:
    """Refuses values out of their bounds, and a probe that does not exist or is not read."""
    super().check()
    check_mix(self, below=1)
    path = self.probe_path
    require(not path or self.drift, 'probe_path', path, "'' without method.drift")
    there = not path or paths.local(path, 'method.probe_path').is_file()
    require(there, 'probe_path', path, "a text file, or '' for the first task's test split")

  def check_run(self, scenario: str, tools: Tools) -> None:
    """Refuses more entries of `mix_by_task` than there are tasks."""
    check_tasks(self, tools)

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `pretrain`."""
    return pretrain(backbone, self)


def pretrain(backbone: Backbone, settings: Pretrain) -> Method:
  """Returns the method; the loss is plain cross-entropy on all tokens of all blocks."""
  drift = teacher.drift(backbone)

  def init(params, stream, tools):
    return {'teacher': {}, 'past': []} | ({'base': params} if settings.drift else {})

  def plan(memory, task):
    parts = mix_of(settings, settings.replay_share, task.index)
    old, general = (part / (1 - sum(parts)) for part in parts)  # for each new token
    return TaskPlan(task.train, References(memory['past']), 'even', old, 'tokens', general)

  def after_task(memory, params, task, tools):
    if settings.drift:
      held_out = tools.stream.held_out or tools.stream.tasks[0].test
      models = {'now': params, 'base': memory['base']}
      means, _ = tools.mean_targets(drift, models, held_out)
      line = {'kl': means['kl'], 'perplexity': math.exp(means['nats'])}
      tools.report(drift={'task': task.name, **line})
    span = [task.index, task.train[0].number, len(task.train)]
    return memory | {'past': [*memory['past'], span]}, params

  return Method(init, plan=plan, after_task=after_task)
