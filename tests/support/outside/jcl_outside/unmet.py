"""A module whose own requirement is not installed."""

import jcl_outside_requirement  # noqa: F401
