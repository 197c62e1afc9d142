"""A trained model that answers: from a run, from its workdir, or from an exported folder."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
from tokenizers import Tokenizer

from jcl import methods
from jcl import workdir as workdirs
from jcl.backbones import Backbone, Params, lora
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import hf, peft
from jcl.backbones.files.companions import read_companions
from jcl.backbones.layers import depth
from jcl.backbones.models import for_method, make_backbone
from jcl.batching import questions
from jcl.batching.batch import membership
from jcl.batching.chat_choice import Choice, make_text
from jcl.batching.questions import Input
from jcl.config import StreamConfig, check_values
from jcl.errors import UserError, count_of
from jcl.step import sharding
from jcl.step.numerics import computing
from jcl.storage import console, paths
from jcl.storage.checkpoint import Snapshots
from jcl.streams.stream import Example, Stream
from jcl.training import base_model, evaluate
from jcl.training.answer_format import FILE, FOLDER, AnswerFormat, read_format, shape_of
from jcl.training.experiment import Experiment
from jcl.training.fold_bars import FoldBars
from jcl.training.hook_tools import HookTools, make_tools
from jcl.training.run_state import Run
from jcl.types import WeightDtype

BATCH = 64  # rows a chunk


class Model:
  """A model with its parameters, tokenizer and answer format.

  Args:
    loaded: shape, parameters (unused here), tokenizer and special ids.
    answers: how it is asked.
    params_for: index of a task, or None where no task is named -> parameters.
    source: the folder that the model came from, if it did.

  Attributes:
    backbone: its functions.
    config: its shape.
    tokenizer: its tokenizer.
    base_digests: of the model that it was trained from, which an adapter takes along.
  """

  @computing
  def __init__(
    self, loaded: hf.Loaded, answers: AnswerFormat, params_for: Callable[[int | None], Params],
    source: pathlib.Path | None = None,
  ):  # fmt: skip
    self.config, _, self.tokenizer, self._special, self._companions, _ = loaded
    self.backbone: Backbone = make_backbone(self.config)
    self.answers, self._params_for, self._source = answers, params_for, source
    self.base_digests: dict[str, str] = {}
    stream = answers.stream()
    pooling = getattr(self.config, 'pooling', 'last')
    read = StreamConfig(special_tokens_in_text=answers.special_tokens_in_text)
    text, _ = make_text(
      Choice(answers.chat_template, date=answers.chat_date), read, self.tokenizer, self._special,
      stream, answers.text_format, answers.max_length, pooling,
    )  # fmt: skip
    text.reserve = answers.longest_answer
    classes = len(answers.classes) if self.config.classes else 0
    self._tools: HookTools = make_tools(
      self.backbone, text, stream, sharding.make_mesh(), 0, BATCH,
      membership=membership(answers.classes_of, classes), task_id_given=answers.task_id_given,
    ).at(max(answers.seen - 1, 0))  # fmt: skip

  @property
  @computing
  def params(self) -> Params:
    """The parameters that answer where no task is named."""
    return self._params_for(None)

  @property
  def labels(self) -> tuple[str, ...]:
    """The labels of all classes, as the user wrote them; empty where answers are free."""
    return self.answers.labels

  @computing
  def answer(self, texts: Sequence[Input], task: str | None = None) -> list[str]:
    """Answers each text: with a label as the user wrote it, or with free text.

    Args:
      texts: inputs, as those that the model was trained on: texts, or lists of messages. Of a
        conversation that ends with an answer, what stands before it is asked.
      task: name of the task; needed where the model is given the task, else it picks the adapter.

    Raises:
      UserError: the model cannot answer, or the task is unknown or missing.
    """
    examples, index = self._examples(texts, task)
    if not examples:
      return []
    tools, params = self._tools, self._placed(index)
    how, longest = self.answers.answer, self.answers.longest_answer
    of = tools.stream.tasks[index or 0] if self.answers.tasks else None
    with FoldBars(tools.folds, str, brief=True):
      found = evaluate.answers(params, of, examples, tools, how, longest)
    return [tools.stream.shown(answer.text, answer.label) for answer in found]

  def special_token(self, text: Input) -> str | None:
    """Returns a special token of the tokenizer that an input contains; None: there is none."""
    return self._tools.text.special_token(self._example(text, 'text', 0))

  @computing
  def probabilities(
    self, texts: Sequence[Input], task: str | None = None
  ) -> list[dict[str, float]]:
    """The probability of each label that may be answered, for each text.

    Of a head: softmax over these classes. Of a model that writes: the likelihood of each label's
    text, divided by the sum over the labels.

    Args:
      texts: inputs.
      task: as in `answer`.

    Raises:
      UserError: the model answers with free text, or the task is unknown or missing.
    """
    if not self.answers.classes:
      raise UserError('probabilities: this model answers with free text, it has no labels')
    examples, index = self._examples(texts, task)
    if not examples:
      return []
    of = self._tools.stream.tasks[index or 0]
    with FoldBars(self._tools.folds, str, brief=True):
      classes, log_p_NC = evaluate.log_likelihoods(self._placed(index), of, examples, self._tools)
    p_NC = np.exp(log_p_NC - log_p_NC.max(1, keepdims=True))
    p_NC /= p_NC.sum(1, keepdims=True)
    labels = [self.labels[c] for c in classes]
    return [dict(zip(labels, map(float, p_C), strict=True)) for p_C in p_NC]

  @computing
  def generate(
    self, prompts: Sequence[str], *, max_new: int = 64, temperature: float = 1.0, top_k: int = 20,
    seed: int = 0, task: str | None = None,
  ) -> list[str]:  # fmt: skip
    """Continues each prompt by top-k sampling.

    Args:
      prompts: texts; an empty one is the beginning of a document.
      max_new: tokens of a continuation at most.
      temperature: of the softmax.
      top_k: candidates a token; 1 is greedy.
      seed: of the samples.
      task: name of the task whose parameters are meant.

    Raises:
      UserError: the model cannot generate, a prompt holds a special token, or the task is unknown.
    """
    if self.backbone.decode is None or self.config.classes:
      raise UserError('generate: this model classifies and cannot write')
    check_values(questions.Sampling(max_new, temperature, top_k, seed), 'generate: ')
    text, tools = self._tools.text, self._tools
    given = {f'prompts[{i}]': p for i, p in enumerate(questions.listed(prompts, 'prompts'))}
    ids = [[*text.start, *text.encode(questions.text_of(p, n), n)] for n, p in given.items()]
    if not ids:
      return []
    ids = [one or [text.eos] for one in ids]  # something must stand before the first token
    key = tools.key('shown', seed)
    params = self._placed(self._index(task))
    with FoldBars(tools.folds, str, brief=True):
      out = tools.sample(params, ids, key, k=top_k, temperature=temperature, max_new=max_new)
    tools.folds.forget()
    return [text.decode(row) for row in out.tolist()]

  @computing
  def save(
    self, folder: str | pathlib.Path, *, format: str = 'hf', dtype: WeightDtype = 'float32',
    task: str | None = None,
  ) -> None:  # fmt: skip
    """Writes the model to a new folder, whole or not at all.

    Args:
      folder: new or empty; one that holds the same model already stays as it is.
      format: `hf`, a Hugging Face folder with any adapter merged, which `jcl.load_model` and
        `transformers` load; `peft`, the adapter only.
      dtype: of the weights: `float32` or `bfloat16`.
      task: name of the task whose parameters are meant; None: as where no task is named.

    Raises:
      UserError: the folder holds something else, there is no such task, or no adapter to write.
    """
    if format not in ('hf', 'peft') or dtype not in hf.WRITTEN:
      right = "format 'hf' or 'peft', dtype 'float32' or 'bfloat16'"
      raise UserError(f'save: format {format!r}, dtype {dtype!r}; give {right}')
    params, out = self._params_for(self._index(task)), paths.local(folder, 'save: folder')
    config = self.config.with_depth(depth(params))  # it may have grown
    if format == 'peft':
      if 'lora' not in params or not isinstance(config, DecoderConfig):
        raise UserError('save: format is peft, but the model has no adapter; use hf')
      peft.write(out, config, params['lora'], str(self._source or ''))
      base_model.write_beside(out, self.base_digests)
      return
    companions = self.answers.beside(self._companions)
    merged = lora.merged(params)
    hf.save(out, hf.Loaded(config, merged, self.tokenizer, self._special, companions), dtype=dtype)

  @computing
  def loaded(self) -> hf.Loaded:
    """Returns what another run can start from: any adapter merged, the tokenizer a copy."""
    params = lora.merged(self.params)
    config = self.config.with_depth(depth(params))
    tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
    return hf.Loaded(config, params, tokenizer, self._special, self._companions)

  @property
  def tools(self) -> HookTools:
    """Maps over rows and samples of this model."""
    return self._tools

  @computing
  def placed(self) -> Params:
    """Returns the parameters that answer where no task is named, on the devices."""
    return self._placed(None)

  def _placed(self, task: int | None) -> Params:
    return sharding.place(self._params_for(task), self._tools.mesh)

  def _index(self, task: str | None) -> int | None:
    """The index of a task by name; None where none is named."""
    if task is None:
      return None
    if task not in self.answers.tasks:
      known = ', '.join(self.answers.tasks) or 'no tasks in this model'
      raise UserError(f'task: no task is called {task!r}; there are {known}')
    return self.answers.tasks.index(task)

  def _examples(self, texts: Sequence[Input], task: str | None) -> tuple[list[Example], int | None]:
    """Examples without an answer, and the index of their task."""
    given = questions.listed(texts, 'texts')
    if self.answers.text_format == 'packed':
      raise UserError('answer: this model was trained on raw text and has no answers; use generate')
    index = self._index(task)
    if self.answers.task_id_given and index is None:
      raise UserError(f'task: this model is given the task; name one of {self._names()}')
    return [self._example(t, f'texts[{i}]', index or 0) for i, t in enumerate(given)], index

  def _example(self, given: Input, name: str, task: int) -> Example:
    """An example without an answer, of a text or a conversation."""
    answers = self.answers
    return questions.example(given, name, task, answers.chat_template, answers.text_format)

  def _names(self) -> str:
    return ', '.join(self.answers.tasks)

  def __repr__(self) -> str:
    numbers = sum(np.size(x) for x in jax.tree.leaves(self.params))
    return (
      f'Model({type(self.config).__name__}, {numbers / 1e6:.2f} million parameters, '
      f'{count_of(self.answers.seen, "task")}, {count_of(len(self.labels), "label")})'
    )


def of_run(parts: Experiment, last: Run) -> Model:
  """The model of a run that has ended."""
  path = parts.config.backbone.path
  loaded = shape_of(parts)
  format = AnswerFormat.of(parts, _seen(last, len(parts.stream)))
  return Model(
    loaded, format, _params_of(parts.method, parts.stream, last),
    paths.local(path, 'backbone.path') if path else None,
  )  # fmt: skip


def _seen(last: Run, tasks: int) -> int:
  """Tasks that a run has learned."""
  return min(max(len(last.record['matrix']) - 1, 0), tasks)


def _params_of(method: methods.Method, stream: Stream, last: Run) -> Callable[[int | None], Params]:
  def params_for(task: int | None) -> Params:
    chosen = None if task is None else stream.tasks[task]
    return jax.device_get(method.params_for(last.memory, last.params, chosen))

  return params_for


@computing
def load_model(
  path: str | pathlib.Path, *, base: str | pathlib.Path | None = None,
  special_tokens_in_text: str = '', family: str = '',
) -> Model:  # fmt: skip
  """Opens a model: of a run's workdir, of an exported folder, or any pretrained one.

  A run is opened without the data that it was trained on. That a run has not learned all of its
  tasks yet is said on standard error.

  Args:
    path: the workdir of a run; a folder that `Model.save` or `jcl export` wrote; a Hugging Face
      folder, a name on the hub or a GGUF file.
    base: the model that a run started from, where it is no longer at its place; None: as the run
      had it.
    special_tokens_in_text: what special tokens in the texts and prompts that it is given are:
      `refuse` or `text`; empty: as the model was trained.

    family: `package.module:name` of the Family of a model folder; empty: found by its model_type.

  Raises:
    UserError: nothing there can be read, or `base` is another model; the message says what is
      missing.
  """
  if special_tokens_in_text not in ('', 'refuse', 'text'):
    given = special_tokens_in_text
    raise UserError(f'load_model: special_tokens_in_text is {given!r}; give refuse or text')
  if not isinstance(family, str):
    raise UserError(f'load_model: family is a {type(family).__name__}; give package.module:name')
  place = paths.local(path, 'load_model: path')
  if not str(path):
    raise UserError("load_model: path is ''; give a folder, a file or the name of a model")
  if (place / 'checkpoints').is_dir() or (place / FOLDER / FILE).is_file():
    if family:
      raise UserError(f'load_model: family is {family!r}, but {path} is a run, which names its own')
    return load_run(place, '' if base is None else str(base), special_tokens_in_text)
  if base is not None:
    raise UserError(f'load_model: base is {str(base)!r}, but {path} is no workdir of a run')
  loaded = hf.load(str(path), family=family)
  format = read_format(place / FILE) if (place / FILE).is_file() else AnswerFormat()
  if special_tokens_in_text:
    format = dataclasses.replace(format, special_tokens_in_text=special_tokens_in_text)
  params = loaded.params
  assert params is not None, 'weights are read'
  _say_unfinished(format)
  return Model(loaded, format, lambda task: params, place if place.is_dir() else None)


@computing
def load_run(workdir: pathlib.Path, base: str = '', special_tokens_in_text: str = '') -> Model:
  """Returns the model of a run's newest snapshot, without reading the run's data.

  Args:
    workdir: of the run.
    base: the model that it started from, where that has moved; it is read to be compared.
    special_tokens_in_text: as in `load_model`.

  Raises:
    UserError: there is no run, none with a snapshot, or `base` is another model.
  """
  config, folder = workdirs.load_workdir(str(workdir), base), workdir / FOLDER
  if not (folder / FILE).is_file():
    raise UserError(
      f'{folder} is missing, which a run of this jcl has; export the run with the jcl that made it'
    )
  snapshots = Snapshots(workdir, write=False)
  found = snapshots.latest()
  snapshots.close()
  if found is None:
    raise UserError(f'{workdir} has no snapshot yet; train it first')
  known = {field.name for field in dataclasses.fields(Run)}
  last = Run(**{name: value for name, value in found.items() if name in known})
  loaded, format = (
    hf.load(str(folder), weights=False, family=config.backbone.family),
    read_format(folder / FILE),
  )
  in_text = special_tokens_in_text or format.special_tokens_in_text
  format = dataclasses.replace(
    format, seen=_seen(last, len(format.tasks)), special_tokens_in_text=in_text
  )
  _say_unfinished(format)
  shape = for_method(loaded.config, config.method.lora_dropout, config.method.block_every)
  method = methods.make(make_backbone(shape), config.method)
  if base:
    given = hf.load(base, family=config.backbone.family, stored=True)
    base_model.check_model(workdir, given, config)
  source = config.backbone.path
  made = Model(
    _with_companions(loaded, folder, source), format, _params_of(method, format.stream(), last),
    paths.local(source, 'backbone.path') if source else None,
  )  # fmt: skip
  made.base_digests = base_model.of_base(workdir)
  return made


def _say_unfinished(format: AnswerFormat) -> None:
  """Says on standard error that a model has not learned all tasks of its run."""
  if format.unfinished:
    console.show(format.unfinished, sys.stderr)


def _with_companions(loaded: hf.Loaded, folder: pathlib.Path, source: str) -> hf.Loaded:
  """Adds what goes with the base model where a run of an earlier jcl did not keep it."""
  base = paths.local(source, 'backbone.path')
  kept = loaded.config.classes or (folder / 'generation_config.json').is_file()
  if kept or not source or not (base / 'config.json').is_file():
    return loaded
  return loaded._replace(companions=read_companions(base, {}))
