"""How the scripts at the top of the repository start and how they fail: with one line."""

from __future__ import annotations

import functools
import logging
import os
import pathlib
import platform
import re
import sys
from collections.abc import Callable
from typing import Any

from md4jax.options import Table, UserError, check_options, options_of, parse_option


def run_main(
    main: Callable[[list[str]], None], before: Callable[[list[str]], None] = lambda argv: None
) -> None:
    """Parses the flags, runs `main(argv)` and exits; a user's mistake is one line and status 1.

    Args:
      main: what to do.
      before: called with the arguments before they are parsed, to define more flags.
    """
    from absl import app

    # It tells at length of every kind of device that is not there.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

    def checked_main(argv: list[str]) -> None:
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected argument {argv[1]!r}: flags are --name=value")
            main(argv)
        except UserError as error:
            _fail(error)
        except KeyboardInterrupt as error:
            print(": ".join(["interrupted", *map(str, error.args)]), file=sys.stderr)
            sys.exit(130)

    app.run(checked_main, flags_parser=functools.partial(_parse_flags, before))


def keep_compilations() -> None:
    """Lets jax keep what it compiled, so that the next start is fast; JAX's own variables win."""
    import jax

    if jax.config.jax_compilation_cache_dir:
        return
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    # By machine: compiled for one CPU, a program may not run on another that shares the folder.
    jax.config.update("jax_compilation_cache_dir", str(cache / "md4jax" / platform.node()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def require(flag: Any) -> Any:
    """The value of a flag; of a config flag, the config of its file.

    Raises:
      UserError: the flag is not given, or its file cannot be read.
    """
    if flag.value is None:
        raise UserError(f"--{flag.name} is missing; --help lists the flags")
    if hasattr(type(flag.value), "to_dict") or isinstance(flag.value, str):
        return flag.value
    try:  # A file that failed to load is an object that tells why when it is used.
        flag.value.to_dict()
    except Exception as error:
        raise UserError(f"--{flag.name}: {_words(error)}") from error
    raise UserError(f"--{flag.name} is no ConfigDict")


def define_flags(table: Table, flag: str, argv: list[str]) -> None:
    """A flag for each option of the component that `--<flag>=<name>` names, if it names one."""
    from absl import flags

    name = None
    for word, following in zip(argv, [*argv[1:], ""]):
        key, is_set, value = word.partition("=")
        if key in (f"--{flag}", f"-{flag}"):
            name = value if is_set else following
    for key, field in options_of(table[name]).items() if name in table else ():
        flags.DEFINE_string(key, None, f"{field.metadata['option'].doc} (of {name})")


def given_options(cls: type) -> dict[str, Any]:
    """The options of a component that the flags of `define_flags` give.

    Raises:
      UserError: one is of the wrong type or out of range.
    """
    from absl import flags

    given = {name: flags.FLAGS[name].value for name in options_of(cls) if name in flags.FLAGS}
    values = {k: parse_option(cls, k, text) for k, text in given.items() if text is not None}
    check_options(cls, values, "--")
    return values


def _parse_flags(before: Callable[[list[str]], None], argv: list[str]) -> list[str]:
    """Absl's parser, with what flags, configs and overrides raise turned into one line."""
    from absl import flags

    from md4jax.config import note_names

    note_names(argv)
    try:
        before(argv)
        return flags.FLAGS(argv)
    except UserError as error:
        _fail(error)
    except flags.Error as error:
        _fail(_kinds(str(error)))
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # Of ml_collections: a key that is not there, or a value that does not fit it.
        overrides = [a for a in argv if a.lstrip("-").startswith("config.")]
        _fail(
            _unknown_key(overrides, error) or f"{' '.join(overrides) or 'flags'}: {_words(error)}"
        )


def _unknown_key(overrides: list[str], error: Exception) -> str | None:
    """One line about the override whose key there is not, if that is what the error says."""
    missing = _words(error).partition("'")[0]
    for override in overrides:
        _, *keys = override.partition("=")[0].split(".")
        if missing in keys:
            of = "all" if missing == keys[0] else keys[0]
            return f"{override}: there is no key {missing!r}; --describe={of} lists those there are"
    return None


def require_devices() -> None:
    """Raises UserError if jax finds no device of the kind that JAX_PLATFORMS asks for."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked, why = os.environ.get("JAX_PLATFORMS"), str(error) or "none is installed"
        raise UserError(
            f"JAX_PLATFORMS={asked}: jax finds no such device ({why}); "
            "install requirements_gpu.txt or requirements_tpu.txt, or unset it"
        ) from error


# What Python says of a text that is no number, and what would be right.
_KINDS = {
    r"invalid literal for int\(\) .*": "should be an integer",
    r"could not convert string to float: .*": "should be a number",
    r"\('Non-boolean argument to boolean flag', .*": "should be True or False",
}


def _words(error: Exception) -> str:
    """The message, without the quotes and escapes that a KeyError's text has."""
    return str(error).replace("\\n", " ").replace("\\'", "'").strip("'\"")


def _kinds(text: str) -> str:
    for pattern, kind in _KINDS.items():
        text = re.sub(pattern, kind, text)
    return text


def _fail(error: object) -> None:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    sys.exit(1)
