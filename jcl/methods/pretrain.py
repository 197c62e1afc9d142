"""Continual pretraining: blocks of raw text, new and old ones mixed in a fixed share of tokens.

L = mean over all tokens of −log p(token | those before it in its block). Of the tokens that train a
task `replay_share` are of the corpora before it, exactly and evenly (see
`jcl.batching.packed_epochs`); 0.2 is new to old 8 : 2. Rates that warm up anew for every task
(Ibrahim et al. 2024) or go on over the whole run are `train.schedule_between_tasks`. After every
task the model is held against the one that the run started from, on text that is not trained on:
KL(base ‖ model) in nats per token and perplexity, in `results.json` under `drift`.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any, ClassVar

from jcl.config import number
from jcl.memory import teacher
from jcl.methods.method import Method, Settings, require
from jcl.step import losses
from jcl.streams.stream import References, TaskPlan


@dataclasses.dataclass
class Pretrain(Settings):
  """Cross-entropy on every token."""

  # Share of a task's tokens that come from the corpora before it.
  replay_share: float = number(0.2, least=0, below=1)
  drift: bool = True  # hold the model against the one of the start, which memory then keeps
  probe_path: str = ''  # file of text that no task has; empty: the first task's test split
  text_format: ClassVar = 'packed'
  scenarios: ClassVar = ('cpt',)
  brings: ClassVar = ('rows',)
  neutral: ClassVar = {'replay_share': 0.0}

  def check(self) -> None:
    """Refuses values out of their bounds, and a probe that is not there or not asked for."""
    super().check()
    path = self.probe_path
    require(not path or self.drift, 'probe_path', path, "'' without method.drift")
    there = not path or pathlib.Path(path).is_file()
    require(there, 'probe_path', path, "a text file, or '' for the first task's test split")

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `pretrain`."""
    return pretrain(backbone, self)


def pretrain(backbone, settings: Pretrain) -> Method:
  """Plain cross-entropy on the tokens of all blocks, new and old."""
  divergence = functools.partial(losses.distillation, temperature=1.0)

  def drift(models, batch):  # no logits of all tokens: both are projected a chunk at a time
    nats_M, kl_M = teacher.compare(
      backbone, models['now'], models['base'], batch, divergence, train=False
    )
    return {'kl': kl_M, 'nats': nats_M}

  def init(params, stream, tools):
    return {'teacher': {}, 'past': []} | ({'base': params} if settings.drift else {})

  def plan(memory, task):
    ratio = settings.replay_share / (1 - settings.replay_share)  # old tokens for each new one
    return TaskPlan(task.train, References(memory['past']), 'even', ratio, 'tokens')

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
