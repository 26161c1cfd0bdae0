"""Makes the folder with all that a machine with a card lacks, if it has no network and no package registry.

    python -m benchmarks.device prepare [--only wheels csrc triton] [--python 3.12] [--torch 2.11.0] [--triton 3.6.0]

The folder has the wheels of packages that are missing there, the libraries of csrc/, and the kernels that Triton has
compiled with their launchers. All of it serves one version of Python and Triton, so run this by an interpreter of those
versions, on x86-64. `setup.sh` unpacks the folder.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.host import commit

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".device"
CACHE = Path("/tmp/seamless-triton")  # the index files of Triton's cache have absolute paths; setup.sh unpacks it here
ARCH = "sm_90"
_WHEELS = ("soundfile", "soxr", "cffi", "pycparser")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_LIMIT = 60 << 20  # bytes of the folder: 64 MiB may travel, with the repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--only", nargs="+", choices=_MAKE, default=list(_MAKE), help="the rest stays")
    parser.add_argument("--python", default="3.12", help="of the machine with the card, as are the next two")
    parser.add_argument("--torch", default="2.11.0")
    parser.add_argument("--triton", default="3.6.0")


def main(options: argparse.Namespace) -> int:
    refuse_other_versions({"python": options.python, "torch": options.torch, "triton": options.triton})
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    facts_file, start = folder / "prepared.json", time.monotonic()
    facts = json.loads(facts_file.read_text(encoding="utf-8")) if facts_file.exists() else {}
    for name in options.only:
        make, file = _MAKE[name]
        target = folder / file
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        said = make(target)
        print(f"{target}: {said}, {_bytes(target) / 2**20:.1f} MiB, after {time.monotonic() - start:.0f} s", flush=True)
        facts |= {"commit": commit(), **versions()} | ({"csrc": csrc_digest()} if name == "csrc" else {})
        facts_file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"{folder}: {_bytes(folder) / 2**20:.1f} MiB, {facts}")
    return int(_bytes(folder) > _LIMIT)


def _bytes(path: Path) -> int:
    return sum(part.stat().st_size for part in (path, *path.rglob("*")) if part.is_file())


def versions() -> dict[str, str]:
    """Of what runs this, as far as the folder depends on them."""
    packages = {name: importlib.metadata.version(name).partition("+")[0] for name in ("torch", "triton")}
    return {"python": "{}.{}".format(*sys.version_info), **packages}


def refuse_other_versions(wanted: dict[str, str]) -> None:
    """Raises SystemExit if this interpreter has others than `wanted`, or another processor than x86-64."""
    found = versions()
    wrong = [f"{name} {found[name]}, not {wanted[name]}" for name in wanted if found[name] != wanted[name]]
    if platform.machine() != "x86_64":
        wrong.append(f"processor {platform.machine()}, not x86_64")
    if wrong:
        raise SystemExit(
            f"this interpreter, {sys.executable}, has {'; '.join(wrong)}. The libraries and Triton's cache serve one "
            "version: run prepare by an interpreter of the machine's versions, or name others by --python, --torch and "
            "--triton. `python -m benchmarks.device --help` says how to make one."
        )


def csrc_digest() -> str:
    """Changes with every file that the libraries are built from."""
    files = [*(ROOT / "csrc").rglob("*.*"), ROOT / "setup.py", ROOT / "engine/seamless_engine/search/schema.py"]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def fetch_wheels(folder: Path) -> str:
    version = "{}.{}".format(*sys.version_info)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", version, "--implementation", "cp"]
    command += [f"--platform={name}_x86_64" for name in _PLATFORMS]
    subprocess.run([*command, *_WHEELS], check=True)
    return f"{len(list(folder.glob('*.whl')))} wheels"


def build_csrc(folder: Path) -> str:
    """The libraries, and the metadata of our package, which has its version."""
    number = ARCH.removeprefix("sm_")
    environment = os.environ | {"SEAMLESS_BUILD_CUDA": "1", "SEAMLESS_CUDA_ARCHITECTURES": number}
    folder.mkdir()
    with tempfile.TemporaryDirectory() as build:
        command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder.resolve())]
        command += ["build_ext", "--build-lib", build, "--build-temp", build]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        for path in Path(build, "seamless_kernels").glob("*.so"):
            shutil.move(path, folder)
    names = sorted(path.name.partition(".")[0] for path in folder.glob("*.so"))
    if names != ["_csrc", "_csrc_cuda"]:
        raise SystemExit(f"csrc was not built whole: {names}")
    return " and ".join(names)


def fill_cache(archive: Path) -> str:
    """Compile every kernel that the engine launches at v2-large in bfloat16 and at the demo checkpoint, and those of
    the benchmarks."""
    shutil.rmtree(CACHE, ignore_errors=True)
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = str(CACHE)
    sys.path.append(str(ROOT / "tests"))
    import torch
    import triton

    from aot.compile import Driver
    from benchmarks.device.check_demo import CHECKPOINT, OPTIONS
    from benchmarks.device.launches import on_gpu, walk_benchmarks, walk_engine
    from benchmarks.device.measure_load import ENGINE
    from seamless_engine.config import ModelConfig

    kernels: dict[str, Any] = {}
    driver: Any = Driver(ARCH)
    triton.runtime.driver.set_active(driver)
    with on_gpu(ARCH, lambda kernel: kernels.setdefault(kernel.hash, kernel)):
        walk_engine(ModelConfig(), ENGINE, torch.bfloat16)
        for dtype in (torch.float32, torch.bfloat16):
            walk_engine(ModelConfig.from_folder(CHECKPOINT), OPTIONS, dtype)
        for refused in walk_benchmarks(torch.bfloat16):
            print(f"not compiled before: {refused}")
    build_launchers(list(kernels.values()))
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(CACHE, CACHE.name)
    return f"{len(kernels)} kernels"


def build_launchers(kernels: list[Any]) -> None:
    """Compile what Triton compiles by the C compiler at the first launch of a kernel."""
    from triton.backends.nvidia.driver import CudaLauncher, CudaUtils

    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder, "libcuda.so.1")  # the linker asks for it, and nothing is loaded
        subprocess.run(["cc", "-shared", "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null", "-o", stub], check=True)
        with (
            mock.patch.dict(os.environ, TRITON_LIBCUDA_PATH=folder),
            mock.patch("triton.runtime.build._load_module_from_path", mock.MagicMock()),
        ):
            CudaUtils()
            for kernel in kernels:
                CudaLauncher(kernel.src, kernel.metadata)


_MAKE = {
    "wheels": (fetch_wheels, "wheels"),
    "csrc": (build_csrc, "lib"),
    "triton": (fill_cache, "triton.tar.gz"),
}
