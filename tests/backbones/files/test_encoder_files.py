"""Files of encoders in and out: names, config.json, tokenizers, rows, refusals."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from goldens import make_encoder_goldens as goldens
from support import model_folder, rounding
from support.model_folder import load_encoder as load

from jcl.backbones import heads
from jcl.backbones.files import families, fields, hf, tensors
from jcl.batching.text_formats import Text
from jcl.errors import UserError
from jcl.streams.stream import Example


def named(golden, family):
  """The tensors of a golden file that are kept, under their full names."""
  found = {}
  for name, x in model_folder.weights(golden).items():
    if name.startswith(('head.', 'decoder.')):
      continue
    name = name if name.startswith((family.prefix, 'lm_head')) else family.prefix + name
    if 'pooler' not in name and 'lm_head' not in name:
      found[name] = x
  return found


@pytest.mark.parametrize('case', goldens.CASES)
def test_names_are_read_both_ways(case, tmp_path):
  golden = model_folder.golden(case, 'encoder')
  loaded, family = load(tmp_path, golden), families.find_family(case)
  assert loaded.config.family == case
  written = dict(tensors.write(loaded.config, family.table, loaded.params))
  wanted = named(golden, family)
  assert set(written) == set(wanted)
  for name, x in wanted.items():
    assert written[name].flags.c_contiguous
    np.testing.assert_array_equal(written[name], x)
  # A head over classes is ours alone: neither read nor written.
  config = dataclasses.replace(loaded.config, classes=3)
  assert tensors.param_shapes(config) == tensors.param_shapes(loaded.config)
  params = {**loaded.params, 'head': heads.init(jax.random.key(0), config)}
  assert set(dict(tensors.write(config, family.table, params))) == set(wanted)


@pytest.mark.parametrize('case', goldens.CASES)
def test_a_written_config_is_read_back(case):
  family = families.find_family(case)
  read = lambda values: family.read(fields.Fields(values, 'config.json'))
  config = read(json.loads(str(model_folder.golden(case, 'encoder')['config'])))
  assert read(family.write(config)) == config
  tanh = dataclasses.replace(config, activation='gelu_tanh')
  assert read(family.write(tanh)) == tanh


@pytest.mark.parametrize('case', goldens.CASES)
@pytest.mark.filterwarnings('ignore')
def test_transformers_reads_what_is_written(case, tmp_path):
  torch = pytest.importorskip('torch')
  import transformers

  golden, family = model_folder.golden(case, 'encoder'), families.find_family(case)
  loaded = load(tmp_path / 'in', golden)
  out = tmp_path / 'out'
  out.mkdir()
  padding = json.loads(str(golden['config']))['pad_token_id']  # which an export adds too
  values = {'model_type': case, 'pad_token_id': padding, **family.write(loaded.config)}
  (out / 'config.json').write_text(json.dumps(values))
  written = dict(tensors.write(loaded.config, family.table, loaded.params))
  safetensors.numpy.save_file(written, out / 'model.safetensors', metadata={'format': 'pt'})
  net = transformers.AutoModel.from_pretrained(out).eval()
  with torch.no_grad():
    found_BTD = goldens.states(net, padding)
  real_BT = np.arange(goldens.TOKENS) < np.array(goldens.ROWS)[:, None]
  wanted_ND = golden['states'][real_BT]
  rounding.assert_close(found_BTD[real_BT], wanted_ND, **rounding.of_model(loaded.config))


def test_heads_of_pretraining_constants_and_old_names_are_no_obstacle(tmp_path):
  golden = model_folder.golden('bert', 'encoder')
  wanted = load(tmp_path / 'new', golden)
  old = {k: x for k, x in golden.items() if not k.startswith('weight:')}
  for name, x in model_folder.weights(golden).items():
    if 'LayerNorm' in name:
      name = name.replace('.weight', '.gamma').replace('.bias', '.beta')
    old[f'weight:bert.{name}'] = x
  old |= {
    'weight:bert.embeddings.position_ids': np.arange(12)[None],
    'weight:cls.predictions.bias': np.zeros(40, np.float32),
    'weight:cls.predictions.transform.LayerNorm.gamma': np.zeros(16, np.float32),
    'weight:cls.seq_relationship.bias': np.zeros(2, np.float32),
  }
  loaded = load(tmp_path / 'old', old)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, wanted.params)
  assert loaded.config == wanted.config


def edit(**fields):
  """A change of the fields of a golden file's config.json."""

  def change(golden):
    values = json.loads(str(golden['config'])) | fields
    golden['config'] = np.array(json.dumps({k: v for k, v in values.items() if v is not ...}))

  return change


