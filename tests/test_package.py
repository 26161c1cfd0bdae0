"""What is installed, under which names, and who may import whom."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import seamless_engine
from seamless_engine import environment

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {name: ROOT / root / name for name, root in (("seamless_engine", "engine"), ("seamless_kernels", "kernels"))}
SOURCES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]
SCRIPTS = [
    path for folder in ("tests", "benchmarks", "tools", "demo") for path in sorted((ROOT / folder).rglob("*.py"))
]

# A module imports from its own layer or one below. BOTTOM has what is not listed here: what is asked and answered, the
# inputs, the networks, and files.
LAYERS = {
    "seamless_kernels": 0,
    "seamless_engine.search": 2,
    "seamless_engine.scheduler": 2,
    "seamless_engine.synthesizer": 2,
    "seamless_engine.cuda_graphs": 2,
    "seamless_engine.memory": 2,
    "seamless_engine.model_runner": 3,
    "seamless_engine.forward": 3,
    "seamless_engine.core": 4,
    "seamless_engine.intake": 5,
    "seamless_engine.engine_thread": 5,
    "seamless_engine.calls": 5,
    "seamless_engine.engine": 6,
    "seamless_engine.async_engine": 6,
    "seamless_engine": 6,  # `from seamless_engine import Engine`
    "seamless_engine.cli": 7,
    "seamless_engine.cli_jobs": 7,
    "seamless_engine.cli_job_parser": 7,
    "seamless_engine.cli_options": 7,
    "seamless_engine.cli_parser": 7,
    "seamless_engine.__main__": 7,
    "seamless_engine.environment": 7,
    "seamless_engine.selftest": 7,
    "seamless_engine.hf": 7,
    "seamless_engine.jobs": 7,
}
BOTTOM = 1
POLICY = {"block_manager.py", "scheduler.py"}
# Jobs are a caller like any other: they use what is public, and the files that the command line writes.
JOBS_USE = re.compile(r"seamless_engine(\.(Engine|errors|config|request|audio_output|jobs)(\..*)?)?")


def module_name(path: Path) -> str:
    for package, folder in PACKAGES.items():
        if path.is_relative_to(folder):
            parts = path.relative_to(folder).with_suffix("").parts
            return ".".join((package, *parts)).removesuffix(".__init__")
    raise ValueError(path)


def layer(module: str) -> int:
    if module in LAYERS:
        return LAYERS[module]
    for name in ("seamless_kernels", "seamless_engine.search", "seamless_engine.hf", "seamless_engine.jobs"):
        if module.startswith(f"{name}."):
            return LAYERS[name]
    return BOTTOM


def is_ours(name: str) -> bool:
    """Whether this is the full name of a module of the two packages."""
    package, *parts = name.split(".")
    if package not in PACKAGES:
        return False
    target = PACKAGES[package].joinpath(*parts)
    return target.is_dir() or target.with_suffix(".py").is_file()


def imported(path: Path) -> Iterator[str]:
    """Full names that a file imports, at its top or inside functions: `a` and `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names
            if not all(map(is_ours, names)):
                yield node.module or ""


def python(code: str, cwd: Path, **env: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("path", SOURCES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_the_source_roots(path: Path):
    assert not {name.partition(".")[0] for name in imported(path)} & {"engine", "kernels"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_down(path: Path):
    own = module_name(path)
    for name in imported(path):
        if is_ours(name):
            assert layer(name) <= layer(own), f"{own} imports {name}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent.name == "jobs"], ids=module_name)
def test_jobs_use_the_public_api_alone(path: Path):
    assert [name for name in imported(path) if name.startswith("seamless_") and not JOBS_USE.fullmatch(name)] == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name in POLICY], ids=module_name)
def test_scheduling_policy_imports_no_torch(path: Path):
    assert not {name.partition(".")[0] for name in imported(path)} & {"torch", "triton"}


def test_third_party_imports_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    requirements = project["dependencies"] + optional["cuda"] + optional["media"]
    requirements += optional["parquet"] + optional["demo"]
    declared = {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}
    used = {name.partition(".")[0] for path in SOURCES for name in imported(path)}
    assert used - set(sys.stdlib_module_names) - set(PACKAGES) <= declared


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_package_never_runs_code_from_data(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"eval", "exec", "torch.load"}, f"{path}:{node.lineno}"
    modules = {name.partition(".")[0] for name in imported(path)}
    assert not modules & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert seamless_engine.__version__ == project["version"]


def test_every_public_name_is_there():
    assert {*seamless_engine.__all__, "__version__"} <= set(dir(seamless_engine))
    assert all(getattr(seamless_engine, name).__name__ == name for name in seamless_engine.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Engines'"):
        seamless_engine.__getattr__("Engines")


@pytest.mark.parametrize("root", ["engine", "kernels"])
def test_source_root_is_not_a_package(root: str):
    assert not (ROOT / root / "__init__.py").exists()


def test_installation_provides_only_our_import_names(tmp_path: Path):
    for folder in ("engine", "kernels", "csrc", "tests", "benchmarks", "tools", "demo"):
        code = f"import importlib.util as u; s = u.find_spec({folder!r}); print(s and s.submodule_search_locations)"
        assert f"'{ROOT / folder}'" not in python(code, tmp_path)
    python("import seamless_engine, seamless_kernels.linear", tmp_path)


def test_transformers_works_with_the_repository_as_working_directory():
    assert python("from transformers import SeamlessM4Tv2Model; print(SeamlessM4Tv2Model.__name__)", ROOT)


def test_another_package_called_kernels_wins_over_the_folder(tmp_path: Path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("owner = 'another project'\n")
    code = "import seamless_kernels.linear, kernels; print(kernels.owner)"
    assert python(code, ROOT, PYTHONPATH=str(tmp_path)) == "another project"


def test_sdist_has_what_the_tests_read_and_builds_a_wheel_without_a_compiler(tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, copy)
    not_sources = shutil.ignore_patterns("__pycache__", "*.so", "output", "_build", "*.egg-info")
    for name in ("engine", "kernels", "csrc", "tests", "benchmarks", "tools", "demo", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=not_sources)
    sources = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    build = "from setuptools import build_meta; print(build_meta.build_sdist('.'))"
    sdist = copy / python(build, copy).splitlines()[-1]
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--verbose",
        "-w",
        str(tmp_path),
        str(sdist),
    ]
    no_compiler = os.environ | {"CC": "false", "CXX": "false", "SEAMLESS_BUILD_CUDA": "0"}
    done = subprocess.run(command, env=no_compiler, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_csrc was NOT built: torch does its work" in done.stdout + done.stderr
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert sources <= packed

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (info,) = {name.partition("/")[0] for name in files if ".dist-info/" in name}
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert {name.partition("/")[0] for name in files} == {*PACKAGES, info}
    for package, folder in PACKAGES.items():
        ours = {path for path in folder.rglob("*") if path.suffix in (".py", ".json", ".typed")}
        assert {f"{package}/{path.relative_to(folder).as_posix()}" for path in ours} <= files
    assert not {name for name in files if name.endswith((".so", ".cpp", ".cu", ".h"))}
    assert "seamless-engine = seamless_engine.__main__:main" in entry_points
    assert f"{info}/licenses/LICENSE" in files


def test_env_prints_the_version_of_every_package_that_this_one_uses():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["cuda"], *extras["media"], *extras["vad"], *extras["parquet"]]
    required = [re.split(r"[^\w-]", line)[0] for line in lines]
    assert {*environment.PACKAGES} == {*required, "transformers"}
