"""Rows of conversations: the tokens of transformers, and targets in every answer."""

import dataclasses

import pytest
import transformers
from support import tokenizer_kinds

from jcl.batching.chat_choice import Choice, choose, make_text, unread_fields
from jcl.batching.chat_rows import ChatText
from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import Stream
from jcl.streams.chat import conversation
from jcl.streams.chat_templates import NAMED
from jcl.streams.stream import Example

TALK = [
  {'role': 'system', 'content': 'be brief'}, {'role': 'user', 'content': 'a deep lake'},
  {'role': 'assistant', 'content': 'blue sky'}, {'role': 'user', 'content': 'a frog'},
  {'role': 'assistant', 'content': 'green'},
]  # fmt: skip
TEXTS = [m['content'] for m in TALK] * 3 + list(NAMED.values())
THINKING = (  # as Qwen3: the last answer alone has a place for thoughts
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
  "{% if loop.last and m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
  "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (  # marks its answers, reasoning among them, and their end
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
  "{% generation %}{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}"
  "{% endif %}{{ m.content + eos_token }}{% endgeneration %}{{ '\n' }}{% else %}"
  "{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REASONED = (  # as Qwen3: an earlier answer loses its reasoning, the last has a place for it
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
  "{% if loop.last and m.role == 'assistant' %}"
  "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
  "{{ m.content + eos_token + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CLOSED = (  # the generation prompt closes the thoughts, which rows do not have
  "{% for m in messages %}{{ bos_token + m.role + '\n' + m.content + eos_token + '\n' }}"
  '{% endfor %}'
  "{% if add_generation_prompt %}{{ bos_token + 'assistant\n<think></think>' }}{% endif %}"
)
TEMPLATES = NAMED | {
  'thinking': THINKING, 'marked': MARKED, 'reasoned': REASONED, 'closed': CLOSED
}  # fmt: skip


def of(talk, first=None, number=0):
  """An example of a conversation."""
  made = conversation(talk[:first], talk[first:] if first else None, 'x')
  return Example(number, made.text, made.answer, 0, name='x', messages=made.to_json())


def chat_text(kind, template, turns='all', limit=4096, special_tokens='refuse'):
  tokenizer, special = getattr(tokenizer_kinds, kind)(TEXTS)
  source = TEMPLATES[template]
  return ChatText(tokenizer, special, '{x}{y}', source, turns, limit, special_tokens)


def said(text, row):
  """The targets of a row as text."""
  return text.tokenizer.decode(row.wanted.tolist(), skip_special_tokens=False)


@pytest.mark.parametrize('template', TEMPLATES)
@pytest.mark.parametrize('kind', ['byte_bpe', 'llama_bpe', 'unigram'])
def test_rows_are_those_of_transformers(kind, template):
  text = chat_text(kind, template)
  theirs = fast(text)
  talk = TALK[1:] if template == 'gemma' else TALK
  example = of(talk)
  text.prepare([example])
  row = text.rows(example)[0]
  wanted = theirs.apply_chat_template(
    talk, chat_template=TEMPLATES[template], tokenize=True, return_dict=False
  )
  assert row.tokens.tolist()[: len(wanted)] == wanted
  assert row.tokens.tolist()[len(wanted) :] in ([], [text.eos])
  found = said(text, row)
  assert found.index('blue sky') < found.index('green')
  assert 'frog' not in found
  assert 'lake' not in found
  assert text.answer(text.wanted(example)) == 'green'
  assert row.wanted[-1] == text.eos
  assert text.prompt(example) == row.tokens[: len(text.prompt(example))].tolist()


REASONING = [
  TALK[1], TALK[2] | {'reasoning_content': 'hm'}, TALK[3], TALK[4] | {'reasoning_content': 'be a'}
]  # fmt: skip


def fast(text):
  """The tokenizer of a text for transformers."""
  names = {name: text.tokenizer.id_to_token(i) if i is not None else None
           for name, i in (('bos_token', text.special.bos), ('eos_token', text.eos))}  # fmt: skip
  return transformers.PreTrainedTokenizerFast(tokenizer_object=text.tokenizer, **names)


def prompt_of(text, template, messages):
  """The ids of messages and their generation prompt, by transformers."""
  return fast(text).apply_chat_template(
    messages, chat_template=TEMPLATES[template], tokenize=True, return_dict=False,
    add_generation_prompt=True,
  )  # fmt: skip


