"""What is beside the code: requirements, the lock, the Dockerfile, the citation.

That the requirements can be had on each Python is not seen here, without a network: `uv pip compile
--extra=gpu --python-version=3.13 --python-platform=x86_64-manylinux_2_31 pyproject.toml` resolves
them without installing.
"""

import fnmatch
import json
import re
import shlex
import tomllib

import pytest
import yaml
from docs_pages import ROOT
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13")
# Where packages come from is the business of whoever installs them.
HOSTS = re.compile(r"://|(?<![\w-])--?(extra-)?index|--find-links|--trusted-host|\bfile:")


def text_of(name):
    return (ROOT / name).read_text()


# Requirements.


def environment(python):
    """Of markers, on Linux."""
    there = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    return default_environment() | there | {
        "python_version": python, "python_full_version": f"{python}.0",
    }  # fmt: skip


def locked(lock, python):
    """The versions that a lock has for a Python."""
    lines = [line for line in lock.splitlines() if line and not line.startswith("#")]
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            (exact,) = requirement.specifier
            assert exact.operator == "==" and "*" not in exact.version, requirement
            name = canonicalize_name(requirement.name)
            assert name not in found, requirement
            found[name] = exact.version
    return found


def lock_problems(lock, python):
    """What a lock lacks or has in a version that pyproject.toml does not allow, and host names."""
    versions, problems = locked(lock, python), HOSTS.findall(lock) and ["names a host"]
    for wanted in map(Requirement, PROJECT["dependencies"] + EXTRAS["test"]):
        version = versions.get(canonicalize_name(wanted.name))
        if version is None or not wanted.specifier.contains(version):
            problems.append(f"{wanted}: the lock has {version}")
    return problems


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_is_of_the_project(python):
    assert lock_problems(text_of("requirements.lock"), python) == []


def test_a_lock_that_is_not():
    lock = text_of("requirements.lock")
    jax = r"^jax==.*\n"
    assert lock_problems(re.sub(jax, "", lock, flags=re.M), "3.11") == [
        "jax<0.13,>=0.10.2: the lock has None"
    ]
    assert lock_problems(re.sub(jax, "jax==0.9.0\n", lock, count=1, flags=re.M), "3.11") == [
        "jax<0.13,>=0.10.2: the lock has 0.9.0"
    ]
    assert lock_problems(f"{lock}--index-url https://a.b/\n".replace("--index", "#--index"), "3.11")
    with pytest.raises(AssertionError):
        locked("jax>=0.10\n", "3.11")


def test_the_workflow():
    """Is of the Pythons that pyproject.toml allows, and of files that there are."""
    text = text_of(".github/workflows/test.yml")
    pythons = yaml.safe_load(text)["jobs"]["one-device"]["strategy"]["matrix"]["python"]
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert [v for v in ("3.10", *pythons, "3.14") if v in allowed] == pythons == list(PYTHONS)
    for file in re.findall(r"requirements\S+|tests/\S+", text + text_of(".ci/run")):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("file", sorted(p.name for p in ROOT.glob("requirements_*.txt")))
def test_requirements_are_of_the_project(file):
    """This package with an extra that there is; versions are in one place, pyproject.toml."""
    (line,) = [line for line in text_of(file).splitlines() if not line.startswith("#")]
    extra = re.fullmatch(r"-e \.(?:\[(\w+)\])?", line)[1]
    assert extra is None or extra in EXTRAS
    assert not HOSTS.search(text_of(file))


# The Dockerfile.


