"""What the files of a model folder say against each other, and what in them is not used.

A contradiction is resolved as transformers resolves it, with a line, or refused. What is in a file
and not read is named.
"""

import collections
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from jcl.backbones.files.family import Entry, Family
from jcl.backbones.files.fields import Fields
from jcl.backbones.files.tensors import TensorSource
from jcl.backbones.model_config import ModelConfig
from jcl.backbones.tokenizers import SpecialIds
from jcl.errors import UserError, count_of

# Fields of a config.json on which nothing that is computed depends.
HARMLESS = {
  '_attn_implementation_autoset', '_name_or_path', 'architectures', 'auto_map', 'bos_token_id',
  'classifier_dropout', 'cls_token_id', 'dtype', 'eos_token_id', 'finetuning_task',
  'gradient_checkpointing', 'id2label', 'initializer_range', 'is_decoder', 'label2id',
  'mask_token_id', 'max_window_layers', 'model_type', 'n_ctx', 'num_labels', 'output_attentions',
  'output_hidden_states', 'pad_token_id', 'pretraining_tp', 'problem_type', 'return_dict',
  'rope_interleaved', 'sep_token_id', 'sinusoidal_pos_embds', 'summary_activation',
  'summary_first_dropout', 'summary_proj_to_labels', 'summary_type', 'summary_use_proj',
  'task_specific_params', 'tie_word_embeddings', 'tokenizer_class', 'torch_dtype',
  'transformers_version', 'unk_token_id', 'use_cache',
}  # fmt: skip
# Fields of features that no model of jcl has: false, 0 or empty there is what is computed anyway.
OFF = {
  'add_cross_attention', 'attention_dropout', 'attention_probs_dropout_prob', 'attn_pdrop',
  'chunk_size_feed_forward', 'classifier_bias', 'deterministic_flash_attn', 'dropout', 'embd_pdrop',
  'embedding_dropout', 'hidden_dropout', 'hidden_dropout_prob', 'is_encoder_decoder',
  'lm_head_bias', 'mlp_dropout', 'pruned_heads', 'qa_dropout', 'reference_compile',
  'reorder_and_upcast_attn', 'repad_logits_with_grad', 'resid_pdrop', 'residual_dropout',
  'scale_attn_by_inverse_layer_idx', 'seq_classif_dropout', 'sparse_prediction',
  'tie_encoder_decoder', 'torchscript', 'use_bfloat16', 'use_mrope',
}  # fmt: skip
# {field that says whether a model has a part: fields of its config that say the same}.
PARTS = {
  'attention_bias': ('attention_bias', 'qkv_bias', 'o_bias'), 'mlp_bias': ('mlp_bias',),
  'qk_norm': ('qk_norm',), 'qkv_bias': ('attention_bias', 'qkv_bias'),
  'use_bias': ('attention_bias', 'qkv_bias', 'o_bias', 'mlp_bias'), 'use_qk_norm': ('qk_norm',),
  'use_parallel_residual': ('parallel',), 'use_sliding_window': ('window',),
}  # fmt: skip
DTYPES = {'F16': 'float16', 'BF16': 'bfloat16', 'F32': 'float32', 'F64': 'float64'}
# Heads of fine-tuned models, which transformers too leaves out where a bare model is asked for.
HEADS = r'^(\w+\.)?(classifier|pre_classifier|qa_outputs|score|classification_head)\.'


def is_untied(
  sources: Mapping[str, TensorSource], family: Family, embedding: str = 'embed/embedding'
) -> bool:
  """Whether a file holds an output projection that is another than its embedding.

  Args:
    sources: tensors of the file.
    family: of the model.
    embedding: path of the embedding in jcl's tree.
  """
  name = next(entry.tensor for entry in family.table if entry.paths == (embedding,))
  projections = [n for n in sources if n.startswith(family.output_names)]
  weight = next((n for n in projections if n.endswith('weight')), None)
  if weight is None or name not in sources:
    return False
  one, two = sources[weight], sources[name]
  return one.shape != two.shape or not np.array_equal(one.read(), two.read(), equal_nan=True)


def check_layers(table: Sequence[Entry], names: Iterable[str], layers: int, said: str) -> None:
  """Refuses tensors of more or fewer layers than the config says.

  Args:
    table: of the family.
    names: of the tensors in the files.
    layers: L of the config.
    said: file and field that say L, for messages.

  Raises:
    UserError: naming both numbers.
  """
  starts = {e.tensor.split('{}')[0] for e in table if e.paths[0].startswith('layers/')}
  found = {
    int(match[1])
    for name in names
    for start in starts
    if (match := re.match(re.escape(start) + r'(\d{1,6})\.', name))
  }
  if found and max(found) + 1 != layers:
    raise UserError(
      f'{said} is {layers}, but the tensors are those of {count_of(max(found) + 1, "layer")}; '
      'the config is of another model, or files are missing'
    )


def tensor_families(names: Collection[str]) -> str:
  """Returns the names with * for numbers, each with its count: `h.*.attn.bias (12)`."""
  count = collections.Counter(re.sub(r'(?<![a-zA-Z])\d+(?![a-zA-Z])', '*', name) for name in names)
  return ', '.join(name if n == 1 else f'{name} ({n})' for name, n in sorted(count.items()))