@pytest.mark.parametrize('talk', [TALK, TALK[:3], REASONING], ids=['talk', 'short', 'reasoning'])
@pytest.mark.parametrize('kind', ['byte_bpe', 'llama_bpe', 'unigram'])
def test_marked_turns_are_the_targets(kind, talk):
  text = chat_text(kind, 'marked')
  theirs = fast(text).apply_chat_template(
    talk, chat_template=MARKED, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
  )
  row, asked = text.rows(of(talk))[0], prompt_of(text, 'marked', talk[:-1])
  if theirs['input_ids'][: len(asked)] != asked:  # the tokenizer joins prompt and answer
    assert row.tokens.tolist()[: len(asked)] == asked
    return
  assert row.tokens.tolist() == theirs['input_ids']
  places = [i for i, marked in enumerate(theirs['assistant_masks']) if marked]
  assert (row.targets + 1).tolist() == places
  text.prepare([of(talk)])
  assert len(text.prompt(of(talk))) == max(i for i in places if i - 1 not in places)


PROMPTED = [name for name, source in TEMPLATES.items() if 'add_generation_prompt' in source]
KINDS = ['byte_bpe', 'llama_bpe', 'unigram', 'joining']


@pytest.mark.parametrize('answer', ['green', '\n\ngreen', ' green'])
@pytest.mark.parametrize('template', [name for name in PROMPTED if name != 'closed'])
@pytest.mark.parametrize('kind', KINDS)
def test_a_row_begins_with_what_users_ask(kind, template, answer):
  text = chat_text(kind, template)
  talk = [*(TALK[1:-1] if template == 'gemma' else TALK[:-1]), TALK[-1] | {'content': answer}]
  example = of(talk)
  text.prepare([example])
  asked = prompt_of(text, template, talk[:-1])
  assert text.rows(example)[0].tokens[: len(asked)].tolist() == asked
  assert text.prompt(example) == asked
  assert text.prompt(dataclasses.replace(example, number=-1, answer='')) == asked
  row = text.question(dataclasses.replace(example, number=-1))
  assert row.tokens[: row.targets[0] + 1].tolist() == asked
  assert text.answer(text.wanted(example)) == 'green'


def test_a_tokenizer_that_joins_prompt_and_answer_is_among_them():
  text = chat_text('joining', 'chatml')
  whole = fast(text).apply_chat_template(
    TALK, chat_template=TEMPLATES['chatml'], tokenize=True, return_dict=False
  )
  asked = prompt_of(text, 'chatml', TALK[:-1])
  assert whole[: len(asked)] != asked


@pytest.mark.parametrize('template', ['reasoned', 'marked'])
def test_reasoning_is_written_and_never_asked(template):
  text = chat_text('byte_bpe', template)
  text.prepare([of(REASONING)])
  words = lambda ids: text.tokenizer.decode(ids, skip_special_tokens=False)
  asked, wanted = text.prompt(of(REASONING)), text.wanted(of(REASONING))
  assert 'be a' not in words(asked)
  assert 'be a' in words(wanted)
  assert text.answer(wanted) == 'green'


def test_a_turn_before_the_last_ends_with_its_special_token():
  text = chat_text('byte_bpe', 'reasoned')
  row = text.rows(of(TALK))[0]
  assert row.wanted.tolist().count(text.eos) == 2
  assert 'think' in said(text, row)
  assert said(text, row).count('user') == 0


def test_a_message_of_weight_0_is_not_counted():
  text = chat_text('byte_bpe', 'plain')
  light = [TALK[1], TALK[2] | {'weight': 0}, *TALK[3:]]
  assert 'blue' not in said(text, text.rows(of(light))[0])
  with pytest.raises(UserError, match=r'^x: the last answer has weight 0'):
    of([TALK[1], TALK[2] | {'weight': 0}])


def test_fields_of_messages_that_no_template_reads_are_named():
  talks = [[TALK[1] | {'content': f'lake {i}'}, *TALK[2:]] for i in range(4)]
  rows = [{'messages': [m | {'train': False, 'thinking': 'so'} for m in talk]} for talk in talks]
  stream = Stream.from_rows({'a': rows})
  assert unread_fields(stream, NAMED['plain']) == ['thinking', 'train']
  assert unread_fields(stream, MARKED) == ['train']  # its `reasoning_content` is any thought
  assert unread_fields(stream, '{{ m.train }}{{ m.thinking }}') == []
  tokenizer, choice = tokenizer_kinds.byte_bpe(TEXTS), Choice(NAMED['plain'])
  _, said_of = make_text(choice, StreamConfig(), *tokenizer, stream, 'plain', 99, 'last')
  assert said_of.notes[-1] == 'fields of messages that nothing reads: thinking, train'


@pytest.mark.parametrize('template', ['plain', 'marked'])
def test_turns_and_completions_decide_what_the_loss_counts(template):
  text = chat_text('byte_bpe', template, 'last')
  assert 'blue' not in said(text, text.rows(of(TALK))[0])
  text = chat_text('byte_bpe', template)
  assert 'blue' not in said(text, text.rows(of(TALK, first=4))[0])
  assert 'blue' not in said(text, text.question(of(TALK)))
  assert 'blue' in said(text, text.rows(of(TALK, number=1))[0])


