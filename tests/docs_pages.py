"""What a page of the documents says: its fences, commands, links and the names it uses.

Each `*_problems` looks for mistakes and returns them as lines; `test_docs.py` asks for none.
"""

import dataclasses
import functools
import pathlib
import pkgutil
import re
import shlex
import urllib.parse
from collections.abc import Iterable

import PIL.Image

from md4jax.config import SECTIONS
from md4jax.data.prepare import RECIPES
from md4jax.evaluation.features.classifier.config import ClassifierOptions
from md4jax.options import Table, options_of

ROOT = pathlib.Path(__file__).parents[1]
# What code hosts colour or draw, and plain text.
LANGUAGES = {"sh", "bash", "python", "text", "diff", "json", "yaml", "toml", "mermaid", "math"}
SHELLS = ("sh", "bash")
_FENCE = re.compile(r"^( *)(```+)([^\n`]*)\n(.*?)^ *\2`*$\n?", re.DOTALL | re.MULTILINE)


def pages(root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """The documents there are."""
    named = ("README.md", "CONTRIBUTING.md", "configs/README.md", "notebooks/README.md")
    there = [root / name for name in named if (root / name).exists()]
    return there + sorted((root / "docs").rglob("*.md"))


@dataclasses.dataclass(frozen=True)
class Fence:
    """A block of a page; `line` is of its first line.

    `file` is what it is all of, if it begins with a docstring, or what it changes, if it is a diff:
    the last `path.py` that the paragraph before it names, which ends with a colon.
    """

    language: str
    text: str
    line: int
    file: str = ""


def fences(text: str) -> list[Fence]:
    """The blocks between ```; those in lists without their indentation."""
    found = []
    for match in _FENCE.finditer(text):
        indent, _, language, body = match.groups()
        body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        before = text[: match.start()].rstrip().rpartition("\n\n")[2]
        named = re.findall(r"`([\w/]+\.py)`", before) if before.endswith(":") else []
        whole = language == "diff" or re.match(r"r?\"\"\"", body)
        line = text[: match.start(4)].count("\n") + 1
        file = named[-1] if whole and named else ""
        found.append(Fence(language.strip(), body, line, file))
    return found


def prose(text: str) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """What stands in `backticks` outside of blocks."""
    return [span.strip() for _, span in re.findall(r"(?<!`)(`+)(?!`)(.+?)\1(?!`)", prose(text))]


def fence_problems(text: str) -> list[str]:
    """Blocks that are not closed, and languages that are not known."""
    lines = [
        f"line {fence.line}: ```{fence.language} should be one of {sorted(LANGUAGES)}"
        for fence in fences(text)
        if fence.language not in LANGUAGES
    ]
    return lines + ["``` is not closed"] * ("```" in prose(text))


# Links.


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for title in re.findall(r"^#{1,6} +(.+?)(?: +#+)?$", prose(text), re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number = found.get(slug, 0)
        found[slug] = number + 1
        if number:
            found[f"{slug}-{number}"] = 1
    return set(found)


def links(text: str) -> list[str]:
    """Where links and pictures of a page lead to, in Markdown and in HTML."""
    words = re.sub(r"(`+)(?!`).+?\1", "", prose(text))
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", words)
    named = re.findall(r"^ *\[[^\]]+\]: *(\S+)", words, re.MULTILINE)
    return inline + named + re.findall(r"(?:href|src)=\"([^\"]+)\"", words)


def link_problems(page: pathlib.Path, root: pathlib.Path = ROOT) -> list[str]:
    """Relative links and anchors that lead nowhere, and pictures that are none."""
    problems = []
    for link in links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = urllib.parse.unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(root.resolve()) or not target.exists():
            problems.append(f"{link}: there is no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
            problems.append(f"{link}: {target.name} has no such heading")
        elif target.suffix in (".png", ".gif", ".jpg") and not _is_picture(target):
            problems.append(f"{link}: is no picture")
    return problems


def _is_picture(path: pathlib.Path) -> bool:
    try:
        with PIL.Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError):
        return False
    return True


# Commands.


_PYTHON = re.compile(r"^(.*/)?python3?$")


def commands(text: str) -> list[list[str]]:
    """The words of each command in a page's blocks of `sh` and `bash`.

    Comments, redirections, variables set for one command and what only joins commands are gone; a
    function `name() { command "$@"; }` stands for its command, on all of the page. A command behind
    another, as of `srun`, or inside of another's argument, as of `ssh`, is one as well.
    """
    return _commands("".join(fence.text for fence in fences(text) if fence.language in SHELLS))


def _commands(script: str) -> list[list[str]]:
    functions, found = {}, []
    for line in script.replace("\\\n", " ").splitlines():
        if match := re.match(r'\s*(\w+)\(\) *\{ (.*) "\$@"; \}', line):
            functions[match[1]] = shlex.split(match[2])
            continue
        for words in _split(line):
            if words[0] in functions:
                words = functions[words[0]] + words[1:]
            first = next((i for i, word in enumerate(words) if _PYTHON.search(word)), 0)
            found += [part for part in (words[:first], words[first:]) if part]
            nested = [re.search(r"python3? \S.*", word) for word in words]
            found += [inner for match in nested if match for inner in _commands(match[0])]
    return found


def _split(line: str) -> list[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if set(word) <= set("&|;"):
            found.append([])
        elif set(word) <= set("<>&"):
            next(words, None)
        elif found[-1] or not re.match(r"[A-Z_]+=", word):
            found[-1].append(word)
    return [words for words in found if words]


# Names.

_FILES = ("main.py", "prepare_data.py", "benchmarks", "md4jax")
# What stands for a name of the reader's, in the documents and in error messages.
_STANDS_FOR = re.compile(r"yours?\b|your_|\bmy_|^(section|SECTION)\b|\.\.\.")


@functools.cache
def program_flags() -> set[str]:
    """The flags of all programs here, by their sources."""
    files = [f for name in _FILES for f in (ROOT / name, *(ROOT / name).rglob("*.py"))]
    sources = "\n".join(file.read_text() for file in files if file.is_file())
    known = re.findall(r"(?:DEFINE_\w+|add_argument)\(\s*\"-*(\w+)\"", sources)
    return {"config", *known, *(key for name in RECIPES for key in options_of(RECIPES[name]))}


def config_keys() -> dict[str, set[str]]:
    """By section: the keys of all of its components, and the components' names."""
    keys = {"classifier": set(options_of(ClassifierOptions))}
    for section, entry in SECTIONS.items():
        components = [entry[name] for name in entry] if isinstance(entry, Table) else [entry]
        names = {"name", *entry} if isinstance(entry, Table) else set()
        keys[section] = names.union(*map(options_of, components))
    return keys


def key_problems(text: str) -> list[str]:
    """`config.section.key` anywhere, and `section.key` in backticks, that no config has."""
    used = re.findall(r"(?<![\w.])config\.(?!json\b|py\b|md\b)(\w+)(?:\.(\w+))?(?!\w*\()", text)
    sections = "|".join(SECTIONS)
    for span in spans(text):
        used += re.findall(rf"(?<![\w./-])({sections})\.(?!jsonl?\b|py\b)(\w+)(?![\w/]*[(/])", span)
    known = config_keys()
    return [
        f"config.{section}.{key}: no config has it"
        for section, key in dict.fromkeys(used)
        if not _STANDS_FOR.search(f"{section}.{key}")
        and (section not in known or key not in {"", *known[section]})
    ]


def flags(text: str) -> list[str]:
    """Each `--flag` in backticks."""
    return [f for span in spans(text) for f in re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", span)]


def flag_problems(text: str, foreign: Iterable[str]) -> list[str]:
    """`--flag` in backticks that no program here has, and that is like none of `foreign`."""
    known = {"help", *program_flags()}
    return [
        f"--{flag}: no program has it"
        for flag in dict.fromkeys(flags(text))
        if flag not in known and not any(re.fullmatch(pattern, flag) for pattern in foreign)
    ]


def path_problems(page: pathlib.Path, root: pathlib.Path = ROOT) -> list[str]:
    """Configs anywhere and `files.py` in backticks that are not there, nor made by the page."""
    text = page.read_text()
    made = {fence.file for fence in fences(text)}
    used = re.findall(r"(?<![\w/])configs/[\w/*.]*\w", text)
    for span in spans(text):
        used += [m for m in re.findall(r"(?<![\w/.*-])[\w/*]+\.py\b", span) if "/" in m]
    bases = (root, page.parent, root / "configs", root / "md4jax", root / "tests")
    return [
        f"{path}: there is no such file"
        for path in dict.fromkeys(used)
        if not (path in made or _STANDS_FOR.search(path) or any(any(b.glob(path)) for b in bases))
    ]


def name_problems(text: str) -> list[str]:
    """`md4jax.names` in backticks that cannot be imported."""
    problems = []
    for span in spans(text):
        for name in re.findall(r"(?<![\w./-])md4jax(?:\.\w+)+", span):
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                if not _STANDS_FOR.search(name):
                    problems.append(f"{name}: there is no such name")
    return problems
