"""What a model knows about a dataset: its fields and their sizes, but no data.

Ids: 0 is padding, 1 is unknown (a value that is not in the training split), known values start at 2. The fields of one
side share one vocabulary, so that one embedding table and one look-up serve them all: a field's ids from 2 on are
shifted by its offset; padding and unknown are shared.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from recexp.dataset.config import FeatureKind
from recexp.error import ConfigError, choices

PADDING, UNKNOWN, FIRST = 0, 1, 2
WIDE = 16  # values of the longest cell of a field from which on its cells are not padded but lists


@dataclass(frozen=True, kw_only=True)
class Field:
    name: str
    kind: FeatureKind
    column: int  # its first column among the side's ids or, if numeric, its values or, if wide, its lists
    width: int = 1  # values of the longest cell; above 1 only for multi-valued and composed fields, and vectors
    offset: int = 0  # added to its ids from 2 on
    size: int = 0  # known values; 0 for numbers
    padded: bool = False  # whether cells are padded however many values they have

    @property
    def numeric(self) -> bool:
        """True if its cells are numbers: one column of values, or of a vector several."""
        return self.kind in (FeatureKind.numeric, FeatureKind.vector)

    @property
    def composed(self) -> bool:
        """True if its cells are two ids, of which a vector is made: those of a bucket's remainder and quotient."""
        return self.kind is FeatureKind.hash and self.width > 1

    @property
    def wide(self) -> bool:
        """True if its cells are lists; otherwise they are columns of ids or of values."""
        return self.width >= WIDE and not (self.numeric or self.padded)


@dataclass(frozen=True, kw_only=True)
class Side:
    """The fields of the user, of the item or of the event's context; the id, if there is one, comes first."""

    fields: tuple[Field, ...] = ()

    @property
    def ids(self) -> "Side":
        """The side with only its id."""
        return Side(fields=self.fields[:1])

    @property
    def vocabulary(self) -> int:
        """Rows of the shared embedding table, padding and unknown included."""
        return FIRST + sum(field.size for field in self.fields)

    @property
    def id_columns(self) -> int:
        return sum(field.width for field in self.fields if not (field.numeric or field.wide))

    @property
    def list_columns(self) -> int:
        return sum(field.wide for field in self.fields)

    @property
    def value_columns(self) -> int:
        return sum(field.width for field in self.fields if field.numeric)


@dataclass(frozen=True, kw_only=True)
class Schema:
    user: Side = field(default_factory=Side)
    item: Side = field(default_factory=Side)
    context: Side = field(default_factory=Side)
    max_history: int = 0  # 0: a table without time, so without histories
    history_labels: bool = False  # labels vary within histories
    tasks: tuple[str, ...] = ()  # the names of several labels; the first is the one that histories show

    @property
    def n_items(self) -> int:
        """Item ids known to the model, padding and unknown included."""
        return FIRST + self.item.fields[0].size if self.item.fields else FIRST

    @property
    def ids(self) -> "Schema":
        """The schema with only the ids of user and item, without context."""
        return replace(self, user=self.user.ids, item=self.item.ids, context=Side())

    def select(self, names: Sequence[str] | None, key: str) -> "Schema":
        """The schema with some of its fields, all of them if `names` is None.

        A field has its name in the data, `user` and `item` are the ids; if two sides have a field of the same name,
        `side.name` says which. Raises ConfigError, naming the dotted `key`, if there is no such field.
        """
        if names is None:
            return self
        sides = {side: getattr(self, side) for side in ("user", "item", "context")}
        named = {f"{side}.{field.name}": (side, field) for side in sides for field in sides[side].fields}
        short = [field.name for _, field in named.values()]
        named |= {field.name: (side, field) for side, field in named.values() if short.count(field.name) == 1}
        for name in names:
            if name not in named:
                allowed = [known for known in named if "." not in known or known.partition(".")[2] not in named]
                raise ConfigError(f"{key} = {name}: no such field. {choices(name, allowed)}")
        wanted = [named[name] for name in names]
        selected = {
            side: replace(sides[side], fields=tuple(field for field in sides[side].fields if (side, field) in wanted))
            for side in sides
        }
        return replace(self, **selected)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        tree = asdict(self)
        for side in ("user", "item", "context"):
            for entry in tree[side]["fields"]:
                entry["kind"] = entry["kind"].name
        return tree

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> "Schema":
        sides = {
            side: Side(
                fields=tuple(Field(**{**entry, "kind": FeatureKind[entry["kind"]]}) for entry in tree[side]["fields"])
            )
            for side in ("user", "item", "context")
        }
        return cls(
            **sides,
            max_history=tree["max_history"],
            history_labels=tree["history_labels"],
            tasks=tuple(tree.get("tasks", ())),
        )
