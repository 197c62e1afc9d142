"""A model of jcl as a model of lm-eval (the package `lm_eval`), whose tasks it then can be put to.

    jcl evaluate --workdir=runs/lamol --harness=arc_easy,lambada_openai

Texts are tokenised, cut and scored as lm-eval does for its model `hf`, so the figures are those
of an exported folder. The package is imported where it is first needed; torch is not.
"""

import functools
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones import Backbone
from jcl.batching.batch import Batch, Row
from jcl.errors import UserError
from jcl.model import Model
from jcl.step import losses
from jcl.step.numerics import computing
from jcl.types import Json, Params

MOST_NEW = 256  # tokens of a continuation, where a task does not say
DO_NOT_MATTER = ('until', 'max_gen_toks', 'do_sample', 'temperature', 'top_k')  # are read below


class Figure(NamedTuple):
  """A figure that lm-eval gives of a task.

  Attributes:
    task: name of the task.
    metric: name of the metric and, after a comma, of the filter of answers.
    value: the figure.
    error: its standard error; None: lm-eval gives none.
  """

  task: str
  metric: str
  value: float
  error: float | None


def evaluated(
  model: Model, tasks: Sequence[str], include: str = '', limit: int = 0
) -> list[Figure]:  # fmt: skip
  """Puts a model to tasks of lm-eval.

  Args:
    model: a model that writes.
    tasks: names of tasks or of groups of tasks.
    include: folder with task files of the user's own; empty: none.
    limit: examples of each task; 0: all.

  Raises:
    UserError: lm-eval is not installed, a task is unknown, or the model cannot write.
  """
  check_installed()
  if model.backbone.decode is None or model.config.classes:
    raise UserError('--harness: this model classifies and cannot write; evaluate it without')
  from lm_eval import evaluator
  from lm_eval.tasks import TaskManager

  manager = TaskManager(include_path=include or None)
  if unknown := sorted(set(tasks) - set(manager.all_tasks)):
    raise UserError(f'--harness: lm-eval has no task {unknown[0]!r}; `lm-eval ls tasks` lists them')
  logging.getLogger('lm_eval').setLevel(logging.ERROR)
  found = evaluator.simple_evaluate(
    model=language_model(model), tasks=list(tasks), task_manager=manager, limit=limit or None,
    log_samples=False, bootstrap_iters=1000,
  )  # fmt: skip
  return list(figures(found['results']))


def check_installed() -> None:
  """Refuses to go on without lm-eval.

  Raises:
    UserError: says how it is installed.
  """
  if importlib.util.find_spec('lm_eval') is None:
    raise UserError("--harness: lm-eval is not installed; pip install 'jcl[lm-eval]'")


def figures(results: Mapping[str, Json]) -> list[Figure]:
  """Returns the figures of `results` as lm-eval gives them: {task: {`metric,filter`: value}}."""
  found = []
  for task, values in results.items():
    for name, value in values.items():
      metric, _, kind = name.partition(',')
      if isinstance(value, int | float) and kind and not metric.endswith('_stderr'):
        error = values.get(f'{metric}_stderr,{kind}')
        error = float(error) if isinstance(error, int | float) else None
        found.append(Figure(task, name, float(value), error))
  return found


def language_model(model: Model) -> Any:
  """Returns a model of jcl as an `lm_eval.api.model.LM`.

  Requests for likelihoods are scored on all devices; continuations are greedy unless a task asks
  for samples.
  """
  from lm_eval import utils
  from lm_eval.api.model import TemplateLM

  scorer = Scorer(model)

  class JclModel(TemplateLM):
    """See `language_model`."""

    eot_token_id = scorer.tools.text.eos
    prefix_token_id = scorer.prefix
    max_length = scorer.max_length

    def tok_encode(self, string, add_special_tokens=None, **_):
      return scorer.encode(string, add_special_tokens)

    def _loglikelihood_tokens(self, requests, **_):
      return scorer.likelihoods([(context, wanted) for _, context, wanted in requests])

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
      windows = [
        list(map(utils.make_disjoint_window, utils.get_rolling_token_windows(
          self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1)))
        for request in requests
      ]  # fmt: skip
      every = iter(scorer.likelihoods([window for some in windows for window in some]))
      return [sum(next(every)[0] for _ in some) for some in windows]

    def generate_until(self, requests, disable_tqdm=False):
      return scorer.continued([request.args for request in requests])

  return JclModel()


