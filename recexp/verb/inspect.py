"""The verb `inspect`: what a log holds, how it would be read, and a dataset YAML that trains on it."""

from pathlib import Path

from recexp.error import ConfigError
from recexp.verb.options import option, parse

USAGE = "FILE... [--write NAME] [--html PAGE]"
HELP = "looks at your own log: columns, roles, labels, times, what leaks; writes its YAML"
OPTIONS = (
    option(
        "files",
        metavar="FILE",
        nargs="+",
        help="a log in csv, tsv, Parquet, JSON lines or one user a line, compressed or not, a folder or pattern of "
        "parts, or logs.zip/log.csv; then files of users or items, told by their column of ids",
    ),
    option("--write", metavar="NAME", help="write DIR/dataset/NAME.yaml, with which recexp dataset=NAME trains"),
    option("--html", metavar="PAGE", help="also write PAGE: the report with pictures, one offline HTML file"),
    option("--config-dir", metavar="DIR", default="conf", help="your folder of YAML files; default: conf"),
)


def run(arguments: list[str]) -> int:
    """Raises DataError for files that cannot be read, ConfigError for a name that is taken."""
    args = parse("inspect", OPTIONS, arguments)
    target = None if args.write is None else _target(Path(args.config_dir), args.write)
    from recexp.dataset.inspect.look import inspect
    from recexp.dataset.inspect.template import dataset_yaml
    from recexp.dataset.inspect.text import report
    from recexp.storage import write_text

    inspection = inspect(args.files)
    print("\n".join(report(inspection)))
    if args.html is not None:
        from recexp.report.format import put
        from recexp.report.page.inspection import page

        put(page(inspection), args.html, "--html")
        print(f"\n{args.html}")
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, dataset_yaml(args.write, inspection))
        print(f"\n{target}\nrecexp --config-dir {args.config_dir} dataset={args.write} {_model(inspection.options)}")
    return 0


def _target(folder: Path, name: str) -> Path:
    from recexp.groups import options

    target = folder / "dataset" / f"{name}.yaml"
    if name in options("dataset"):
        raise ConfigError(f"--write {name}: is the name of one of recexp's own datasets; choose another.")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"--write {name}: must be letters, digits, - and _; it becomes the name of a dataset.")
    if target.exists():
        raise ConfigError(f"{target}: is there already; choose another name or remove it.")
    return target


def _model(options: dict) -> str:
    """Overrides for a model that such data can train."""
    if options.get("columns", {"timestamp": "timestamp"})["timestamp"] is None:
        return "model=deepfm"
    implicit = "columns" not in options or options.get("label") == "implicit"
    return "model=din model.history_labels=false" if implicit else "model=din"
