"""From the shape of a model, whatever its kind, to the model."""

from jcl.backbones import Backbone
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.encoder import encoder
from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.model_config import ModelConfig

KINDS = {DecoderConfig: decoder, EncoderConfig: encoder}


def backbone_of(config: ModelConfig) -> Backbone:
  """The decoder or encoder that a config describes."""
  return KINDS[type(config)](config)