class Scorer:
  """Likelihoods and continuations of token ids.

  Args:
    model: a model that writes.

  Attributes:
    tools: of the model.
    max_length: most tokens that the model reads.
    prefix: id of the token that stands before a text without context.
  """

  def __init__(self, model: Model):
    self.tools, self._tokenizer = model.tools, model.tokenizer
    self._params: Params = model.placed()
    self.max_length: int = model.config.max_positions
    special = self.tools.text.special
    self.prefix: int = special.eos if special.bos is None else special.bos

  def encode(self, text: str, special: bool | None = None) -> list[int]:
    """Returns the ids of a text.

    Args:
      text: the text, in which special tokens are what the tokenizer makes of them.
      special: whether the tokenizer adds beginning and end; None: unless the text begins with it.
    """
    if special is None:
      begin = self._tokenizer.decode([self.prefix], skip_special_tokens=False)
      special = not (begin and text.startswith(begin))
    return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

  @computing
  def likelihoods(
    self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
  ) -> list[tuple[float, bool]]:
    """Returns for each (context, continuation) Σ log p of the continuation, and if it is greedy.

    A pair that is too long loses the beginning of its context.
    """
    rows = []
    for context, wanted in pairs:
      ids = np.asarray([*context, *wanted][-(self.max_length + 1) :], np.int32)
      last = len(ids) - 1
      count = min(len(wanted), last)
      rows.append(Row(ids[:-1], np.arange(last - count, last), ids[last - count + 1 :], 0, -1))
    found = self.tools.map_targets(scored(self.tools.backbone), self._params, rows, 'harness')
    self.tools.folds.forget()
    return [(float(x[:, 0].astype(np.float64).sum()), bool(x[:, 1].all())) for x in found]

  @computing
  def continued(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Returns the continuation of each context, up to its first stop sequence.

    Args:
      requests: (context, settings of the generation as lm-eval names them), …

    Raises:
      UserError: a task asks for a way to generate that jcl does not have.
    """
    out = [''] * len(requests)
    groups: dict[str, list[int]] = {}
    for place, (_, how) in enumerate(requests):
      groups.setdefault(repr(sorted(how.items())), []).append(place)
    for places in groups.values():
      how = requests[places[0]][1]
      most, k, temperature = sampling(how, self.tools.backbone.vocabulary)
      room = self.max_length - most
      if room < 1:
        raise UserError(f'--harness: {most} new tokens are no fewer than the model reads')
      prompts = [self.encode(requests[place][0])[-room:] for place in places]
      ids = self.tools.sample(
        self._params, [p or [self.prefix] for p in prompts], self.tools.key('harness'), 0, k,
        temperature, most, 'harness',
      )  # fmt: skip
      self.tools.folds.forget()
      for place, row in zip(places, ids.tolist(), strict=True):
        out[place] = self._text(row, how.get('until'))
    return out

  def _text(self, ids: list[int], until: object) -> str:
    """Returns the text of ids up to end-of-sequence and to the first stop sequence."""
    eos = self.tools.text.eos
    text = self._tokenizer.decode(ids[: ids.index(eos)] if eos in ids else ids)
    stops = [until] if isinstance(until, str) else list(until) if until else []  # type: ignore
    for stop in filter(None, stops):
      text = text.split(stop)[0]
    return text


def sampling(how: Mapping[str, Any], vocabulary: int) -> tuple[int, int, float]:
  """Returns new tokens at most, number of candidates and temperature.

  Args:
    how: settings of a generation as lm-eval names them.
    vocabulary: number of tokens.

  Raises:
    UserError: jcl does not have this way to generate.
  """
  neutral = {'num_beams': 1, 'top_p': 1.0}
  for name, value in how.items():
    if name not in DO_NOT_MATTER and not (name in neutral and value == neutral[name]):
      raise UserError(f'--harness: a task asks for {name} {value!r}, which jcl does not have')
  most, temperature = int(how.get('max_gen_toks', MOST_NEW)), float(how.get('temperature') or 0)
  if not how.get('do_sample', temperature > 0):
    return most, 1, 1.0
  return most, int(how.get('top_k') or vocabulary), temperature or 1.0


@functools.cache
def scored(backbone: Backbone) -> Callable[[Params, Batch], jax.Array]:
  """Returns (params, batch) -> [M, 2]: log p of each target, nats, and 1 where it is the likeliest.

  One function a backbone, so that it compiles once.
  """

  def each(logits_MV: jax.Array, token_M: jax.Array, allowed_MC: Any) -> jax.Array:
    log_p_M = -losses.cross_entropy(logits_MV, token_M, allowed_MC)
    return jnp.stack([log_p_M, (logits_MV.argmax(-1) == token_M).astype(log_p_M.dtype)], -1)

  def harness(params: Params, batch: Batch) -> jax.Array:
    hidden_MD = backbone.hidden(params, batch)
    rest = batch.target_token, batch.allowed
    return losses.per_target(each, backbone, params, hidden_MD, *rest)

  return harness
