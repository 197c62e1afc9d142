"""From the shape of a model, whatever its kind, to the model."""

from jcl.backbones.backbone import Backbone
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.encoder import encoder
from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.model_config import ModelConfig


def make_backbone(config: ModelConfig) -> Backbone:
  """Returns the decoder or encoder that a config describes.

  Raises:
    TypeError: it is neither a DecoderConfig nor an EncoderConfig.
  """
  if isinstance(config, DecoderConfig):
    return decoder(config)
  if isinstance(config, EncoderConfig):
    return encoder(config)
  raise TypeError(f'config must be a DecoderConfig or EncoderConfig, not {type(config).__name__}')
