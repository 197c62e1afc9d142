"""The corpus of a run: general text that no task has, which old rows may come from."""

import hashlib

from jcl.batching.corpus import NO_TASK, Corpus
from jcl.batching.packed_text import Blocks, PackedText
from jcl.batching.text_formats import Text
from jcl.config import Config
from jcl.storage import paths
from jcl.streams.digests import BYTES
from jcl.streams.files import read_text
from jcl.streams.stream import Example
from jcl.training.inputs import CORPUS, Rows


def corpus_text(config: Config) -> tuple[str, str]:
  """Returns the text of the corpus that the method names, and its name in messages; '' for none.

  Raises:
    UserError: the file cannot be read.
  """
  path = getattr(config.method, 'corpus', '')
  if not path:
    return '', ''
  field = f'{CORPUS} {path}'
  return read_text(paths.local(path, CORPUS), field, 'give it some text').strip(), field


def read_corpus(config: Config, text: Text) -> Corpus | None:
  """Returns the corpus in blocks; None without one, and with raw text, whose reader then has it.

  Args:
    config: of the run.
    text: its tokenizer.

  Raises:
    UserError: the file cannot be read, or has nothing to predict.
  """
  content, field = corpus_text(config)
  if not field:
    return None
  if isinstance(text, PackedText):
    text.general = text.add([Example(0, content, '', NO_TASK, name=field)], NO_TASK, CORPUS)
    return None
  return Corpus(text.encode(content, field), text.start, text.max_length, field)


def corpus_rows(corpus: Corpus | None, text: Text) -> tuple[Rows, ...]:
  """Returns the digest of the corpus, as an input of the run; none where there is no corpus."""
  if isinstance(text, PackedText) and isinstance(text.general, Blocks):
    return (Rows('', CORPUS, text.general.documents),)
  if corpus is None:
    return ()
  return (Rows('', CORPUS, hashlib.blake2b(corpus.digest, digest_size=BYTES).digest()),)
