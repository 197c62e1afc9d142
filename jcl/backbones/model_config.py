"""What any model is made of, as data: the fields that decoders and encoders share."""

import dataclasses
from typing import Any, Literal, TypeVar

import jax.numpy as jnp

from jcl.config import BackboneConfig
from jcl.errors import UserError


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The shape of a model and what a run chooses about it.

  Raises:
    UserError: where fields contradict each other.
  """

  vocabulary: int  # real token ids
  width: int
  layers: int
  heads: int
  feed_forward: int
  rows: int = 0  # of the embedding, padding included; 0: vocabulary
  added_rows: int = 0  # of `rows`, those that only round their number up; never exported
  dropout: float = 0.0  # of embedding and residuals, in training alone
  lora_dropout: float = 0.0  # of an adapter's input, in training alone
  classes: int = 0  # > 0: a head over classes in place of the vocabulary
  head: Literal['linear', 'cosine'] = 'linear'  # of classifiers; see heads.py
  dtype: str = 'float32'  # of the computation
  attention: Literal['xla', 'cudnn'] = 'xla'
  remat: bool = False

  def __post_init__(self):
    self.fill('rows', self.vocabulary)
    if self.rows < self.vocabulary:
      raise UserError(f'{self.rows} rows of the embedding are fewer than {self.vocabulary} tokens')
    if self.attention == 'cudnn' and self.dtype != 'bfloat16':
      raise UserError("backbone.attention 'cudnn' needs backbone.dtype 'bfloat16'")

  def fill(self, name: str, value: int) -> None:
    """Gives a field that is 0 its default; for __post_init__ alone."""
    if not getattr(self, name):
      object.__setattr__(self, name, value)

  @property
  def kept_rows(self) -> int:
    """Rows of the embedding that are exported: those of real tokens and of the model's own file."""
    return self.rows - self.added_rows

  @property
  def wide(self) -> Any:
    """The dtype of parameters and logits: float32, or float64 where all is."""
    return jnp.promote_types(self.dtype, jnp.float32)


Config = TypeVar('Config', bound=ModelConfig)


def with_settings(config: Config, settings: BackboneConfig, classes: int = 0) -> Config:
  """The config with what a run chooses: dropout, dtype, attention, remat, a head over classes."""
  chosen = {'head': settings.head, 'pooling': settings.pooling} if classes else {}
  return dataclasses.replace(
    config,
    **{name: value for name, value in chosen.items() if value},
    dropout=settings.dropout,
    dtype=settings.dtype,
    attention=settings.attention,
    remat=settings.remat,
    classes=classes,
  )
