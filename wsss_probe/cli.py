"""The command line: it parses and calls, and holds no logic.

Nothing heavy is imported before a command runs: ``--help`` must be instant.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from wsss_probe import __version__
from wsss_probe.errors import ExitCode, ProbeError, UsageError
from wsss_probe.host import PluginHost
from wsss_probe.isolation import STRICT
from wsss_probe.names import display

if TYPE_CHECKING:
    from wsss_probe.config import AuditOptions

__all__ = ["build_app", "run"]

_HELP = "Audit a trained CNN: where it looks, which channels carry it, and whether any of it beats chance."

Model = Annotated[
    str | None,
    typer.Option(
        help="torchvision/NAME, timm/NAME, a run folder or model card, or file.py:factory, pkg.mod:factory."
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(help="Checkpoint (.safetensors, .pt, .pth, .th), or 'random' for an untrained network."),
]
ModelArguments = Annotated[
    str | None, typer.Option("--model-args", help="Arguments of the network: num_classes=2,dropout=0.1")
]
Images = Annotated[str | None, typer.Option(help="Folder of images, or a manifest.")]
ManifestFile = Annotated[
    str | None, typer.Option("--manifest", help="CSV or Parquet; with --images its root.")
]
Layers = Annotated[str | None, typer.Option(help="Dotted names, patterns, or 'auto'; comma-separated.")]
Classes = Annotated[
    str | None, typer.Option(help="Names of the outputs, in order; comma-separated, or a .txt file.")
]
Targets = Annotated[
    str | None, typer.Option(help="Whose evidence is mapped: predicted, label, all, class names, 'a vs b'.")
]
Explain = Annotated[
    str | None, typer.Option(help="Explainers: names, patterns (grad*), default, all; comma-separated.")
]
Layouts = Annotated[
    str | None, typer.Option(help="Order of a layer's maps: 'blocks.11=tokens:14x14+1,layers.3=NHWC'.")
]
Preprocess = Annotated[
    str | None,
    typer.Option(help="imagenet, unit, cifar10, …, a TOML or JSON file, or 'size=96 mean=.7,.5,.7'."),
]
Out = Annotated[str | None, typer.Option(help="Run folder; default runs/<network>.")]
RunFile = Annotated[Path | None, typer.Option(help="TOML file with the same options; flags win.")]
OnlyPlugins = Annotated[str | None, typer.Option(help="Load these plugins and no others.")]
NoPlugin = Annotated[str | None, typer.Option(help="Leave these plugins out.")]
Controls = Annotated[str | None, typer.Option(help="Control networks: shuffled:3,reinit:2, or none.")]
Concepts = Annotated[
    str | None, typer.Option(help="Concept measures: names, patterns, default, all or none.")
]
Processes = Annotated[
    int | None, typer.Option(help="Processes that measure concepts; 0 for as many as there are cores.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …")]
BatchSize = Annotated[int | None, typer.Option(help="Images per forward pass.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the controls.")]
Splits = Annotated[str | None, typer.Option(help="Audit the rows of these splits only; comma-separated.")]
MaxImages = Annotated[int | None, typer.Option(help="Audit at most this many images, evenly spread.")]
MaxBad = Annotated[
    float | None, typer.Option("--max-bad-fraction", help="Stop above this share of bad images.")
]
Budget = Annotated[float | None, typer.Option("--budget-gb", help="Refuse runs predicted to be larger.")]
Store = Annotated[str | None, typer.Option("--store-activations", help="Keep the maps of these layers.")]
AllowMissing = Annotated[
    str | None, typer.Option(help="Tensors that the checkpoint may lack; comma-separated.")
]
AllowNonfinite = Annotated[bool, typer.Option("--allow-nonfinite", help="Load weights with NaN or infinity.")]
Multilabel = Annotated[
    bool | None,
    typer.Option("--multilabel/--single-label", help="Each output is decided on its own (sigmoid)."),
]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run the Python code that --model names.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at a plugin's first error.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be computed and its price, then stop.")
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress bar; one line a minute.")]


def audit(
    context: typer.Context,
    model: Model = None,
    weights: Weights = None,
    images: Images = None,
    manifest: ManifestFile = None,
    layers: Layers = None,
    classes: Classes = None,
    targets: Targets = None,
    explain: Explain = None,
    preprocess: Preprocess = None,
    out: Out = None,
    run_file: RunFile = None,
    controls: Controls = None,
    concepts: Concepts = None,
    processes: Processes = None,
    only_plugins: OnlyPlugins = None,
    no_plugin: NoPlugin = None,
    layouts: Layouts = None,
    model_arguments: ModelArguments = None,
    device: Device = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    splits: Splits = None,
    max_images: MaxImages = None,
    max_bad_fraction: MaxBad = None,
    store_activations: Store = None,
    budget_gb: Budget = None,
    allow_missing: AllowMissing = None,
    allow_nonfinite: AllowNonfinite = False,
    multilabel: Multilabel = None,
    trust_code: TrustCode = False,
    strict: Strict = False,
    dry_run: DryRun = False,
    no_progress: NoProgress = False,
) -> None:
    """Audit a network on images and write a run folder with a report."""
    from wsss_probe.commands import run_audit

    options = _options(context, run_file)
    run_audit(options, _host(options), trust_code=trust_code, dry_run=dry_run, quiet=no_progress)


def layers(
    context: typer.Context,
    model: Model = None,
    weights: Weights = None,
    images: Images = None,
    preprocess: Preprocess = None,
    model_arguments: ModelArguments = None,
    layouts: Layouts = None,
    run_file: RunFile = None,
    only_plugins: OnlyPlugins = None,
    no_plugin: NoPlugin = None,
    trust_code: TrustCode = False,
) -> None:
    """List the layers of a network: shape, stride, receptive field, and which explainers suit them."""
    from wsss_probe.commands import list_layers

    options = _options(context, run_file)
    list_layers(options, _host(options), trust_code=trust_code)


ConceptsOut = Annotated[str, typer.Option("--out", help="CSV file to write: one row per image.")]


def concepts(
    context: typer.Context,
    images: Images = None,
    manifest: ManifestFile = None,
    concepts: Concepts = None,
    preprocess: Preprocess = None,
    out: ConceptsOut = "",
    run_file: RunFile = None,
    processes: Processes = None,
    splits: Splits = None,
    max_images: MaxImages = None,
    only_plugins: OnlyPlugins = None,
    no_plugin: NoPlugin = None,
    strict: Strict = False,
    no_progress: NoProgress = False,
) -> None:
    """List the concepts that can be measured in images, and with --out measure them; no network needed."""
    from wsss_probe import progress
    from wsss_probe.catalogue import show_concepts

    options = _options(context, run_file)
    host = _host(options)
    show_concepts(options, host, out, progress.lines if no_progress else progress.bar)
    if host.failures:
        raise typer.Exit(_complain(str(host.failures[0]), ExitCode.WITH_FAILURES))


Folder = Annotated[str, typer.Argument(help="Folder of images, a manifest to tile, or with --where a run.")]
ManifestOut = Annotated[str, typer.Option("--out", help="Manifest to write (.csv or .parquet).")]
Pattern = Annotated[
    str | None, typer.Option(help="Regular expression on file names with groups label, group, split.")
]
Tile = Annotated[int | None, typer.Option(help="Cut images into tiles of this many pixels.")]
Stride = Annotated[int | None, typer.Option(help="Distance between tiles; default the tile size.")]
LabelFromMask = Annotated[
    str | None, typer.Option(help="Label tiles by mask area: 'gland:foreground>=0.3,none:foreground<=0.02'.")
]
AtMost = Annotated[
    int | None, typer.Option(help="Tiles kept of each image and label, drawn at random; default all.")
]
Split = Annotated[str | None, typer.Option(help="Split by group: train=0.8,test=0.2")]
Where = Annotated[
    str | None, typer.Option(help="Of a finished run, the images with such a probability: 'tumour>0.99'.")
]


def manifest(
    folder: Folder,
    out: ManifestOut,
    pattern: Pattern = None,
    tile: Tile = None,
    stride: Stride = None,
    label_from_mask: LabelFromMask = None,
    at_most: AtMost = None,
    split: Split = None,
    where: Where = None,
    seed: Seed = 0,
) -> None:
    """Write a manifest of a folder: class/x.png folders, images/ and masks/, or plain files."""
    from wsss_probe.commands import ManifestRequest, make_manifest

    rules = label_from_mask
    request = ManifestRequest(folder, out, pattern, tile, stride, rules, at_most, split, seed or 0, where)
    _say(make_manifest(request))


def plugins_list(only_plugins: OnlyPlugins = None, no_plugin: NoPlugin = None) -> None:
    """List the installed plugins: version, hooks, state, and why one failed."""
    from wsss_probe.commands import list_plugins

    host = PluginHost()
    host.load(only=_words(only_plugins), without=_words(no_plugin))
    list_plugins(host)


def report(
    run_folder: Annotated[Path, typer.Argument(help="Finished run.", metavar="RUN")],
) -> None:
    """Write the report of a finished run again, from what the run keeps."""
    from wsss_probe.commands import write_again

    _say(str(write_again(run_folder)))


def study(
    file: Annotated[Path, typer.Argument(help="Study file, such as studies/feng.toml.")],
    manifest: Annotated[Path, typer.Option(help="Images with masks and splits.")],
    out: Annotated[Path, typer.Option(help="Folder of the study; the same command resumes.")],
    changed: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter of the study: --set tile=96; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the commands, then stop.")] = False,
) -> None:
    """Run a paper's experiment on your data: its commands, one after another."""
    from wsss_probe.commands import StudyRequest, perform_study

    code = perform_study(StudyRequest(file, manifest, out, tuple(changed or ()), dry_run), _say)
    if code:
        raise typer.Exit(int(code))


