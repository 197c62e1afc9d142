"""The shape of a model, and what a run chooses about it: fields of decoders and encoders alike."""

import dataclasses
from typing import Literal, Self, TypeVar, cast

import jax.numpy as jnp

from jcl.config import BackboneConfig
from jcl.errors import UserError, count_of


@dataclasses.dataclass(frozen=True)
class RandomFeatures:
  """Fixed random features of a row's state, which a linear head reads in place of the state.

  Attributes:
    kind: `relu` or `fourier`; see heads.py.
    count: P, number of features.
    bandwidth: bandwidth of `fourier`, in units of √D, the norm of a standardised state; the head
      is smoother with a larger one.
  """

  kind: Literal['relu', 'fourier']
  count: int
  bandwidth: float = 1.0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The shape of a model and what a run chooses about it.

  Raises:
    UserError: fields contradict each other.
  """

  vocabulary: int  # V, real token ids
  width: int  # D
  layers: int  # L
  heads: int  # attention heads
  feed_forward: int  # width inside the feed-forward part
  rows: int = 0  # of the embedding, padding rows included; 0: vocabulary
  added_rows: int = 0  # of `rows`, those added to round their number up; never exported
  dropout: float = 0.0  # probability, of embeddings and residuals; in training alone
  lora_dropout: float = 0.0  # probability, of an adapter's input; in training alone
  classes: int = 0  # C; above 0: a head over classes in place of the vocabulary
  head: Literal['linear', 'cosine'] = 'linear'  # kind of head; see heads.py
  random_features: RandomFeatures | None = None  # what a linear head reads; None: the state
  dtype: str = 'float32'  # of the computation
  attention: Literal['xla', 'cudnn'] = 'xla'  # implementation
  remat: bool = False  # the backward pass computes each layer again instead of keeping it
  family: str = ''  # model_type or package.module:name of its Family; see files/families.py
  model_type: str = ''  # in config.json; empty: the family's name
  pooling: Literal['last', 'first', 'mean'] = 'last'  # the state a target is predicted from
  mixed: bool = False  # the head holds weights of the states after all blocks; see heads.py
  max_positions: int = 0  # tokens that a row may have
  norm_epsilon: float = 1e-5  # added to the mean square inside norms
  norm_offset: float = 0.0  # added to the scale of a norm: Gemma's files hold scale - 1
  norm_bias: bool = True  # of layer norms
  rope_theta: float = 1e4
  window: int = 0  # windowed layers see tokens fewer than so many places away; 0: no such layers
  windowed: tuple[bool, ...] = ()  # layers with the window; empty: all, where there is one
  local_theta: float = 0.0  # rope_theta of windowed layers, unscaled; 0: as the other layers

  def __post_init__(self):
    self.fill('rows', self.vocabulary)
    if self.rows < self.vocabulary:
      raise UserError(
        f'the embedding has {count_of(self.rows, "row")}, fewer than the '
        f'{count_of(self.vocabulary, "token")}'
      )
    if self.attention == 'cudnn' and self.dtype != 'bfloat16':
      raise UserError("backbone.attention 'cudnn' needs backbone.dtype 'bfloat16'")
    self.check_pattern('windowed')

  def check_pattern(self, name: str) -> None:
    """Checks that a pattern of layers is empty or says something of each.

    Raises:
      UserError: it has another length.
    """
    pattern = getattr(self, name)
    if pattern and len(pattern) != self.layers:
      raise UserError(
        f'kinds of attention are given for {count_of(len(pattern), "layer")}; the model has '
        f'{self.layers}'
      )

  def with_depth(self, layers: int) -> Self:
    """Returns the config with another number of layers."""
    pattern = self.windowed[:layers]
    return dataclasses.replace(self, layers=layers, windowed=pattern)

  @property
  def windowed_layers(self) -> tuple[bool, ...]:
    """Whether each layer has the window."""
    return (self.window and self.windowed) or (self.window > 0,) * self.layers

  def fill(self, name: str, value: int) -> None:
    """Gives a field that is 0 its default; called in `__post_init__` alone."""
    if not getattr(self, name):
      object.__setattr__(self, name, value)

  @property
  def kept_rows(self) -> int:
    """Rows of the embedding that are exported: all but those added to round their number up."""
    return self.rows - self.added_rows

  @property
  def wide(self) -> jnp.dtype:
    """Dtype of parameters and logits: float32, or float64 where the computation is in float64."""
    return jnp.promote_types(self.dtype, jnp.float32)


Config = TypeVar('Config', bound=ModelConfig)


def with_settings(
  config: Config, settings: BackboneConfig, classes: int = 0,
  random_features: RandomFeatures | None = None, mixed: bool = False,
) -> Config:  # fmt: skip
  """Returns the config with what a run chooses: dropout, dtype, attention, remat, and a head.

  Args:
    config: the shape of the model.
    settings: those of the run; `head` and `pooling` are read where there are classes.
    classes: C of the head; 0: no head.
    random_features: what a linear head reads in place of the state; None: the state.
    mixed: with classes, the head reads a weighted sum of the states after all blocks.
  """
  head, pooling = (settings.head, settings.pooling) if classes else ('', '')
  mixed = mixed and classes > 0
  pooling = 'mean' if mixed else pooling
  return dataclasses.replace(
    config,
    head=cast(Literal['linear', 'cosine'], head or config.head),
    pooling=cast(Literal['last', 'first', 'mean'], pooling or config.pooling),
    dropout=settings.dropout,
    dtype=settings.dtype,
    attention=cast(Literal['xla', 'cudnn'], settings.attention),
    remat=settings.remat,
    classes=classes,
    random_features=random_features if classes else None,
    mixed=mixed,
  )
