"""What a decoder is made of, as data."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from jcl.config import BackboneConfig
from jcl.errors import UserError


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are stretched to longer texts.

  Attributes:
    kind: `linear` divides all of them by `factor`; `llama3` the low ones, blending between.
    factor: how much longer.
    low, high: wavelengths above original / low are stretched, below original / high kept.
    original: tokens of the pretraining context.
  """

  kind: Literal['linear', 'llama3']
  factor: float
  low: float = 1.0
  high: float = 4.0
  original: int = 8192


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """What a decoder is made of. The defaults are Llama's.

  Raises:
    UserError: where fields contradict each other.
  """

  vocabulary: int  # real token ids
  width: int
  layers: int
  heads: int
  feed_forward: int
  kv_heads: int = 0  # 0: as many as heads
  head_dim: int = 0  # 0: width // heads
  family: str = 'llama'  # the name under which families.py has its tensors' names
  rows: int = 0  # of the embedding, padding included; 0: vocabulary
  added_rows: int = 0  # of `rows`, those that only round their number up; never exported
  max_positions: int = (
    2048  # tokens; learned positions have no more, rotary ones were trained on it
  )
  norm: Literal['rms', 'layer'] = 'rms'
  norm_epsilon: float = 1e-5
  positions: Literal['rotary', 'learned'] = 'rotary'
  rope_theta: float = 1e4
  rope_fraction: float = 1.0  # of each head that is rotated
  rope_scaling: RopeScaling | None = None
  activation: str = 'silu'
  gated: bool = True  # down(act(gate(x)) * up(x)), otherwise down(act(up(x)))
  parallel: bool = False  # attention and feed-forward side by side
  qkv_bias: bool = False
  o_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False
  tied: bool = True  # the embedding is the output projection too
  dropout: float = 0.0  # of embedding and residuals, in training alone
  lora_dropout: float = 0.0  # of an adapter's input, in training alone
  classes: int = 0  # > 0: a linear head over classes in place of the vocabulary
  dtype: str = 'float32'  # of the computation
  attention: Literal['xla', 'cudnn'] = 'xla'
  remat: bool = False

  def __post_init__(self):
    fill = lambda name, value: getattr(self, name) or object.__setattr__(self, name, value)
    fill('kv_heads', self.heads)
    fill('head_dim', self.width // self.heads)
    fill('rows', self.vocabulary)
    if self.heads % self.kv_heads:
      raise UserError(f'{self.heads} heads are no multiple of {self.kv_heads} kv_heads')
    if self.positions == 'rotary' and self.rotated % 2:
      raise UserError(f'rotary positions need an even number of dimensions, not {self.rotated}')
    if self.rows < self.vocabulary:
      raise UserError(f'{self.rows} rows of the embedding are fewer than {self.vocabulary} tokens')
    if self.attention == 'cudnn' and self.dtype != 'bfloat16':
      raise UserError("backbone.attention 'cudnn' needs backbone.dtype 'bfloat16'")

  @property
  def kept_rows(self) -> int:
    """Rows of the embedding that are exported: those of real tokens and of the model's own file."""
    return self.rows - self.added_rows

  @property
  def rotated(self) -> int:
    """Dimensions of each head that are rotated."""
    return int(self.head_dim * self.rope_fraction)

  @property
  def wide(self) -> Any:
    """The dtype of parameters and logits: float32, or float64 where all is."""
    return jnp.promote_types(self.dtype, jnp.float32)


def from_scratch(settings: BackboneConfig, vocabulary: int, classes: int = 0) -> DecoderConfig:
  """The small Llama-like decoder that the settings describe.

  Raises:
    UserError: the width is no multiple of the number of heads.
  """
  if settings.width % settings.heads:
    raise UserError(
      f'backbone.width {settings.width} is no multiple of backbone.heads {settings.heads}'
    )
  return with_settings(
    DecoderConfig(
      vocabulary=vocabulary,
      width=settings.width,
      layers=settings.layers,
      heads=settings.heads,
      feed_forward=settings.feed_forward,
    ),
    settings,
    classes,
  )


def with_settings(
  config: DecoderConfig, settings: BackboneConfig, classes: int = 0
) -> DecoderConfig:
  """The config with what a run chooses: dropout, dtype, attention, remat and head."""
  return dataclasses.replace(
    config,
    dropout=settings.dropout,
    dtype=settings.dtype,
    attention=settings.attention,
    remat=settings.remat,
    classes=classes,
  )