def doctor(
    context: typer.Context,
    model: Model = None,
    weights: Weights = None,
    images: Images = None,
    manifest: ManifestFile = None,
    layers: Layers = None,
    classes: Classes = None,
    preprocess: Preprocess = None,
    model_arguments: ModelArguments = None,
    layouts: Layouts = None,
    run_file: RunFile = None,
    only_plugins: OnlyPlugins = None,
    no_plugin: NoPlugin = None,
    device: Device = None,
    allow_missing: AllowMissing = None,
    allow_nonfinite: AllowNonfinite = False,
    multilabel: Multilabel = None,
    trust_code: TrustCode = False,
) -> None:
    """Examine a network before it is audited; without --model check the installation."""
    from wsss_probe.doctor import check_installation, examine_network

    options = _options(context, run_file)
    host = _host(options)
    network = bool(options.model or options.weights or options.images or options.manifest)
    fine = examine_network(options, host, trust_code=trust_code) if network else check_installation(host)
    if not fine:
        raise typer.Exit(int(ExitCode.CONDITION_FAILED))


# -- from flags to options ---------------------------------------------------------------------

_INTERRUPTED_BY_SIGNAL = 130  # what typer makes of KeyboardInterrupt
_NOT_OPTIONS = {"run_file", "trust_code", "dry_run", "no_progress"}


