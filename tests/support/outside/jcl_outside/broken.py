"""A module that cannot be imported."""

raise OSError('no licence for\nthis machine')
