"""Names of data that have no class of their own."""

from typing import Any, Literal

Tree = Any
"""A pytree of arrays, of their shapes, or of partition specs."""

Params = Tree
"""Parameters of a model: nested dicts of float32 arrays."""

Memory = dict[str, Any]
"""What a method carries from task to task: pytrees and plain data by name, `teacher` among them."""

Json = dict[str, Any]
"""An object as JSON has it, such as the contents of `results.json`."""

WeightDtype = Literal['float32', 'bfloat16']
"""Type of weights in a file."""