def _options(context: typer.Context, run_file: Path | None) -> AuditOptions:
    """Flags over file over defaults; a flag that was not given counts as nothing."""
    from wsss_probe.config import resolve

    flags = {key: value for key, value in context.params.items() if key not in _NOT_OPTIONS}
    # A plain switch that was not set is False, the pair of switches None
    given = {k: v for k, v in flags.items() if v is not None and (v is not False or k == "multilabel")}
    if "model_arguments" in given:
        given["model_arguments"] = _arguments(given["model_arguments"])
    return resolve(given, run_file)


def _arguments(text: str) -> dict[str, Any]:
    """Read ``a=1,b=x`` as numbers and truth values where they look like it, else as text."""
    import json

    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not mark for _, mark, _ in pairs):
        msg = "--model-args cannot be read"
        raise UsageError(msg, found=text, wanted="name=value,name=value")
    values: dict[str, Any] = {}
    for key, _, value in pairs:
        try:
            values[key.strip()] = json.loads(value)
        except ValueError:
            values[key.strip()] = value.strip()
    return values


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _host(options: AuditOptions) -> PluginHost:
    host = PluginHost(strict=options.strict)
    host.load(only=options.only_plugins, without=options.no_plugin)
    return host


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


# -- the application ---------------------------------------------------------------------------


