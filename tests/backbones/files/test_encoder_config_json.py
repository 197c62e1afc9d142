"""The config.json of encoders: what is written is read again, and foreign settings are refused."""

import dataclasses

import pytest

from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.files import encoder_config_json as files
from jcl.backbones.files.fields import Fields
from jcl.errors import UserError

SIZES = dict(vocabulary=30, width=8, layers=2, heads=2, feed_forward=12, max_positions=40)
KINDS = {
  'bert': (files.read_bert, files.write_bert, EncoderConfig(**SIZES, types=2)),
  'roberta': (
    files.read_roberta, files.write_roberta,
    EncoderConfig(**SIZES, first_position=2, types=1, norm_epsilon=1e-5),
  ),
  'distilbert': (files.read_distilbert, files.write_distilbert, EncoderConfig(**SIZES, types=0)),
}  # fmt: skip


@pytest.mark.parametrize('kind', KINDS)
def test_a_config_is_read_as_it_was_written(kind):
  read, write, config = KINDS[kind]
  values = write(config)
  if kind == 'roberta':
    values['pad_token_id'] = config.first_position - 1
  again = read(Fields(values, 'config.json'))
  assert again == dataclasses.replace(config, family=again.family)
  assert values['architectures'][0].endswith('Model')


@pytest.mark.parametrize('field', ['is_decoder', 'add_cross_attention'])
def test_a_bert_that_is_no_encoder_is_refused(field):
  values = files.write_bert(KINDS['bert'][2]) | {field: True}
  with pytest.raises(UserError, match=f'config.json: {field} True is not supported'):
    files.read_bert(Fields(values, 'config.json'))


def test_robertas_positions_begin_behind_its_padding():
  values = files.write_roberta(KINDS['roberta'][2]) | {'pad_token_id': 0}
  found = files.read_roberta(Fields(values, 'config.json'))
  assert found.first_position == 1
  assert found.max_positions == values['max_position_embeddings'] - 1