def instructions(text):
    """`(instruction, what follows)` of each line of a Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def is_ignored(path, ignore):
    """Whether .dockerignore keeps a path at the top from the build; its last match says."""
    ignored = False
    for line in ignore.splitlines():
        if fnmatch.fnmatch(path, line.removeprefix("!")):
            ignored = not line.startswith("!")
    return ignored


def docker_problems(text, ignore):
    """What is wrong with a Dockerfile, as lines."""
    lines, problems, here = instructions(text), [], set()
    known = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT"}
    problems += [f"{name}: not known" for name, _ in lines if name not in known]
    if not re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+\S*", dict(lines).get("FROM", "")):
        problems.append("FROM: no exact version")
    if HOSTS.search(text) or re.search(r"(?i)token|secret|password", text):
        problems.append("names a host, or a secret")
    for name, rest in lines:
        if name == "COPY":
            *sources, _ = shlex.split(rest)
            missing = [s for s in sources if not (ROOT / s).exists() or is_ignored(s, ignore)]
            problems += [f"COPY: there is no {source}" for source in missing]
            here |= set(sources)
        if name == "RUN":
            used = re.findall(r"-r (\S+)", rest)
            problems += [f"RUN: {file} is not copied before" for file in used if file not in here]
            if used and "md4jax" in here:
                problems.append("RUN: installs anew with each change of the code")
    users = [rest for name, rest in lines if name == "USER"]
    if not users or users[-1] in ("root", "0"):
        problems.append("USER: is root")
    if json.loads(dict(lines).get("ENTRYPOINT", "null")) != ["python", "main.py"]:
        problems.append("ENTRYPOINT: is not main.py")
    return problems


def test_the_dockerfile():
    assert docker_problems(text_of("Dockerfile"), text_of(".dockerignore")) == []


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        (r":[\d.]+-slim", ":latest", "FROM: no exact version"),
        ("COPY configs", "ADD configs", "ADD: not known"),
        ("COPY configs", "COPY config", "COPY: there is no config"),
        ("COPY configs", "COPY tests", "COPY: there is no tests"),
        (" requirements_gpu.txt LIC", " LIC", "RUN: requirements_gpu.txt is not copied before"),
        ("-r req", "--index-url=https://a.b -r req", "names a host, or a secret"),
        ("ENV ", "ENV TOKEN=1 ", "names a host, or a secret"),
        (
            "WORKDIR /md4jax",
            "COPY md4jax md4jax",
            "RUN: installs anew with each change of the code",
        ),
        ("USER md4jax", "USER root", "USER: is root"),
        (r'"main.py"\]', '"prepare_data.py"]', "ENTRYPOINT: is not main.py"),
    ],
)
def test_a_dockerfile_that_is_wrong(right, wrong, problem):
    changed, times = re.subn(right, wrong, text_of("Dockerfile"), count=1)
    assert times == 1
    assert docker_problems(changed, text_of(".dockerignore")) == [problem]


# The citation.


def citation_problems(text):
    """Keys that the Citation File Format 1.2.0 requires and that a citation lacks."""
    cited = yaml.safe_load(text)
    problems = [k for k in ("cff-version", "message", "title", "authors") if not cited.get(k)]
    problems += ["cff-version"] * (str(cited.get("cff-version")) != "1.2.0")
    for paper in cited["references"]:
        if not all(paper.get(key) for key in ("type", "title", "authors")):
            problems.append(f"reference {paper.get('title')}")
    for author in [a for x in (cited, *cited["references"]) for a in x.get("authors", [])]:
        if not (author.keys() == {"name"} or author.keys() == {"family-names", "given-names"}):
            problems.append(f"author {author}")
    return problems


def test_the_citation():
    cited = yaml.safe_load(text_of("CITATION.cff"))
    assert citation_problems(text_of("CITATION.cff")) == []
    assert cited["version"] == PROJECT["version"] and cited["license"] == PROJECT["license"]
    assert cited["title"] == PROJECT["name"]


def test_a_citation_that_is_wrong():
    text = text_of("CITATION.cff")
    assert citation_problems(text.replace("title: md4jax", "titel: md4jax")) == ["title"]
    wrong = citation_problems(text.replace("family-names: Austin", "family: Austin"))
    assert wrong == ["author {'family': 'Austin', 'given-names': 'J.'}"]


def test_the_citation_has_the_references():
    """The papers that the documents list as implemented."""
    pages = [ROOT / "docs" / "references.md", ROOT / "README.md"]
    page = next(page for page in pages if page.exists()).read_text()
    listed = set(re.findall(r"\d{4}\.\d{5}", page.partition("\n## References")[2] or page))
    papers = yaml.safe_load(text_of("CITATION.cff"))["references"]
    cited = {p["url"].removeprefix("https://arxiv.org/abs/") for p in papers if "url" in p}
    assert cited == listed
