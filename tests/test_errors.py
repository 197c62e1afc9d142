"""Counts in messages agree with their noun."""

import pytest

from jcl.errors import UserError, count_of


@pytest.mark.parametrize(('number', 'words', 'said'), [
  (1, ('row',), '1 row'), (0, ('row',), '0 rows'), (2, ('training row',), '2 training rows'),
  (12345, ('class',), '12,345 classes'), (1, ('class',), '1 class'), (3, ('entry',), '3 entries'),
  (3, ('key',), '3 keys'), (4, ('batch',), '4 batches'), (1, ('index', 'indices'), '1 index'),
  (2, ('index', 'indices'), '2 indices'),
])  # fmt: skip
def test_a_count_agrees_with_its_noun(number, words, said):
  assert count_of(number, *words) == said


def test_a_message_is_one_line():
  assert str(UserError('a\nb')) == 'a b'
