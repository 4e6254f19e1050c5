"""Named tuples whose classes are made quickly.

`typing.NamedTuple` compiles a constructor for each class and every annotation of it. For the
classes of a boot, and with the import of `typing`, that takes longer than the start of Python.
"""

from __future__ import annotations

from operator import itemgetter

# The form of `typing.TYPE_CHECKING` that needs no import; type checkers know it.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class NamedTuple(tuple):
        """The base of a named tuple, as that of `typing`; its fields are the annotated names."""

        __slots__ = ()

        def __init_subclass__(cls):
            """Make a property of each field; its value in the class is the field's default."""
            cls._fields = cls.__match_args__ = tuple(cls.__annotations__)
            own = vars(cls)
            cls._field_defaults = {name: own[name] for name in cls._fields if name in own}
            for place, name in enumerate(cls._fields):
                setattr(cls, name, property(itemgetter(place)))

        def __new__(cls, *values, **named):
            """Raise TypeError unless each field has one value, or a default."""
            wanted = cls._fields[len(values) :]
            given = {**cls._field_defaults, **named}
            if len(values) > len(cls._fields) or not named.keys() <= set(wanted):
                raise TypeError(f"{cls.__name__} takes {cls._fields}, found {values} and {named}")
            try:
                return tuple.__new__(cls, (*values, *(given[name] for name in wanted)))
            except KeyError as error:
                raise TypeError(f"{cls.__name__}: field {error} has no value") from None

        def __getnewargs__(self):
            """For `copy` and `pickle`."""
            return tuple(self)

        def __repr__(self):
            fields = zip(self._fields, self, strict=True)
            return f"{type(self).__name__}({', '.join(f'{n}={value!r}' for n, value in fields)})"

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **named):
            return type(self)(**{**self._asdict(), **named})
