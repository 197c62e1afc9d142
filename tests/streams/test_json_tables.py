"""Tables in JSON: rows and columns in every form, and what is said of the rest."""

import json

import pytest

from jcl.errors import UserError
from jcl.streams.json_tables import json_value, list_records

ROWS = [{'text': 'a', 'label': '1'}, {'text': 'b', 'label': '2'}]
LISTS = {'text': ['a', 'b'], 'label': ['1', '2']}


@pytest.mark.parametrize(('value', 'places'), [
  (ROWS, 'f[1]'), ({'data': ROWS}, 'f.data[1]'), (LISTS, 'f[1]'),
  ({k: dict(enumerate(v)) for k, v in LISTS.items()}, 'f[1]'),
  ({'version': 1, 'data': ROWS, 'tags': []}, 'f.data[1]'),
])  # fmt: skip
def test_rows_are_found_wherever_they_stand(value, places):
  found = list_records(json.dumps(value), 'f', [])
  assert [dict(record.fields) for record in found] == ROWS
  assert found[1].where == places


def test_lines_of_objects_may_be_called_json():
  found = list_records('\n'.join(map(json.dumps, ROWS)), 'f', [])
  assert [dict(record.fields) for record in found] == ROWS


def test_what_is_not_read_is_said():
  notes = []
  list_records(json.dumps({'data': ROWS, 'version': 1, 'from': {}}), 'f', notes)
  assert notes == ["f: the rows are those of 'data'; not read: version, from"]


@pytest.mark.parametrize(
  'value', [{}, {'a': ROWS, 'b': ROWS[:1]}, {'a': {'0': 'x'}, 'b': {'1': 'x'}}, {'a': 1, 'b': []}]
)
def test_an_object_without_rows_is_refused_by_its_keys(value):
  with pytest.raises(UserError, match='f: an object with'):
    list_records(json.dumps(value), 'f', [])


def test_numbers_are_as_written_and_keys_stand_once():
  assert json_value('[1.50, 1e2]', 'f') == ['1.50', '1e2']
  with pytest.raises(UserError, match="key 'a' stands twice"):
    json_value('{"a": 1, "a": 2}', 'f')
  with pytest.raises(UserError, match='NaN is no number'):
    json_value('[NaN]', 'f')
