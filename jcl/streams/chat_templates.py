"""Chat templates: a conversation becomes text as transformers' `apply_chat_template` renders it.

A template is a stranger's program in Jinja. It runs in Jinja's sandbox, which reaches neither files
nor Python's objects, and within a budget of letters and of turns of its loops.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from jcl.errors import UserError
from jcl.streams.files import reason_of

LONGEST = 2**24  # letters of a rendered conversation
TURNS = 10**6  # entries of all ranges of one rendering
REASONING = ('reasoning_content', 'thinking', 'reasoning')  # names of the field of a message


def _next(header: str) -> str:
  """Returns the part of a template that writes the header of the assistant's next turn."""
  return "{% if add_generation_prompt %}{{ '" + header + "' }}{% endif %}"


_CHATML = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
  '{% endfor %}' + _next('<|im_start|>assistant\\n')
)
_LLAMA3 = (
  '{{ bos_token }}{% for m in messages %}'
  "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + (m['content'] | trim) "
  "+ '<|eot_id|>' }}{% endfor %}" + _next('<|start_header_id|>assistant<|end_header_id|>\\n\\n')
)
_LLAMA2 = (
  "{% set system = '' %}{% if messages[0]['role'] == 'system' %}"
  "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
  '{% set messages = messages[1:] %}{% endif %}{% for m in messages %}'
  "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') "
  "+ (m['content'] | trim) + ' [/INST]' }}"
  "{% else %}{{ ' ' + (m['content'] | trim) + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_GEMMA = (
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
  "{{ raise_exception('gemma has no system message') }}{% endif %}{% for m in messages %}"
  "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' "
  "+ (m['content'] | trim) + '<end_of_turn>\\n' }}{% endfor %}" + _next('<start_of_turn>model\\n')
)
_ZEPHYR = (
  "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}"
  '{% endfor %}' + _next('<|assistant|>\\n')
)
_PLAIN = (
  "{{ bos_token }}{% for m in messages %}{{ (m['role'] | capitalize) + ': ' + m['content'] "
  "+ (eos_token if m['role'] == 'assistant' else '') + '\\n' }}{% endfor %}" + _next('Assistant:')
)
_VICUNA = (
  "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
  "{% elif m['role'] == 'user' %}{{ 'USER: ' + (m['content'] | trim) + ' ' }}"
  "{% else %}{{ 'ASSISTANT: ' + (m['content'] | trim) + eos_token }}{% endif %}{% endfor %}"
  + _next('ASSISTANT:')
)
_ALPACA = (
  '{{ bos_token }}{% for m in messages %}'
  "{% if m['role'] == 'system' %}{{ m['content'] + '\\n\\n' }}{% elif m['role'] == 'user' %}"
  "{{ '### Instruction:\\n' + (m['content'] | trim) + '\\n\\n' }}"
  "{% else %}{{ '### Response:\\n' + (m['content'] | trim) + eos_token + '\\n\\n' }}{% endif %}"
  '{% endfor %}' + _next('### Response:\\n')
)
NAMED = {
  'plain': _PLAIN, 'chatml': _CHATML, 'llama2': _LLAMA2, 'llama3': _LLAMA3, 'gemma': _GEMMA,
  'zephyr': _ZEPHYR, 'vicuna': _VICUNA, 'alpaca': _ALPACA,
}  # fmt: skip
"""Well-known templates by name, and one in plain words for models that have none."""


class ChatTemplate:
  """A template that renders conversations.

  Args:
    source: in Jinja.
    tokens: texts of special tokens by the names that templates use: `bos_token`, `eos_token`, ….
    date: that the template takes for today, YYYY-MM-DD; '': today's.

  Raises:
    UserError: the source is no template.
  """

  def __init__(self, source: str, tokens: Mapping[str, str], date: str = ''):
    self.source, self._tokens = source, dict(tokens)
    self._today = datetime.datetime.fromisoformat(date or today())
    self._template = compiled(source)

  def render(self, messages: Sequence[Mapping[str, Any]], prompt: bool = False) -> str:
    """Returns the text of a conversation; with `prompt` up to where the next answer begins.

    Raises:
      UserError: the template refuses the conversation, or needs too much.
    """
    return self.marked(messages, prompt)[0]

  def marked(
    self, messages: Sequence[Mapping[str, Any]], prompt: bool = False
  ) -> tuple[str, list[tuple[int, int]]]:
    """Returns the text of a conversation, and the spans in it that `{% generation %}` marks.

    Raises:
      UserError: as `render`.
    """
    environment = self._template.environment
    parts: list[str] = []
    environment.spent, environment.parts, environment.marks = 0, parts, []
    environment.today = self._today
    size = 0
    try:
      for part in self._template.generate(
        messages=aliased(messages), tools=None, documents=None, add_generation_prompt=prompt,
        **self._tokens,
      ):  # fmt: skip
        parts.append(part)
        size += len(part)
        if size > LONGEST:
          raise UserError(f'the chat template writes more than {LONGEST:,} letters')
    except UserError:
      raise
    except Exception as error:  # of any kind: it is a stranger's program
      raise UserError(f'the chat template refuses the conversation ({reason_of(error)})') from None
    return ''.join(parts), environment.marks


