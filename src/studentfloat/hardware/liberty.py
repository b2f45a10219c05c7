"""Reading cell libraries in Liberty format: areas, capacitances, functions, NLDM tables."""

from __future__ import annotations

import fnmatch
import gzip
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from studentfloat.errors import ConfigError, FailureError

__all__ = [
    "Arc",
    "Cell",
    "Library",
    "Pin",
    "Table",
    "liberty_text",
    "parse_liberty",
    "read_libraries",
]

_TOKEN = re.compile(
    r'(?P<line>\n)|[^\S\n]+|\\\r?\n|/\*.*?\*/|//[^\n]*|(?P<string>"(?:\\.|[^"\\])*")|(?P<word>[^\s{}();:,"\\]+)'
    r"|(?P<mark>[{}();:,])",
    re.DOTALL,
)


@dataclass
class Group:
    """One Liberty group as it is written: ``kind (arguments) { ... }``."""

    kind: str
    arguments: tuple[str, ...]
    attributes: dict[str, str] = field(default_factory=dict)
    complex: dict[str, tuple[str, ...]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def each(self, *kinds: str) -> Iterator[Group]:
        """Groups inside of one of these kinds."""
        return (group for group in self.groups if group.kind in kinds)


@dataclass(frozen=True)
class Table:
    """A table over input slew (ns) and output load (fF), or a part of that.

    A constraint's table is over the data's slew and, in `loads_ff`, the clock's (both ns).

    Between its points linear in both; beyond its ends it goes on linearly.
    """

    slews_ns: tuple[float, ...]
    loads_ff: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def __call__(self, slew_ns: float, load_ff: float) -> float:
        """The value at a slew and a load."""
        i, t = _bracket(self.slews_ns, slew_ns)
        j, u = _bracket(self.loads_ff, load_ff)
        rows = self.values
        low = rows[i][j] + (u * (rows[i][j + 1] - rows[i][j]) if u else 0.0)
        if not t:
            return low
        high = rows[i + 1][j] + (u * (rows[i + 1][j + 1] - rows[i + 1][j]) if u else 0.0)
        return low + t * (high - low)


def _bracket(axis: Sequence[float], at: float) -> tuple[int, float]:
    if len(axis) < 2:
        return 0, 0.0
    i = 0
    while i < len(axis) - 2 and at > axis[i + 1]:
        i += 1
    return i, (at - axis[i]) / (axis[i + 1] - axis[i])


@dataclass(frozen=True)
class Arc:
    """From a pin to an output (or, as a constraint, from the clock to an input).

    Attributes
    ----------
    sense
        ``positive_unate``, ``negative_unate`` or ``non_unate``.
    kind
        Liberty's ``timing_type``; ``combinational`` where there is none.
    tables
        By Liberty's names: ``cell_rise``, ``fall_transition``, ``rise_constraint`` ..., ns.
    """

    related: str
    sense: str
    kind: str
    tables: Mapping[str, Table]


@dataclass(frozen=True)
class Pin:
    """A pin of a cell. `energy` has a table of internal energy (fJ) per edge and related pin."""

    name: str
    direction: str
    capacitance_ff: float
    function: str | None
    clock: bool
    arcs: tuple[Arc, ...]
    energy: tuple[tuple[str, Mapping[str, Table]], ...] = ()


@dataclass(frozen=True)
class Cell:
    """A cell. `next_state` and `clocked_on` are those of an edge-triggered flip-flop.

    Attributes
    ----------
    plain_flop
        Whether it is a flip-flop on the rising edge that keeps its input, or the inverse.
    reset_flop
        The same with an asynchronous reset or preset, which is then tied off.
    """

    name: str
    area: float
    pins: Mapping[str, Pin]
    next_state: str | None = None
    clocked_on: str | None = None
    state: str | None = None
    state_inverted: str | None = None
    is_latch: bool = False
    plain_flop: bool = False
    reset_flop: bool = False
    dont_use: bool = False

    @property
    def outputs(self) -> tuple[Pin, ...]:
        """Output pins."""
        return tuple(pin for pin in self.pins.values() if pin.direction == "output")


@dataclass(frozen=True)
class Library:
    """A cell library.

    Attributes
    ----------
    files
        Where it was read from, as Yosys must read it too.
    area_unit
        ``GE`` (gate equivalents, relative) or ``um2``.
    """

    name: str
    cells: Mapping[str, Cell]
    voltage: float
    area_unit: str
    files: tuple[Path, ...] = ()


def _tokens(text: str, where: str) -> Iterator[str]:
    """Words, strings, marks and ends of lines, which end an attribute as ``;`` does."""
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or (match[0].startswith("/*") and not match[0].endswith("*/")):
            line = text.count("\n", 0, position) + 1
            said = text[position : position + 20]
            if said[0] == '"' or said.startswith("/*"):
                raise FailureError(f"{where} ends inside of line {line}: is the file truncated?")
            raise FailureError(f"{where}, line {line}: not Liberty from {said!r}")
        position = match.end()
        if match.lastgroup:
            yield match.group(match.lastgroup)


def _unquoted(token: str) -> str:
    return token[1:-1].replace("\\\n", " ").replace("\\", " ") if token[:1] == '"' else token


def parse_liberty(text: str, where: str = "Liberty text") -> Group:
    """Read Liberty text into its groups.

    Raises
    ------
    FailureError
        If it is not Liberty or ends too early; the message names `where`.
    """
    tokens = list(_tokens(text, where))
    root = Group("", ())
    stack = [root]
    at = 0
    try:
        while at < len(tokens):
            at = _statement(tokens, at, stack, where)
    except IndexError:
        raise FailureError(f"{where} ends in the middle: is the file truncated?") from None
    if len(stack) > 1:
        unclosed = stack[-1]
        raise FailureError(
            f"{where} ends inside of {unclosed.kind} ({', '.join(unclosed.arguments)}): "
            "is the file truncated?"
        )
    libraries = list(root.each("library"))
    if len(libraries) != 1:
        raise FailureError(f"{where} has {len(libraries)} libraries: a Liberty file has one")
    return libraries[0]


def _statement(tokens: list[str], at: int, stack: list[Group], where: str) -> int:
    """Read one statement into the innermost group; where the next one begins."""
    token = tokens[at]
    if token == "}":
        if len(stack) == 1:
            raise FailureError(f"{where} closes a group that it never opened")
        stack.pop()
        return at + 1
    if token in (";", "\n"):
        return at + 1
    mark = _past_lines(tokens, at + 1)
    if tokens[mark] == ":":
        begin = _past_lines(tokens, mark + 1)
        end = begin
        while tokens[end] not in (";", "}", "\n"):
            end += 1
        stack[-1].attributes[token] = " ".join(_unquoted(t) for t in tokens[begin:end])
        return end
    if tokens[mark] != "(":
        raise FailureError(f"{where}: {token!r} is followed by {tokens[mark]!r}, not by ':' or '('")
    end = mark + 1
    arguments = []
    while tokens[end] != ")":
        if tokens[end] not in (",", "\n"):
            arguments.append(_unquoted(tokens[end]))
        end += 1
    after = end + 1
    while after < len(tokens) and tokens[after] == "\n":
        after += 1
    if after < len(tokens) and tokens[after] == "{":
        group = Group(token, tuple(arguments))
        stack[-1].groups.append(group)
        stack.append(group)
        return after + 1
    stack[-1].complex[token] = tuple(arguments)
    return end + 1


def _past_lines(tokens: list[str], at: int) -> int:
    while tokens[at] == "\n":
        at += 1
    return at


def read_libraries(paths: Sequence[str | Path], dont_use: Sequence[str] = ()) -> Library:
    """Read one library from one or more Liberty files.

    Parameters
    ----------
    dont_use
        Patterns of names (``*x1p*``) of cells that are not to be used, beside those that the
        files mark so themselves.

    Raises
    ------
    ConfigError
        If a pattern matches no cell.
    FailureError
        If a file cannot be read, is truncated, or the cells do not make a
        library: no flip-flop, no inverter, no gate with two inputs.
    """
    if not paths:
        raise ConfigError("no Liberty file given")
    groups = []
    for path in map(Path, paths):
        try:
            text = liberty_text(path)
        except (OSError, EOFError, zlib.error) as error:
            said = getattr(error, "strerror", None) or error
            raise FailureError(f"cannot read {path}: {said}") from error
        groups.append(parse_liberty(text, str(path)))
    files = tuple(Path(path).resolve() for path in paths)
    return library_from_groups(groups, "um2", files, dont_use)


def liberty_text(path: Path) -> str:
    """Text of a Liberty file, which may be packed (``.lib.gz``)."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", errors="replace")


def library_from_groups(
    groups: Sequence[Group],
    area_unit: str,
    files: tuple[Path, ...] = (),
    dont_use: Sequence[str] = (),
) -> Library:
    """Make a library of parsed Liberty files, and check that units can be built with it."""
    cells: dict[str, Cell] = {}
    for group in groups:
        templates = {g.arguments[0]: g for g in group.each("lu_table_template") if g.arguments}
        units = _Units.of(group)
        energies = {g.arguments[0]: g for g in group.each("power_lut_template") if g.arguments}
        for cell in group.each("cell"):
            if not cell.arguments:
                raise FailureError(f"library {_title(group)} has a cell without a name")
            if cell.arguments[0] in cells:
                raise FailureError(
                    f"cell {cell.arguments[0]} of library {_title(group)} was in a file "
                    "before: give each cell once, and one corner and threshold only"
                )
            try:
                cells[cell.arguments[0]] = _cell(cell, units, {**templates, **energies})
            except (ValueError, LookupError, ArithmeticError) as error:
                # Numbers and names that are none, in any of the many places of a cell.
                raise FailureError(
                    f"cell {cell.arguments[0]} of library {_title(group)} cannot be read: {error}"
                ) from error
    voltage = _real(groups[0].attributes.get("nom_voltage", "1.0"), "nom_voltage")
    name = _joint_name([_title(group) for group in groups])
    library = Library(name, _without(cells, dont_use), voltage, area_unit, files)
    _check(library)
    return library


def _joint_name(names: Sequence[str]) -> str:
    """One name for a library whose cells are in several files: what their names share."""
    if len(names) == 1:
        return names[0]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in same).rstrip("_-. ") or names[0]
    return f"{shared} ({len(names)} files)"


def _without(cells: Mapping[str, Cell], patterns: Sequence[str]) -> dict[str, Cell]:
    """The cells, those marked that a pattern names."""
    marked: set[str] = set()
    for pattern in patterns:
        named = fnmatch.filter(cells, pattern)
        if not named:
            raise ConfigError(f"--dont-use {pattern!r}: no cell of the library has such a name")
        marked.update(named)
    return {
        name: replace(cell, dont_use=True) if name in marked else cell
        for name, cell in cells.items()
    }


def _title(library: Group) -> str:
    return library.arguments[0] if library.arguments else "without a name"


def _real(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FailureError(f"Liberty {what} {text!r} is not a number") from None


def _check(library: Library) -> None:
    usable = [cell for cell in library.cells.values() if not cell.dont_use]
    if not any(cell.plain_flop or cell.reset_flop for cell in usable):
        raise FailureError(
            f"library {library.name} has no plain flip-flop (rising edge, no scan or enable): "
            "give the Liberty file with the sequential cells too"
        )
    inputs = {
        sum(pin.direction == "input" for pin in cell.pins.values())
        for cell in usable
        if cell.next_state is None
        and not cell.is_latch
        and any(pin.function for pin in cell.outputs)
    }
    if not {1, 2} <= inputs:
        raise FailureError(
            f"library {library.name} has no inverter or no two-input gate: "
            "give the Liberty file with the combinational cells too"
        )


@dataclass(frozen=True)
class _Units:
    """Factors to ns, fF and fJ."""

    time_ns: float
    capacitance_ff: float
    energy_fj: float

    @classmethod
    def of(cls, library: Group) -> _Units:
        time = _quantity(library.attributes.get("time_unit", "1ns"), "s") * 1e9
        load = library.complex.get("capacitive_load_unit", ("1", "pf"))
        capacitance = _quantity("".join(load), "f") * 1e15
        voltage = _quantity(library.attributes.get("voltage_unit", "1V"), "v")
        # Internal power is an energy: capacitance times voltage squared.
        return cls(time, capacitance, capacitance * voltage**2)


_PREFIX = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}


def _quantity(text: str, unit: str) -> float:
    match = re.fullmatch(rf"\s*([\d.eE+-]*)\s*([munpf]?){unit}\s*", text.lower())
    if not match:
        raise FailureError(f"Liberty unit {text!r} is none of a number of {unit} with a prefix")
    return _real(match[1] or "1", f"unit {text!r}:") * _PREFIX[match[2]]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in re.split(r"[\s,]+", text.strip()) if part)


def _table(
    group: Group, templates: Mapping[str, Group], units: _Units, scale: float
) -> Table | None:
    template = templates.get(group.arguments[0] if group.arguments else "")
    axes = [""] * 2
    for i in (1, 2):
        source = group.complex.get(f"index_{i}") or (
            template.complex.get(f"index_{i}") if template else None
        )
        axes[i - 1] = ",".join(source) if source else ""
    variables = [(template.attributes.get(f"variable_{i}", "") if template else "") for i in (1, 2)]
    rows = tuple(
        tuple(value * scale for value in _numbers(row)) for row in group.complex.get("values", ())
    )
    if not rows or not rows[0]:
        return None
    first, second = _numbers(axes[0]), _numbers(axes[1])
    if not first:
        return Table((), (), ((rows[0][0],),))
    if not second and "related" in variables[0]:
        return Table((), (), ((rows[0][0],),))
    if not second:  # one axis: all values in one row
        flat = tuple(value for row in rows for value in row)
        if "capacitance" in variables[0]:
            return Table((), _scaled(first, units.capacitance_ff), (flat,))
        return Table(_scaled(first, units.time_ns), (), tuple((value,) for value in flat))
    if len(rows) == 1:
        flat = rows[0]
        rows = tuple(flat[i : i + len(second)] for i in range(0, len(flat), len(second)))
    if variables[0] == "related_pin_transition" or "constraint" in group.kind:
        clock_first = variables[0] == "related_pin_transition"
        data, clock = (second, first) if clock_first else (first, second)
        turned = tuple(zip(*rows, strict=True)) if clock_first else rows
        return Table(_scaled(data, units.time_ns), _scaled(clock, units.time_ns), turned)
    if "capacitance" in variables[0]:
        turned = tuple(zip(*rows, strict=True))
        return Table(_scaled(second, units.time_ns), _scaled(first, units.capacitance_ff), turned)
    return Table(_scaled(first, units.time_ns), _scaled(second, units.capacitance_ff), rows)


def _scaled(numbers: Sequence[float], factor: float) -> tuple[float, ...]:
    return tuple(number * factor for number in numbers)


_DELAYS = ("cell_rise", "cell_fall", "rise_transition", "fall_transition")
_CONSTRAINTS = ("rise_constraint", "fall_constraint")


def _cell(group: Group, units: _Units, templates: Mapping[str, Group]) -> Cell:
    pins: dict[str, Pin] = {}
    for pin in group.each("pin"):
        for name in pin.arguments:
            pins[name] = _pin(name, pin, units, templates)
    flop = next(group.each("ff"), None)
    latch = next(group.each("latch", "statetable", "ff_bank", "latch_bank"), None)
    clocked_on = flop.attributes.get("clocked_on") if flop else None
    next_state = flop.attributes.get("next_state") if flop else None
    simple = (
        flop is not None
        and (clocked_on or "").strip("() ") in pins
        and re.sub(r"[()!'\s]", "", next_state or "") in pins
    )
    resets = flop is not None and bool({"clear", "preset"} & set(flop.attributes))
    return Cell(
        name=group.arguments[0],
        area=float(group.attributes.get("area", "0")),
        pins=pins,
        next_state=next_state,
        clocked_on=clocked_on,
        state=flop.arguments[0] if flop else None,
        state_inverted=flop.arguments[1] if flop and len(flop.arguments) > 1 else None,
        is_latch=latch is not None,
        plain_flop=simple and not resets,
        reset_flop=simple and resets,
        dont_use=group.attributes.get("dont_use", "false").strip() == "true",
    )


def _pin(name: str, group: Group, units: _Units, templates: Mapping[str, Group]) -> Pin:
    arcs: list[Arc] = []
    for timing in group.each("timing"):
        tables = {}
        for table in timing.each(*_DELAYS, *_CONSTRAINTS):
            read = _table(table, templates, units, units.time_ns)
            if read:
                tables[table.kind] = read
        sense = timing.attributes.get("timing_sense", "non_unate")
        kind = timing.attributes.get("timing_type", "combinational")
        related = timing.attributes.get("related_pin", "").split()
        arcs += [Arc(one, sense, kind, tables) for one in related]
    energy = []
    for power in group.each("internal_power"):
        tables = {}
        for table in power.each("rise_power", "fall_power", "power"):
            read = _table(table, templates, units, units.energy_fj)
            if read:
                tables[table.kind] = read
        energy.append((power.attributes.get("related_pin", ""), tables))
    return Pin(
        name=name,
        direction=group.attributes.get("direction", ""),
        capacitance_ff=_capacitance(group) * units.capacitance_ff,
        function=group.attributes.get("function"),
        clock=group.attributes.get("clock", "false").strip() == "true",
        arcs=tuple(arcs),
        energy=tuple(energy),
    )


def _capacitance(pin: Group) -> float:
    """A pin's one capacitance, or the mean of its rising and falling ones."""
    if "capacitance" in pin.attributes:
        return float(pin.attributes["capacitance"])
    both = [float(pin.attributes.get(f"{edge}_capacitance", "0")) for edge in ("rise", "fall")]
    return sum(both) / 2
