"""A clock that stands still until a test moves it."""

import sqlalchemy as sa


class Clock:
    """Takes the place of the database's own clock."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0
        #: what `Database(now=…)` takes: it tells the time of the moment when a statement runs
        self.expression: sa.ColumnElement[float] = sa.bindparam(None, type_=sa.Double(), callable_=lambda: self.seconds)

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds
