"""What all torch loops share: the device, the model that transformers reads, AdamW."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import transformers

from jcl.benchmarks import RATE
from jcl.errors import UserError

if TYPE_CHECKING:
  from jcl.batching.batch import Row


def device_like(platform: str) -> torch.device:
  """Returns torch's device on the platform that jax computes on.

  Args:
    platform: as jax calls it.

  Raises:
    UserError: torch has no device there.
  """
  if platform == 'cpu':
    return torch.device('cpu')
  if platform == 'gpu' and torch.cuda.is_available():
    return torch.device('cuda')
  raise UserError(
    f'--against: jax computes on {platform} and torch {torch.__version__} has no device there; '
    'install a torch that has, or set JAX_PLATFORMS=cpu'
  )


def wait() -> None:
  """Waits until the accelerator has done all that was asked of it."""
  if torch.cuda.is_available():
    torch.cuda.synchronize()


def load(folder: pathlib.Path, place: torch.device) -> torch.nn.Module:
  """Returns the model in a folder, float32, without dropout in effect."""
  transformers.utils.logging.disable_progress_bar()
  # It asks for a mask of padding, which stands behind every token that counts.
  transformers.utils.logging.set_verbosity_error()
  if place.type == 'cuda':
    torch.set_float32_matmul_precision('high')  # TF32, as jax multiplies float32 there
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, trust_remote_code=False
  )
  # `torch.nn.Embedding` gives the row of its padding no gradient, though text may have that token:
  # often it is the end-of-sequence too.
  model.get_input_embeddings().padding_idx = None
  model.generation_config = transformers.GenerationConfig()  # penalties of the file, jcl has none
  return model.to(place).eval().requires_grad_(False)  # eval: no dropout, as in jcl's runs


def padded(rows: 'Sequence[Row]', width: int) -> torch.Tensor:
  """Returns the token ids of rows, right-padded with 0, [B, width] on the host."""
  ids = torch.zeros((len(rows), width), dtype=torch.long)
  for place, row in enumerate(rows):
    ids[place, : len(row.tokens)] = torch.as_tensor(row.tokens)
  return ids


def precision(dtype: str, place: torch.device) -> torch.autocast:
  """Returns the context of the computation: float32, or bfloat16 with float32 parameters."""
  return torch.autocast(place.type, torch.bfloat16, enabled=dtype == 'bfloat16')


def adamw(model: torch.nn.Module, decay: float, beta2: float, fused: bool) -> torch.optim.Optimizer:
  """Returns AdamW: decay on all but biases and scales of norms, as in jcl.

  Args:
    model: whose parameters train.
    decay: weight decay.
    beta2: of the second moment.
    fused: one kernel for all of it; else torch's default.
  """
  parameters = list(model.parameters())
  groups = [
    {'params': [p for p in parameters if p.ndim > 1], 'weight_decay': decay},
    {'params': [p for p in parameters if p.ndim <= 1], 'weight_decay': 0.0},
  ]
  how = {'fused': True} if fused else {}
  return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, beta2), eps=1e-8, **how)
