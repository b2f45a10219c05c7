"""From Verilog to gates: recipes for Yosys and ABC, and the netlists they give."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studentfloat.hardware.generic_library import generic_liberty
from studentfloat.hardware.liberty import Library, liberty_text, library_from_groups, parse_liberty
from studentfloat.hardware.netlist import Netlist, netlist_from_json
from studentfloat.hardware.yosys import run_yosys

__all__ = [
    "AREA_RECIPES",
    "Recipe",
    "SynthesisResult",
    "generic_library",
    "library_options",
    "speed_recipes",
    "synthesize",
]

# Yosys's own adders are parallel-prefix; where area counts, carries ripple.
_RIPPLE = """\
(* techmap_celltype = "$lcu" *)
module ripple_carry (P, G, CI, CO);
    parameter WIDTH = 2;
    input [WIDTH-1:0] P, G;
    input CI;
    output [WIDTH-1:0] CO;
    genvar i;
    generate
        for (i = 0; i < WIDTH; i = i + 1) begin : bit
            assign CO[i] = G[i] | (P[i] & (i == 0 ? CI : CO[i == 0 ? 0 : i - 1]));
        end
    endgenerate
endmodule
"""


@dataclass(frozen=True)
class Recipe:
    """One way to synthesize.

    Attributes
    ----------
    carry_save
        Merge chains of additions into carry-save trees with one carry-propagating adder.
    ripple
        Ripple-carry adders; otherwise parallel-prefix ones.
    abc
        Commands of ABC.
    """

    name: str
    carry_save: bool
    ripple: bool
    abc: tuple[str, ...]


_CLEAN = ("strash", "ifraig", "scorr", "dc2", "dc2")
_COVER = (*_CLEAN, "dch -f", "amap -m")
_COVER_TWICE = (*_CLEAN, "dch -f", "amap", "strash", "dch -f", "amap -m")
_COVER_RESUB = (*_CLEAN, "resub -K 6", "rewrite", "dc2", "dch -f", "amap -m")
_FLOW = ("strash", "&get -n", "&fraig -x", "&put", "scorr", "dc2", "strash",
         "&get -n", "&dch -f", "&nf", "&put")  # fmt: skip

AREA_RECIPES = (
    Recipe("chain-cover", carry_save=False, ripple=True, abc=_COVER),
    Recipe("chain-cover-twice", carry_save=False, ripple=True, abc=_COVER_TWICE),
    Recipe("tree-cover-twice", carry_save=True, ripple=True, abc=_COVER_TWICE),
    Recipe("chain-resub", carry_save=False, ripple=True, abc=_COVER_RESUB),
)


def speed_recipes(target_ns: float) -> tuple[Recipe, ...]:
    """Recipes that aim for a clock period: parallel-prefix adders, buffers, larger cells."""
    period = f"{target_ns * 1000:.0f}"
    sized = ("topo", "buffer -c", f"upsize -D {period}", f"dnsize -D {period}")
    return (
        Recipe("tree-flow-sized", carry_save=True, ripple=False, abc=(*_FLOW, *sized)),
        Recipe("chain-flow-sized", carry_save=False, ripple=False, abc=(*_FLOW, *sized)),
        Recipe("tree-cover-sized", carry_save=True, ripple=False, abc=(*_COVER, *sized)),
    )


@dataclass(frozen=True)
class SynthesisResult:
    """What one recipe made of a unit.

    Attributes
    ----------
    netlist
        Flat.
    verilog
        The flat netlist as Verilog, for proof and for reading.
    modular_verilog, modular_json
        The netlist with the modules kept apart that were asked to be.
    json
        The flat netlist as Yosys writes it.
    """

    recipe: Recipe
    netlist: Netlist
    verilog: str
    modular_verilog: str
    modular_json: str
    json: str


def generic_library() -> Library:
    """The built-in library."""
    return library_from_groups([parse_liberty(generic_liberty())], "GE")


def write_library(library: Library, directory: Path) -> tuple[Path, ...]:
    """Paths of the Liberty files; what is built in or packed is written to `directory`."""
    if library.files:
        return tuple(_unpacked(path, directory) for path in library.files)
    path = directory / "generic.lib"
    path.write_text(generic_liberty(), encoding="utf-8")
    return (path,)


def _unpacked(path: Path, directory: Path) -> Path:
    if path.suffix != ".gz":
        return path
    target = directory / path.stem
    target.write_text(liberty_text(path), encoding="utf-8")
    return target


def library_options(library: Library, paths: Sequence[Path]) -> str:
    """The library as options of ``abc``, ``dfflibmap`` and ``stat``."""
    avoid = "".join(f" -dont_use {cell.name}" for cell in library.cells.values() if cell.dont_use)
    return "".join(f' -liberty "{path}"' for path in paths) + avoid


def read_cells(paths: Sequence[Path], *, functions: bool = False) -> list[str]:
    """Make the cells known: as boxes, or with their functions for a proof."""
    kind = "-overwrite -ignore_miss_func -ignore_miss_dir -ignore_miss_data_latch -ignore_buses"
    return [f'read_liberty {"" if functions else "-lib "}{kind} "{path}"' for path in paths]


def front_end(source: str, top: str) -> list[str]:
    """Read and elaborate."""
    return [
        f"read_verilog {source}",
        f"hierarchy -check -top {top}",
        "proc -norom",
    ]


def recipe_commands(recipe: Recipe, options: str, script: str) -> list[str]:
    """From an elaborated design to gates."""
    mapping = "-map ripple.v -map +/techmap.v" if recipe.ripple else ""
    return [
        "opt -full",
        "wreduce",
        *(("alumacc", "maccmap") if recipe.carry_save else ()),
        "opt",
        f"techmap {mapping}",
        "opt -full",
        f"dfflibmap{options}",
        f"abc{options} -script {script}",
        "opt_clean -purge",
        "check -assert",
    ]


def synthesize(
    verilog: str,
    top: str,
    library: Library,
    recipes: Sequence[Recipe] = AREA_RECIPES,
    *,
    keep: Sequence[str] = (),
    limit_s: float = 600.0,
) -> list[SynthesisResult]:
    """Synthesize one design by several recipes, in one run of Yosys.

    Parameters
    ----------
    keep
        Modules whose boundaries stay while gates are chosen; all others are dissolved first.

    Raises
    ------
    FailureError
        If Yosys fails, or leaves a cell that the library does not have.
    """
    with tempfile.TemporaryDirectory(prefix="studentfloat-") as name:
        directory = Path(name)
        paths = write_library(library, directory)
        options = library_options(library, paths)
        (directory / "design.v").write_text(verilog, encoding="utf-8")
        (directory / "ripple.v").write_text(_RIPPLE, encoding="utf-8")
        marks = [f"setattr -mod -set keep_hierarchy 1 {kept}" for kept in keep]
        commands = [*read_cells(paths), *front_end("design.v", top), *marks, "flatten"]
        commands.append("design -save elaborated")
        for i, recipe in enumerate(recipes):
            (directory / f"{i}.abc").write_text("\n".join(recipe.abc) + "\n", encoding="utf-8")
            commands += [
                "design -load elaborated",
                *recipe_commands(recipe, options, f"{i}.abc"),
                f"write_json {i}.modular.json",
                f"write_verilog -noattr {i}.modular.v",
                *(f"setattr -mod -unset keep_hierarchy {kept}" for kept in keep),
                "flatten",
                "opt_clean -purge",
                f"write_json {i}.json",
                f"write_verilog -noattr {i}.v",
            ]
        run_yosys(commands, directory, limit_s)

        def read(file: str) -> str:
            return (directory / file).read_text(encoding="utf-8")

        return [
            SynthesisResult(
                recipe,
                netlist_from_json(read(f"{i}.json"), top, library),
                read(f"{i}.v"),
                read(f"{i}.modular.v"),
                read(f"{i}.modular.json"),
                read(f"{i}.json"),
            )
            for i, recipe in enumerate(recipes)
        ]
