"""Raw text packed into blocks, for tests."""

from tokenizers.processors import TemplateProcessing

from jcl.backbones.tokenizers import word_tokenizer
from jcl.batching import packed_text
from jcl.batching.packed_text import PackedText
from support import tiny

LENGTH = 7


def packed(folder, bos=False, length=LENGTH, more=()):
  """-> the stream of three tasks in blocks, its text, and the documents as they were."""
  stream = tiny.stream()
  tokenizer, special = word_tokenizer([*(e.text for e in stream.examples), *more])
  if bos:
    tokenizer.post_processor = TemplateProcessing('<bos> $A', special_tokens=[('<bos>', 2)])
  text = PackedText(folder, tokenizer, special, stream.template, length)
  return packed_text.pack(stream, text), text, stream
