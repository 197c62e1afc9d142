"""The error that a user can mend."""


class UserError(ValueError):
  """Bad input: the message is one line that names the culprit and says what would be right.

  The library raises it; launchers print it as `error: …` on standard error and exit with status 2.
  """

  def __init__(self, message: str):
    super().__init__(' '.join(message.splitlines()))  # the message may quote a text of many lines
