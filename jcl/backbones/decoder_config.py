"""The shape of a decoder, as data."""

import dataclasses
from typing import Literal

from jcl.backbones.model_config import ModelConfig, with_settings
from jcl.config import BackboneConfig
from jcl.errors import UserError


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are scaled for texts longer than those of pretraining.

  Attributes:
    kind: `linear` divides every frequency by `factor`. `llama3` divides those of wavelengths above
      original / low, keeps those of wavelengths below original / high, and blends between.
    factor: length of the new context over that of the original one.
    low, high: as in `kind`.
    original: tokens of the context in pretraining.
  """

  kind: Literal['linear', 'llama3']
  factor: float
  low: float = 1.0
  high: float = 4.0
  original: int = 8192


@dataclasses.dataclass(frozen=True)
class DecoderConfig(ModelConfig):
  """The shape of a decoder. The defaults are Llama's.

  Raises:
    UserError: fields contradict each other.
  """

  kv_heads: int = 0  # 0: as many as heads
  head_dim: int = 0  # 0: width // heads
  family: str = 'llama'
  max_positions: int = 2048  # tokens a row may have: rows of learned positions, else of pretraining
  norm: Literal['rms', 'layer'] = 'rms'
  positions: Literal['rotary', 'learned'] = 'rotary'
  rope_theta: float = 1e4
  rope_fraction: float = 1.0  # of each head's dimensions that are rotated
  rope_scaling: RopeScaling | None = None
  activation: str = 'silu'  # a name in layers.ACTIVATIONS
  gated: bool = True  # down(act(gate(x)) * up(x)), otherwise down(act(up(x)))
  parallel: bool = False  # attention and feed-forward read the same input
  qkv_bias: bool = False  # biases of q, k and v
  o_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False  # norms of queries and keys, over a head
  tied: bool = True  # the embedding is the output projection too

  def __post_init__(self):
    super().__post_init__()
    self.fill('kv_heads', self.heads)
    self.fill('head_dim', self.width // self.heads)
    if self.head_dim < 1:
      raise UserError(f'a width of {self.width} is too small for {self.heads} heads')
    if not 0 < self.rope_fraction <= 1:
      raise UserError(
        f'{self.rope_fraction} of each head is rotated; it must be above 0, at most 1'
      )
    if self.heads % self.kv_heads:
      raise UserError(f'{self.heads} heads are no multiple of {self.kv_heads} kv_heads')
    if self.positions == 'rotary' and self.rotated % 2:
      raise UserError(f'rotary positions need an even number of dimensions, not {self.rotated}')
    if self.pooling == 'first':
      raise UserError("pooling 'first' reads nothing of a text in a decoder; use 'last' or 'mean'")
    if self.pooling == 'mean' and not self.classes:
      raise UserError("pooling 'mean' needs classes: the next token is predicted from one state")

  @property
  def rotated(self) -> int:
    """Number of each head's dimensions that are rotated."""
    return int(self.head_dim * self.rope_fraction)


def from_scratch(settings: BackboneConfig, vocabulary: int, classes: int = 0) -> DecoderConfig:
  """Returns the shape of the small Llama-like decoder that the settings describe.

  Args:
    settings: of the run.
    vocabulary: V, token ids of the tokenizer.
    classes: C of a head; 0: no head.

  Raises:
    UserError: the width is no multiple of the number of heads.
  """
  if settings.width % settings.heads:
    raise UserError(
      f'backbone.width {settings.width} is no multiple of backbone.heads {settings.heads}'
    )
  rows = -(-vocabulary // settings.vocabulary_multiple) * settings.vocabulary_multiple
  return with_settings(
    DecoderConfig(
      vocabulary=vocabulary,
      rows=rows,
      added_rows=rows - vocabulary,
      width=settings.width,
      layers=settings.layers,
      heads=settings.heads,
      feed_forward=settings.feed_forward,
    ),
    settings,
    classes,
  )