def today() -> str:
  """Returns today's date, YYYY-MM-DD."""
  return datetime.date.today().isoformat()


def writes_date(source: str) -> bool:
  """Whether a template may write today's date."""
  return 'strftime_now' in source


def check_date(date: str) -> None:
  """Refuses what is no date."""
  try:
    right = datetime.date.fromisoformat(date).isoformat() == date
  except ValueError:
    right = False
  if not right:
    raise UserError(f'stream.chat_date is {date!r}: give a date, such as {today()}')


def aliased(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Returns copies of messages whose reasoning stands under all the names that templates read."""
  found = []
  for message in messages:
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    more = {} if reasoning is None else {'reasoning_content': reasoning}
    found.append({**({'thinking': reasoning} if more else {}), **message, **more})
  return found


def tojson(
  x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
  sort_keys: bool = False,
) -> str:  # fmt: skip
  """Returns a value as JSON, letters of HTML as they are: the filter of Jinja escapes them."""
  return json.dumps(
    x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
  )


@functools.cache
def environment_class() -> Any:
  """Returns the class of the environment that templates run in: Jinja is imported late."""
  import jinja2
  import jinja2.ext
  import jinja2.nodes
  from jinja2.sandbox import ImmutableSandboxedEnvironment

  class Generation(jinja2.ext.Extension):
    """Reads `{% generation %}`, which marks the turns of the assistant."""

    tags = {'generation'}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
      line = next(parser.stream).lineno
      body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
      call = self.call_method('_marked')
      return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> Any:
      text = caller()
      start = sum(len(part) for part in cast(Environment, self.environment).parts)
      if text:
        cast(Environment, self.environment).marks.append((start, start + len(text)))
      return text

  class Environment(ImmutableSandboxedEnvironment):
    """A sandbox that refuses to multiply texts and to loop for ever."""

    intercepted_binops = frozenset(('*', '**', '%'))
    spent = 0
    today = datetime.datetime.min
    parts: list[str] = []  # noqa: RUF012
    marks: list[tuple[int, int]] = []  # noqa: RUF012

    def __init__(self, **settings: Any):
      super().__init__(extensions=[Generation, jinja2.ext.loopcontrols], **settings)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
      small = all(isinstance(x, int | float) and abs(x) < 2**31 for x in (left, right))
      repeated = operator == '*' and isinstance(left, str) and isinstance(right, int)
      few = repeated and len(left) * right < 10**5
      if not few and (not small or (operator == '**' and abs(right) > 64)):
        raise jinja2.exceptions.SecurityError(f'{operator} of other than small numbers')
      return super().call_binop(context, operator, left, right)

  return Environment


@functools.lru_cache(8)
def compiled(source: str) -> Any:
  """Returns a template, in an environment like that of transformers.

  Raises:
    UserError: the source is no template.
  """
  import jinja2

  def raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)

  environment = environment_class()(trim_blocks=True, lstrip_blocks=True)

  def bounded_range(*bounds: int) -> range:
    made = range(*bounds)
    environment.spent += len(made)
    if environment.spent > TURNS:
      raise jinja2.exceptions.SecurityError('too many turns of its loops')
    return made

  environment.filters['tojson'] = tojson
  environment.globals.update(
    raise_exception=raise_exception, range=bounded_range,
    strftime_now=lambda form: environment.today.strftime(form),
  )  # fmt: skip
  try:
    return environment.from_string(source)
  except Exception as error:  # of the parser or of Python's own
    raise UserError(
      f'the chat template is no Jinja template ({reason_of(error)}): correct it'
    ) from None
