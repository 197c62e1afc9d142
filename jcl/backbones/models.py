"""From the shape of a model, whatever its kind, to the model."""

import dataclasses

from jcl.backbones.backbone import Backbone
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.encoder import encoder
from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.model_config import Config, ModelConfig
from jcl.backbones.split import ALONE, Split
from jcl.backbones.split import check as split_check


def make_backbone(config: ModelConfig, split: Split = ALONE) -> Backbone:
  """Returns the decoder or encoder that a config describes.

  Args:
    config: shape of the model.
    split: how devices share a model.

  Raises:
    UserError: the model cannot be split so.
    TypeError: it is neither a DecoderConfig nor an EncoderConfig.
  """
  split_check(config, split.parts)
  if isinstance(config, DecoderConfig):
    return decoder(config, split)
  if isinstance(config, EncoderConfig):
    return encoder(config)
  raise TypeError(f'config must be a DecoderConfig or EncoderConfig, not {type(config).__name__}')


def for_method(config: Config, lora_dropout: float, block_every: int) -> Config:
  """Returns the config with what a method chooses.

  Args:
    config: the shape of the model.
    lora_dropout: probability, of the input of adapters.
    block_every: layers of the model for each block that the method adds; 0: it adds none.
  """
  config = dataclasses.replace(config, lora_dropout=lora_dropout)
  if isinstance(config, DecoderConfig):
    return dataclasses.replace(config, block_every=block_every)
  return config
