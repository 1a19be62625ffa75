"""The command ``prsa``: from raster files to a scene, from a scene to a model, from a model to a map; and the study.

It calls the functions that Python users call. Heavy libraries are loaded by the command that needs them.
"""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

from .errors import PrsaError

EXAMPLE = """from files to a map:
  prsa scene new para.nc --modality ms=sentinel2.tif --modality dem=srtm.tif \\
       --labels training_polygons.geojson --column class
  prsa fit para.nc --method prsanet --preset quick --out model.safetensors
  prsa map model.safetensors para.nc land_cover.tif
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise PrsaError(f"{message}. See {self.prog} --help.")


def _files(pairs: list[str]) -> dict[str, list[str]]:
    """NAME=FILE, ... -> {name: files}; a name given again adds bands."""
    files: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise PrsaError(f"--modality: expected NAME=FILE, e.g. ms=sentinel2.tif, got {pair!r}.")
        files.setdefault(name, []).append(path)
    return files


def _check_folder(path: str) -> None:
    """Fail before the work, not after it, when the result cannot be written."""
    folder = Path(path).expanduser().resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise PrsaError(f"cannot write {path}: {error.strerror}. Fix: name a folder where you may write.") from error


def _new(given) -> None:
    from .data.rasters import scene_from_rasters, show
    from .data.scene import save_scene

    _check_folder(given.scene)
    attrs = {key: getattr(given, key) for key in ("title", "license", "citation") if getattr(given, key)}
    scene = scene_from_rasters(
        _files(given.modality),
        given.labels,
        given.column,
        given.classes,
        given.grid,
        name=Path(given.scene).stem,
        **attrs,
    )
    print(f"{show(scene)}\nwritten: {save_scene(scene, given.scene)}")


def _check(given) -> None:
    from .data.rasters import summary
    from .data.scene import class_names, scene_hash
    from .data.sources import open_scene

    scene = open_scene(given.scene)
    for text in summary(scene)["warnings"]:
        warnings.warn(text, stacklevel=1)
    print(f"{given.scene}: a scene of {len(class_names(scene))} classes, SHA-256 {scene_hash(scene)}")


def _show(given) -> None:
    from .data.rasters import show
    from .data.sources import open_scene

    print(show(open_scene(given.scene)))


def _fit(given) -> None:
    from . import metrics
    from .data.sources import open_scene
    from .mapping import save_model
    from .study.fit import fit

    _check_folder(given.out)
    run, model = fit(open_scene(given.scene), given.method, None, given.seed, given.preset, given.device, progress=True)
    counts = run["confusion"].sel(head="fused", part="test").values
    scores = [
        f"{name} {metrics.points(measure(counts)):.1f}" for name, measure in (("OA", metrics.oa), ("AA", metrics.aa))
    ]
    print(f"{given.method} on {counts.sum()} test pixels: {', '.join(scores)}, kappa {metrics.kappa(counts):.3f}")
    for name, recall in zip(model.classes, metrics.per_class(counts)):
        print(f"  {name}: {metrics.points(recall):.1f}")
    print(f"written: {save_model(model, given.out)}")


def _map(given) -> None:
    from .data.sources import open_scene
    from .data.windowed import open_windowed
    from .figures.style import class_colours
    from .mapping import land_cover, load_model
    from .study.progress import bar

    *scene, out = given.files
    if (len(scene) != 1) if not given.modality else scene:
        raise PrsaError(
            "expected a model, a scene and the map's file, or a model, the map's file and --modality, got "
            f"{', '.join(given.files)}{' and --modality' if given.modality else ''}. See prsa map --help."
        )
    _check_folder(out)
    model = load_model(given.model)
    source = open_windowed(_files(given.modality), given.grid) if given.modality else open_scene(scene[0])
    with bar(source.sizes["y"] * source.sizes["x"], unit="pixel") as line:
        areas = land_cover(
            model,
            source,
            out,
            given.confidence,
            given.probabilities,
            class_colours(model.classes),
            on_part=lambda done, _: line.update(done - line.n),
        )
    shown = [c for c in ("class", "pixels", "area_ha", "adjusted_ha", "adjusted_lo", "adjusted_hi") if c in areas]
    print(areas[shown].round(2).to_string(index=False, na_rep="-"))
    print(f"written: {out}, and area.csv beside it")


def _runs(given) -> None:
    from . import files
    from .study.provenance import line, runs_of

    found = runs_of(given.table, files.results(given.preset))
    print(*found, line(found), sep="\n")


def _reproduce(arguments: list[str]) -> int:
    from .reproduce import main as reproduce

    return reproduce(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("prsa", description=__doc__.splitlines()[0], epilog=EXAMPLE, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(title="commands", required=True, metavar="{scene,fit,map,runs,reproduce}")

    scene = commands.add_parser("scene", help="new: rasters and labels to a scene; check or show a scene")
    kinds = scene.add_subparsers(required=True, metavar="{new,check,show}")
    new = kinds.add_parser("new", help="put rasters and labels on one grid and write a scene")
    new.add_argument("scene", help="the file to write, e.g. para.nc")
    _add_rasters(new, required=True)
    new.add_argument("--labels", metavar="FILE", help="polygons or points, or a raster of class numbers")
    new.add_argument("--column", help="the polygons' column that holds the class")
    new.add_argument("--classes", metavar="FILE", help="JSON or CSV of values and class names")
    for name in ("title", "license", "citation"):
        new.add_argument(f"--{name}", help=f"{name} of the scene, kept with it")
    new.set_defaults(run=_new)
    for name, run, what in (("check", _check, "whether a scene is one"), ("show", _show, "what is in a scene")):
        command = kinds.add_parser(name, help=what)
        command.add_argument("scene", help="a file, or the name of a simulated or public scene")
        command.set_defaults(run=run)

    fit = commands.add_parser("fit", help="train a model on a scene, test it and save it")
    fit.add_argument("scene", help="a file, or the name of a simulated or public scene")
    fit.add_argument("--out", metavar="FILE", required=True, help="the model to write, e.g. model.safetensors")
    fit.add_argument("--method", default="prsanet", help="a method, or a modality to train it alone (default: prsanet)")
    fit.add_argument("--preset", default="full", help="full: the study's settings; quick: the same in less time")
    fit.add_argument("--seed", type=int, default=0, help="of initialisation and batches (default: 0)")
    fit.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    fit.set_defaults(run=_fit)

    maps = commands.add_parser("map", help="write the land-cover map of a scene, or of rasters, as GeoTIFF")
    maps.add_argument("model", help="what prsa fit wrote")
    maps.add_argument("files", nargs="+", metavar="[scene] map.tif", help="the scene, unless --modality names rasters; "
                      "the map to write")  # fmt: skip
    _add_rasters(maps, required=False)
    maps.add_argument("--confidence", action="store_true", help="the probability of the chosen class, as a second file")
    maps.add_argument("--probabilities", action="store_true", help="the probability of every class, as another file")
    maps.set_defaults(run=_map)
    made = commands.add_parser("runs", help="the run files that a table or figure of the study was made of")
    made.add_argument("table", help="its name, e.g. accuracy or group_differences")
    made.add_argument("--preset", default="full", choices=("full", "quick"), help="of which study (default: full)")
    made.set_defaults(run=_runs)
    commands.add_parser("reproduce", help="the whole study: runs, tables, figures, notebooks", add_help=False)
    return parser


def _add_rasters(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument("--modality", action="append", default=[], required=required, metavar="NAME=FILE",
                        help="a raster of a sensor; once per sensor, and again to add bands")  # fmt: skip
    parser.add_argument("--grid", metavar="NAME", help="the modality whose pixels all get (default: the first)")


def _warn(said: set[str]):
    """What shows warnings: each once, in one line."""

    def show(message, category, filename, lineno, file=None, line=None):
        text = " ".join(str(message).split())
        if text not in said:
            said.add(text)
            print(f"warning: {text}", file=sys.stderr)

    return show


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for a problem the user can fix, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["reproduce"]:  # it has a command line of its own
        return _reproduce(arguments[1:])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _warn(set())
            given = _parser().parse_args(arguments)
            given.run(given)
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing half-written is left.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
