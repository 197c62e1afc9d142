"""How examples become arrays: text formats, packed raw text, the steps of an epoch, batches."""

from jcl.batching.batch import (
  LENGTHS,
  TARGETS,
  Batch,
  Heads,
  Row,
  Shape,
  Table,
  bucket,
  deal,
  layout,
  look_up,
  membership,
  table,
)
from jcl.batching.batch_reader import LAMOL_FORMATS
from jcl.batching.batch_shapes import fit, rungs
from jcl.batching.epochs import Step, draw, steps, trained
from jcl.batching.packed_epochs import Epoch
from jcl.batching.packed_text import Blocks, PackedText, cache_folder, pack
from jcl.batching.special_text import SpecialTokens
from jcl.batching.text_formats import ANSWER, GENERATE, Text, added_tokens

__all__ = [
  'ANSWER',
  'GENERATE',
  'LAMOL_FORMATS',
  'LENGTHS',
  'TARGETS',
  'Batch',
  'Blocks',
  'Epoch',
  'Heads',
  'PackedText',
  'Row',
  'Shape',
  'SpecialTokens',
  'Step',
  'Table',
  'Text',
  'added_tokens',
  'bucket',
  'cache_folder',
  'deal',
  'draw',
  'fit',
  'layout',
  'look_up',
  'membership',
  'pack',
  'rungs',
  'steps',
  'table',
  'trained',
]
