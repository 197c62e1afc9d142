"""Tiny model folders on disk, made of golden files, for the tests of import."""

import pathlib

import numpy as np
import pytest
import safetensors.numpy
from tokenizers import Tokenizer, models, normalizers, processors
from tokenizers import pre_tokenizers as pre

from jcl.backbones.files import hf
from jcl.backbones.tokenizers import word_tokenizer

GOLDENS = pathlib.Path(__file__).parent.parent / 'goldens'


def golden(case: str, kind: str = 'decoder') -> dict[str, np.ndarray]:
  """The arrays of a golden file."""
  with np.load(GOLDENS / f'{kind}_{case}.npz') as file:
    return dict(file)


def weights(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The tensors by their own names."""
  return {k.removeprefix('weight:'): x for k, x in golden.items() if k.startswith('weight:')}


def word_pieces(vocabulary: int = 40) -> Tokenizer:
  """A tokenizer like BERT's: [CLS] before a text and [SEP] after it."""
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'play', '##ing', 'some', 'jazz']
  words += [f'w{i:03}' for i in range(vocabulary - len(words))]
  made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token='[UNK]'))
  made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre.BertPreTokenizer()
  made.post_processor = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
  made.add_special_tokens(words[:5])
  made.enable_truncation(8)  # as in published files
  return made


def write(
  folder: pathlib.Path,
  golden: dict[str, np.ndarray],
  vocabulary: int = 40,
  tokenizer: Tokenizer | None = None,
) -> pathlib.Path:
  """A folder as `save_pretrained` leaves it; a tokenizer not given has `vocabulary` words."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(str(golden['config']))
  safetensors.numpy.save_file(weights(golden), folder / 'model.safetensors')
  if tokenizer is None:
    tokenizer, _ = word_tokenizer([f'w{i:03}' for i in range(vocabulary - 4)])
  tokenizer.save(str(folder / 'tokenizer.json'))
  return folder


def load_encoder(folder: pathlib.Path, golden: dict[str, np.ndarray]) -> hf.Loaded:
  """Reads a folder with a tokenizer like BERT's."""
  return hf.load(str(write(folder, golden, tokenizer=word_pieces())))


STORIES = next(
  (
    folder
    for parent in pathlib.Path(__file__).resolve().parents
    if (folder := parent / 'shared' / 'models' / 'stories260k-hf').is_dir()
  ),
  None,
)
needs_stories = pytest.mark.skipif(STORIES is None, reason='no ../shared/models/stories260k-hf')