QUERY = 'encoder.layer.1.attention.self.query.weight'
BAD = {
  'activation': ('bert', edit(hidden_act='xielu'), "hidden_act 'xielu' is not supported; known"),
  'distil activation': ('distilbert', edit(activation='selu'), "activation 'selu' is not supp"),
  'relative': (
    'bert',
    edit(position_embedding_type='relative_key'),
    "config.json: position_embedding_type 'relative_key' is not supported",
  ),
  'decoder': ('bert', edit(is_decoder=True), 'is_decoder True is not supported'),
  'cross': ('roberta', edit(add_cross_attention=True), 'add_cross_attention True is not'),
  'no field': ('bert', edit(hidden_size=...), "field 'hidden_size' is missing"),
  'distil field': ('distilbert', edit(dim=...), "field 'dim' is missing"),
  'heads': ('bert', edit(num_attention_heads=3), 'a width of 16 is no multiple of 3 heads'),
  'positions': ('roberta', edit(max_position_embeddings=2), 'none left for tokens'),
  'missing': (
    'bert',
    lambda golden: golden.pop(f'weight:{QUERY}'),
    f"tensor 'bert.{QUERY}' is missing",
  ),
  'shape': (
    'bert',
    lambda golden: golden.update({f'weight:{QUERY}': np.zeros((16, 17), np.float32)}),
    rf"model.safetensors: tensor 'bert.{QUERY}' has shape \(16, 17\); the config wants \(16, 16\)",
  ),
  'classifier': (
    'distilbert',
    lambda golden: golden.update({'weight:classify.bias': np.zeros(2, np.float32)}),
    "tensor 'distilbert.classify.bias' is unknown",
  ),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_folders_are_refused_in_one_line(name, tmp_path):
  case, change, says = BAD[name]
  golden = model_folder.golden(case, 'encoder')
  change(golden)
  with pytest.raises(UserError, match=says) as caught:
    load(tmp_path, golden)
  assert '\n' not in str(caught.value)
  assert str(tmp_path) in str(caught.value) or 'no multiple' in str(caught.value) or (
    'none left' in str(caught.value)
  )  # fmt: skip


@pytest.mark.parametrize(
  'named',
  [{}, {'cls_token': '[CLS]', 'sep_token': {'content': '[SEP]'}, 'eos_token': None}],
  ids=['nothing said', 'said'],
)
def test_cls_begins_and_sep_ends_where_nothing_else_does(named, tmp_path):
  golden = model_folder.golden('bert', 'encoder')
  tmp_path.mkdir(exist_ok=True)
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(named))
  loaded = load(tmp_path, golden)
  assert (loaded.special.bos, loaded.special.eos, loaded.special.pad) == (2, 3, 0)
  assert len(loaded.tokenizer.encode('w001 ' * 20).ids) == 22  # nothing is truncated
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'sep_token': '[END]'}))
  with pytest.raises(UserError, match=r"sep_token '\[END\]' is not in the tokenizer"):
    load(tmp_path, golden)


@pytest.mark.filterwarnings('ignore')
def test_a_list_of_word_pieces_is_converted(tmp_path):
  golden, pieces = model_folder.golden('bert', 'encoder'), model_folder.word_pieces()
  load(tmp_path, golden)
  (tmp_path / 'tokenizer.json').unlink()
  words = sorted(pieces.get_vocab(), key=pieces.get_vocab().get)
  (tmp_path / 'vocab.txt').write_text('\n'.join(words) + '\n')
  loaded = hf.load(str(tmp_path))
  assert loaded.tokenizer.encode('Playing some jazz').ids == [2, 5, 6, 7, 8, 3]
  assert (loaded.special.bos, loaded.special.eos, loaded.special.pad) == (2, 3, 0)


def test_rows_of_an_encoder_are_framed_and_cut_inside(tmp_path):
  loaded = load(tmp_path, model_folder.golden('bert', 'encoder'))
  example = Example(7, 'playing some jazz', 'music', 1, 3, 'row-7')
  for pooling, place in (('first', 0), ('last', 5), ('mean', 5)):
    text = Text(loaded.tokenizer, loaded.special, '{x}{y}', 'class', 64, pooling=pooling)
    (row,) = text.rows(example)
    assert row.tokens.tolist() == [2, 5, 6, 7, 8, 3]
    assert (row.targets.tolist(), row.wanted.tolist()) == ([place], [3])
  text = Text(loaded.tokenizer, loaded.special, '{x}{y}', 'class', 5)
  assert text.rows(example)[0].tokens.tolist() == [2, 5, 6, 7, 3]
  assert text.cut == {7}