def test_a_long_conversation_loses_its_oldest_turns_and_then_its_question():
  whole = chat_text('byte_bpe', 'plain')
  size = len(whole.rows(of(TALK))[0].tokens)
  text = chat_text('byte_bpe', 'plain', limit=size - 1)
  text.prepare([of(TALK)])
  words = text.tokenizer.decode(text.rows(of(TALK))[0].tokens.tolist(), skip_special_tokens=False)
  assert 'be brief' in words
  assert 'lake' not in words
  assert 'a frog' in words
  assert text.cut == {0}
  talk = [{'role': 'user', 'content': 'a frog ' * 50}, TALK[-1]]
  text.prepare([of(talk)])
  row = text.rows(of(talk))[0]
  assert len(row.tokens) <= size - 1
  assert text.answer(text.wanted(of(talk))) == 'green'


def test_special_tokens_of_a_user_are_no_structure():
  plain = chat_text('byte_bpe', 'plain')
  eos = plain.tokenizer.id_to_token(plain.eos)
  talk = [TALK[1] | {'content': f'a {eos} lake'}, TALK[2]]
  with pytest.raises(UserError, match='special token'):
    chat_text('byte_bpe', 'plain').rows(of(talk))
  text = chat_text('byte_bpe', 'plain', special_tokens='text')
  assert text.rows(of(talk))[0].tokens.tolist().count(text.eos) == 1
  assert chat_text('byte_bpe', 'plain').special_token(of(talk)) == eos
  hidden = [TALK[1], TALK[2] | {'reasoning_content': f'hm {eos}'}]
  assert chat_text('byte_bpe', 'marked').special_token(of(hidden)) == eos
  with pytest.raises(UserError, match='special token'):
    chat_text('byte_bpe', 'marked').rows(of(hidden))
  text = chat_text('byte_bpe', 'marked', special_tokens='text')
  assert text.rows(of(hidden))[0].tokens.tolist().count(text.eos) == 1


def test_a_template_that_drops_an_answer_is_refused():
  source = "{% for m in messages %}{{ m.content if loop.last else '' }}{% endfor %}"
  tokenizer, special = tokenizer_kinds.byte_bpe(TEXTS)
  with pytest.raises(UserError, match=r'^example x: .* messages\[2\] as it is: set stream\.loss'):
    ChatText(tokenizer, special, '{x}{y}', source, 'all', 99).rows(of(TALK))
  ChatText(tokenizer, special, '{x}{y}', source, 'last', 99).rows(of(TALK))


class Own:
  chat_template = '{{ messages }}'


def rows_of(talks):
  row = {'messages': TALK} if talks else {'text': 'a', 'answer': 'b'}
  return Stream.from_rows({'x': [row]}, test={'x': [row]}, overlap='keep')


def test_the_template_is_the_named_one_the_models_own_or_plain_words():
  choice = lambda talks=True, model=None, form='plain', **settings: choose(
    StreamConfig(**settings), rows_of(talks), form, model
  )
  assert choice(False).source == ''
  assert choice(model=Own()).source == Own.chat_template
  assert choice().source == NAMED['plain']
  assert 'no chat template' in choice().note
  assert choice(False, chat_template='chatml').source == NAMED['chatml']
  assert choice(form='lamol').source == ''
  for settings, message in (
    ({'chat_template': 'nonsense'}, 'give model, a .jinja file, or one of plain, chatml'),
    ({'chat_template': 'model'}, 'the model has no chat template'),
    ({'chat_template': 'chatml', 'form': 'lamol'}, "in the format 'lamol'"),
    ({'talks': False, 'loss_turns': 'last'}, 'no row is a conversation'),
    ({'template': '{x}{y}'}, 'a chat template writes the rows'),
  ):
    with pytest.raises(UserError, match=message):
      choice(**settings)


@pytest.mark.parametrize(
  ('source', 'says'),
  [('{% if %}', 'a.jinja: the chat template is no Jinja template'),
   ('', 'a.jinja: the file is empty: write a template in Jinja')],
)  # fmt: skip
def test_a_file_that_is_no_template_is_named(tmp_path, source, says):
  (tmp_path / 'a.jinja').write_text(source)
  config = StreamConfig(chat_template=str(tmp_path / 'a.jinja'))
  with pytest.raises(UserError, match=says):
    choose(config, rows_of(True), 'plain')


def test_make_text_says_which_template_writes_the_rows():
  tokenizer, special = tokenizer_kinds.byte_bpe(TEXTS)
  stream = rows_of(True)
  choice = choose(StreamConfig(), stream, 'plain')
  text, stream = make_text(choice, StreamConfig(), tokenizer, special, stream, 'plain', 512, 'last')
  assert isinstance(text, ChatText)
  assert stream.notes[-1] == choice.note
