"""The two objectives of the torch loops are the formula, on a small model of theirs."""

import subprocess
import sys

import numpy as np
import pytest
from support import ROOT

from jcl.batching.batch import Row
from jcl.errors import UserError

WEIGHTS = {'gen': 0.25, 'kd_qa': 0.5, 'kd_gen': 0.125}
TEMPERATURE = 2.0


@pytest.fixture(scope='module')
def models():
  """Student and teacher: two GPT-2 of one narrow layer."""
  torch = pytest.importorskip('torch')
  from transformers import GPT2Config, GPT2LMHeadModel

  torch.manual_seed(0)
  shape = GPT2Config(vocab_size=23, n_embd=8, n_layer=1, n_head=2, n_positions=16)
  return [GPT2LMHeadModel(shape).eval() for _ in range(2)]


def rows(kinds):
  """A row of 3 … 8 tokens for each (replay, generative)."""
  random, made = np.random.default_rng(0), []
  for number, (replay, generative) in enumerate(kinds):
    size = int(random.integers(3, 9))
    targets = np.arange(0 if generative else size - 2, size)
    tokens = random.integers(0, 23, size).astype(np.int32)
    wanted = random.integers(0, 23, len(targets)).astype(np.int32)
    made.append(Row(tokens, targets, wanted, number, 0, replay, generative))
  return made


def by_formula(models, some):
  """The objective, a row and a target at a time, in float64."""
  import torch

  log_p = lambda model, row, t: torch.log_softmax(
    model(torch.tensor(row.tokens[None]).long()).logits[0].double() / t, -1
  )[row.targets]
  values = {}
  for row in some:
    kind = 'gen' if row.generative else 'qa'
    if row.replay:
      student, teacher = (log_p(model, row, TEMPERATURE) for model in models)
      found = TEMPERATURE**2 * (teacher.exp() * (teacher - student)).sum(-1)
      values.setdefault(f'kd_{kind}', []).extend(found.tolist())
    else:
      found = -log_p(models[0], row, 1.0)[range(len(row.targets)), row.wanted]
      values.setdefault(kind, []).extend(found.tolist())
  return sum(WEIGHTS.get(term, 1.0) * np.mean(each) for term, each in values.items())


MIXES = {
  'new and old': [(False, False), (False, True), (True, False), (True, True), (False, False)],
  'new alone': [(False, False), (False, True)],
  'old alone': [(True, False), (True, True)],
  'questions alone': [(False, False), (True, False)],
}


@pytest.mark.parametrize('mix', MIXES)
@pytest.mark.parametrize('name', ['torch', 'torch-tuned'])
def test_the_objective_is_the_formula(models, name, mix):
  from jcl.benchmarks.torch_plain import Plain
  from jcl.benchmarks.torch_tuned import Tuned

  rest = WEIGHTS, TEMPERATURE, 23, models[0].device
  objective = Tuned(*rest) if name == 'torch-tuned' else Plain(12, *rest)
  some = rows(MIXES[mix])
  student, teacher = models
  objective.teach(teacher.requires_grad_(False), [row for row in some if row.replay])
  found = objective.loss(student, teacher, some).item()
  # float32 sums of at most 23 · 8 numbers in another order; log p are of the size of log 23
  assert found == pytest.approx(
    by_formula(models, some), rel=2.0**-23 * 16 * 14, abs=2.0**-23 * 4 * 3.2
  )


@pytest.mark.slow
def test_a_fresh_process_of_torch_takes_the_step_of_the_job(tmp_path):
  pytest.importorskip('torch')
  from jcl.benchmarks import ours, request, setting, start, torch_first_step
  from jcl.benchmarks.bench import Bench
  from jcl.benchmarks.work import tolerance

  asked = request.Request(('start',), batch_size=2, learned=0)
  made = setting.make(asked, tmp_path)
  bench = Bench(made, [ours.contender(made)], tmp_path, 1.0, lambda line: None)
  job = start._job(bench, made.exported(made.parts))
  both = [torch_first_step.take(job, name) for name in ('torch', 'torch-tuned')]
  assert both[0] == pytest.approx(both[1], rel=tolerance(256, 4, 'float32'))


def test_a_fresh_process_of_torch_imports_no_jax():
  pytest.importorskip('torch')
  code = 'import sys; from jcl.benchmarks import torch_first_step; sys.exit("jax" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0


def test_torch_computes_where_jax_does():
  pytest.importorskip('torch')
  from jcl.benchmarks.torch_model import device_like

  assert device_like('cpu').type == 'cpu'
  with pytest.raises(UserError, match='--against: jax computes on tpu'):
    device_like('tpu')


@pytest.mark.parametrize('how', [{'rows': 2}, {'by_length': True}, {'compiled': True}])
def test_greedy_tokens_do_not_depend_on_how_prompts_are_put_together(models, how):
  from jcl.benchmarks.torch_writing import Writer
  from jcl.benchmarks.work import Prompts

  said = []
  prompts = Prompts([[5, 6, 7, 8], [9], [4, 3]], 4, 1)
  alone = Writer(1, 0, 'float32', said.append, rows=1)(models[0], prompts)
  assert Writer(1, 0, 'float32', said.append, **how)(models[0], prompts) == alone
  assert all(0 < len(ids) <= 4 for ids in alone)
  assert bool(said) == bool(how.get('compiled'))


def test_a_token_of_padding_that_stands_in_a_text_has_its_gradient(tmp_path):
  """torch withholds it by default; SmolLM2 pads with its end-of-sequence."""
  torch = pytest.importorskip('torch')
  from transformers import LlamaConfig, LlamaForCausalLM

  from jcl.benchmarks import torch_model

  shape = LlamaConfig(
    vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
    pad_token_id=2, tie_word_embeddings=False,
  )  # fmt: skip
  LlamaForCausalLM(shape).save_pretrained(tmp_path)
  model = torch_model.load(tmp_path, torch.device('cpu')).requires_grad_(True)
  table = model.get_input_embeddings().weight
  model(torch.tensor([[1, 2, 3]])).logits.square().sum().backward()
  assert float(table.grad[2].abs().max()) > 0