def build_app(host: PluginHost | None = None) -> typer.Typer:
    """Build the command line, with the commands that plugins add.

    Parameters
    ----------
    host : PluginHost, optional
        Loaded plugins; without one only the host's own commands are there.

    Returns
    -------
    Typer
    """
    app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_version_option)
    own = (audit, layers, concepts, manifest, study, report, doctor)
    for command in own:
        app.command()(command)
    groups = {"plugins": typer.Typer(help="Plugins that are installed.", no_args_is_help=True)}
    groups["plugins"].command("list")(plugins_list)
    for offered in host.collect_commands({command.__name__ for command in own}) if host else ():
        _add(app, groups, offered.item.name, (offered.item.summary, offered.item.target))
    for name, group in groups.items():
        app.add_typer(group, name=name)
    return app


def _say_version(asked: bool) -> None:
    if asked:
        _say(f"wsss-probe {__version__}")
        raise typer.Exit


def _version_option(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _add(app: typer.Typer, groups: dict[str, typer.Typer], name: str, what: tuple[str, str]) -> None:
    """Add a plugin's command; its module is imported when it runs or asks for its own help."""
    summary, target = what
    first, _, second = name.partition(" ")
    if second and first not in groups:
        groups[first] = typer.Typer(help=f"{first.capitalize()} something.", no_args_is_help=True)
    parent = groups[first] if second else app
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    parent.command(second or first, help=summary, context_settings=settings, add_help_option=False)(
        _deferred(name, target)
    )


def _deferred(name: str, target: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        from importlib import import_module

        module, _, function = target.partition(":")
        inner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        inner.command()(getattr(import_module(module), function))
        result = typer.main.get_command(inner).main(
            context.args, prog_name=f"wsss-probe {name}", standalone_mode=False
        )
        if isinstance(result, int) and result:
            raise typer.Exit(result)

    return command


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; by default those of the process.
    """
    sys.exit(int(_run(list(sys.argv[1:] if arguments is None else arguments))))


def _run(arguments: list[str]) -> int:
    try:
        # Failures of plugins are told by 'plugins list', 'doctor' and the report, not by --help.
        host = PluginHost()
        host.load()
        command = typer.main.get_command(build_app(host))
        result = command.main(arguments, prog_name="wsss-probe", standalone_mode=False)
        if result == _INTERRUPTED_BY_SIGNAL:
            raise KeyboardInterrupt
        return result if isinstance(result, int) else ExitCode.DONE
    except (Abort, KeyboardInterrupt):
        return _complain("interrupted; the same command resumes", ExitCode.INTERRUPTED)
    except TyperException as error:
        return _mistyped(error)
    except SystemExit as error:
        if not _strict_note(error):
            raise
        return _complain(_strict_note(error), ExitCode.WITH_FAILURES)
    except Exception as error:  # noqa: BLE001  # the last resort: a bug of ours, told as one
        return _told(error)


def _told(error: Exception) -> int:
    """Tell an error: a plugin's under --strict, one that the user can mend, or a bug of ours."""
    strict = _strict_note(error)
    if isinstance(error, ProbeError) and not strict:
        return _complain(str(error), error.exit_code)
    if os.environ.get("WSSS_PROBE_TRACE") == "1":
        traceback.print_exc()
    where = "; WSSS_PROBE_TRACE=1 shows where"
    if strict:
        return _complain(strict + where, ExitCode.WITH_FAILURES)
    return _complain(f"internal error: {type(error).__name__}: {error}{where}", ExitCode.INTERNAL)


def _strict_note(error: BaseException) -> str:
    """Find the note that names the plugin to blame; empty for any other error."""
    return next((note for note in getattr(error, "__notes__", ()) if note.startswith(STRICT)), "")


def _mistyped(error: TyperException) -> int:
    """Tell a mistake on the command line; a group without a command shows its help."""
    said = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        _say(said)
        return ExitCode.USAGE
    return _complain(" ".join(said.split()), ExitCode.USAGE)


def _complain(text: str, code: ExitCode) -> int:
    """Say what went wrong, on one line where the message is one."""
    shown = "\n".join(_shown_line(line) for line in text.splitlines())
    sys.stderr.write(f"wsss-probe: {shown}\n")
    return code


def _shown_line(line: str) -> str:
    """Show a line without control characters, uncut."""
    return "".join(display(character) if not character.isprintable() else character for character in line)