def of_config(fields: Fields, file: pathlib.Path, config: ModelConfig) -> list[str]:
  """Returns lines about settings of a config.json that nothing reads or that stand in two forms.

  Args:
    fields: of the file.
    file: for messages.
    config: of the model, as it was read.
  """
  lacks = lambda part: not any(getattr(config, name, False) for name in PARTS[part])
  unread, differing = (
    fields.unread(HARMLESS, {*OFF, *filter(lacks, PARTS)}),
    _rotary_differences(fields.values),
  )
  lines = [f'{file}: settings that nothing reads: {", ".join(unread)}'] if unread else []
  if differing:
    lines.append(
      f'{file}: rope_scaling and rope_parameters differ in {", ".join(differing)}; rope_scaling is '
      'read, as in transformers'
    )
  return lines


def _rotary_differences(values: Mapping[str, Any]) -> list[str]:
  """Returns the names of rotary settings that the two forms of a config.json give differently."""
  old, new = values.get('rope_scaling'), values.get('rope_parameters')
  if not (isinstance(old, dict) and isinstance(new, dict) and old and new):
    return []
  new = new.get('full_attention') or new
  besides = {'rope_theta', 'partial_rotary_factor'} - set(old)  # read elsewhere in the config
  one, two = ({'rope_type': part.get('type'), **part} for part in (old, new))
  return sorted(
    name for name in {*one, *two} - {'type'} - besides if one.get(name) != two.get(name)
  )


def of_tensors(
  sources: Mapping[str, TensorSource], unread: Collection[str], config: Mapping[str, Any],
  folder: pathlib.Path,
) -> list[str]:  # fmt: skip
  """Returns lines about tensors that are not read, and about a type that the config has otherwise.

  Args:
    sources: tensors of the files.
    unread: names of those that are not read.
    config: the config.json.
    folder: of the model.
  """
  lines = []
  if unread:
    lines.append(f'{folder}: tensors that are not used: {tensor_families(unread)}')
  kinds = collections.Counter(DTYPES.get(x.kind, x.kind) for n, x in sources.items() if x.kind)
  said = config.get('dtype') or config.get('torch_dtype')
  if isinstance(said, str) and kinds and said not in kinds and said in DTYPES.values():
    lines.append(
      f'{folder / "config.json"}: dtype is {said}, but the tensors are {", ".join(kinds)}; they '
      'are read as they are'
    )
  return lines


def of_special_ids(
  folder: pathlib.Path, config: Mapping[str, Any], generation: Mapping[str, Any],
  tokenizer: Tokenizer, special: SpecialIds,
) -> list[str]:  # fmt: skip
  """Returns lines about token ids that end or begin a text in one file and not in another."""
  lines, shown = [], f'{tokenizer.id_to_token(special.eos)!r} ({special.eos})'
  for name, values in (('config.json', config), ('generation_config.json', generation)):
    found = values.get('eos_token_id')
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if others := [i for i in ids if i != special.eos]:
      lines.append(
        f'{folder / name}: eos_token_id is {found}; a text ends with {shown} alone, and not with '
        f'{", ".join(map(str, others))}'
      )
  found = config.get('bos_token_id')
  if None not in (found, special.bos) and found != special.bos:
    lines.append(
      f'{folder / "config.json"}: bos_token_id is {found}; a text begins with {special.bos}, as '
      'the tokenizer says'
    )
  return lines


def of_tokenizer(
  folder: pathlib.Path, fields: Mapping[str, Any], tokenizer: Tokenizer, special: SpecialIds
) -> list[str]:
  """Returns lines about settings of tokenizer_config.json that the tokenizer itself says otherwise.

  Args:
    folder: of the model.
    fields: of its tokenizer_config.json.
    tokenizer: as it was read.
    special: ids of the special tokens.
  """
  normal = lambda text: (
    tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer is not None else text
  )
  split = tokenizer.pre_tokenizer
  first = split.pre_tokenize_str(normal('a'))[:1] if split is not None else [(normal('a'),)]
  framed = [-1, *tokenizer.encode('a').ids, -1]
  does = {
    'do_lower_case': normal('A').strip() == 'a',
    'strip_accents': normal('\u00e9').strip() == 'e',
    'tokenize_chinese_chars': normal('\u4e2d') != '\u4e2d',
    'add_prefix_space': any(piece[0].startswith((' ', 'Ġ', '▁')) for piece in first),
    'add_bos_token': framed[1] == special.bos,
    'add_eos_token': framed[-2] == special.eos,
  }
  differing = [
    name
    for name, x in does.items()
    if isinstance(fields.get(name), bool | int) and fields[name] != x
  ]
  return [
    f'{folder / "tokenizer_config.json"}: {name} is {str(bool(fields[name])).lower()}, but '
    f'{str(does[name]).lower()} in the tokenizer itself, which is read'
    for name in differing
  ]


def of_files(folder: pathlib.Path) -> list[str]:
  """Returns a line about files of weights that stand in a folder and are not read.

  Raises:
    UserError: an adapter stands beside the model, which transformers would load with it.
  """
  weights = folder / 'model.safetensors'
  if (folder / 'adapter_config.json').is_file():
    raise UserError(
      f'{folder}: an adapter (adapter_config.json) stands beside the model; move it to a folder of '
      f'its own, or merge it: jcl merge --adapters={folder} --into=weights --base=MODEL --out=NEW'
    )
  unread = [file.name for file in folder.glob('*.safetensors') if file.name != 'head.safetensors']
  if weights.is_file() and len(unread) > 1:
    others = sorted(set(unread) - {weights.name})
    return [f'{folder}: {", ".join(others[:3])}: not read, for there is a {weights.name}']
  return []
