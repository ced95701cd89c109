"""Factories: code of the user's that builds a network, and whatever else it may do.

Nothing here decides whether code is trusted: :mod:`wsss_probe.zoo` asks that first.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from wsss_probe.errors import ModelError, ProbeError, UnsafeInputError, UsageError
from wsss_probe.weights_file import first_line, printable

__all__ = ["called", "from_file", "from_package", "undisturbed"]


def from_file(path: Path, name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Run a file without putting its folder on the import path, and without leaving a .pyc beside it.

    Parameters
    ----------
    path : Path
    name : str
        Of a callable at the file's top level.

    Returns
    -------
    callable, provenance

    Raises
    ------
    UsageError, ModelError
        The file cannot be read, fails, or has no such callable.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}", found=str(error.strerror)) from error
    digest = hashlib.sha256(source).hexdigest()
    module = ModuleType(f"wsss_probe_factory_{digest[:16]}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # dataclasses look their own module up
    try:
        with explained(str(path)):
            # the very bytes that were hashed; the caller asked for it with trust_code
            exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102
        return _attribute(module, name, str(path)), {"builder": "file", "sha256": digest}
    except ProbeError:
        del sys.modules[module.__name__]
        raise


def from_package(place: str, name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Import a module and take a callable that is defined in the same package.

    Parameters
    ----------
    place : str
        Dotted module name.
    name : str

    Returns
    -------
    callable, provenance

    Raises
    ------
    UnsafeInputError
        The standard library, or an alias of something defined elsewhere (``logging.os.system``).
    ModelError
        The module fails, or has no such callable.
    """
    top = place.partition(".")[0]
    if top in sys.stdlib_module_names:
        raise UnsafeInputError(
            f"refused model {place}:{name}, nothing was imported",
            found="a function of the standard library, which builds no networks",
        )
    with explained(place):
        module = importlib.import_module(place)
    factory = _attribute(module, name, place)
    origin = str(getattr(factory, "__module__", None))
    if origin.partition(".")[0] != top:
        raise UnsafeInputError(
            f"refused model {place}:{name}",
            found=f"an alias of something in {origin}",
            remedy="name the module that defines the factory",
        )
    try:
        version = importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return factory, {"builder": top, "version": version}


def _attribute(module: ModuleType, name: str, place: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    callables = [key for key, value in vars(module).items() if callable(value)]
    near = difflib.get_close_matches(name, callables, n=1)
    raise ModelError(
        f"no factory {name} in {place}",
        found="nothing of that name" if found is None else f"a {type(found).__name__}",
        remedy=f"did you mean {near[0]}?" if near else "name a function that returns an nn.Module",
    )


# -- calling code that may do anything -----------------------------------------------------------------


def called(make: Callable[[], Any], what: str) -> nn.Module:
    """Call foreign code that must return a network.

    Raises
    ------
    ModelError
        It raised, called ``sys.exit``, or returned something else.
    """
    with explained(what):
        module = make()
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{printable(what)} built no network", found=f"a {type(module).__name__}", wanted="an nn.Module"
        )
    return module


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever foreign code raises into one line; ``sys.exit`` must not end the audit silently."""
    try:
        yield
    except ProbeError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{printable(what)} failed", found=f"{type(error).__name__}: {first_line(error)}"
        ) from error


@contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """Seed all generators of the CPU, and restore what foreign code may change."""
    folder, dtype, threads = Path.cwd(), torch.get_default_dtype(), torch.get_num_threads()
    gradients, python, numpy = torch.is_grad_enabled(), random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            os.chdir(folder)
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            torch.set_grad_enabled(gradients)
            random.setstate(python)
            np.random.set_state(numpy)
