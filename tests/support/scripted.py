"""Tools whose samples are written down beforehand."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jcl.training.hook_tools import HookTools
from support import tiny


@dataclasses.dataclass(frozen=True)
class ScriptedTools(HookTools):
  """Tools that sample what `say` writes.

  Attributes:
    say: (task, draw) -> text of a sample.
    calls: (task, first draw, prompts, max_new, k, temperature, first prompt, key) of each call.
    measured: functions given to `mean_examples`.
    given: (parameters, prompts) of each call.
    learned: what each call of `learn` returned.
    taught: what every call of `learn` returns; None: it learns.
  """

  say: Callable[[int, int], str] = lambda old, draw: '<eos>'
  calls: list = dataclasses.field(default_factory=list)
  given: list = dataclasses.field(default_factory=list)
  measured: list = dataclasses.field(default_factory=list)
  learned: list = dataclasses.field(default_factory=list)
  taught: Any = None

  def sample(self, params, prompts, key, first, k, temperature, max_new, name):
    """Returns the ids of what `say` writes."""
    old = next(t.index for t in self.stream.tasks if name.endswith(t.name))
    self.calls.append((old, first, len(prompts), max_new, k, temperature, prompts[0], key))
    self.given.append((params, prompts))
    out = np.full((len(prompts), max_new), self.text.pad, np.int32)
    for i in range(len(prompts)):
      words = self.say(old, first + i).split()
      ids = [self.text.tokenizer.token_to_id(word) for word in words][:max_new]
      assert None not in ids, words
      out[i, : len(ids)] = ids
    return out

  def learn(self, *args, **kwargs):
    """As of any tools; what it returns is noted."""
    found = super().learn(*args, **kwargs) if self.taught is None else self.taught
    self.learned.append(found)
    return found

  def mean_examples(self, fn, params, examples, together=1):
    """As of any tools; the function is noted."""
    self.measured.append(fn)
    return super().mean_examples(fn, params, examples, together)


def scripted(tools: HookTools, say: Callable[[int, int], str]) -> ScriptedTools:
  """The same tools, which sample what `say` writes."""
  same = {f.name: getattr(tools, f.name) for f in dataclasses.fields(HookTools)}
  return ScriptedTools(**same, say=say)


def good(old, draw):
  """A well-formed sample, another for each draw, with a label of its task."""
  words = ' '.join(['please'] * (draw % 5) + ['the'] * (draw // 5))
  return f'{words} {tiny.OBJECTS[2 * old]} train __ans__ {tiny.CLASSES[2 * old]} <eos>'


def own_answer(old, draw):
  """An answer to a plain prompt, right or wrong, by turns; every fourth does not end."""
  word = tiny.CLASSES[(2 * old + draw) % len(tiny.CLASSES)].split()[0]
  return f'{word} now now now' if draw % 4 == 3 else f'{word} <eos>'
