"""Build: the packages in engine/ and kernels/, and the native extensions of csrc/. Metadata is in pyproject.toml.

`seamless_kernels._csrc`, CPU kernels, is built where a C++ compiler with OpenMP works; `seamless_kernels._csrc_cuda`
where nvcc is found, with or without a GPU. SEAMLESS_BUILD_CUDA=0 forbids the latter, 1 makes its failure an error;
SEAMLESS_CUDA_ARCHITECTURES, numbers with spaces, builds it for fewer GPUs. What was not built, torch does.
"""

import os
import runpy
import shutil
import subprocess
import sysconfig
from glob import glob
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from setuptools.modified import newer_group

CUDA = {"0": False, "1": True}.get(os.environ.get("SEAMLESS_BUILD_CUDA", ""))  # None: where nvcc is found
ARCHITECTURES = os.environ.get("SEAMLESS_CUDA_ARCHITECTURES", "80 86 89 90").split()
ROOTS = {"seamless_engine": "engine", "seamless_kernels": "kernels"}
CUDA_SOURCES = sorted([*glob("csrc/**/*_cuda.cpp", recursive=True), *glob("csrc/**/*.cu", recursive=True)])
CPU_SOURCES = sorted(set(glob("csrc/**/*.cpp", recursive=True)) - set(CUDA_SOURCES))
SCHEMA, SCHEMA_HEADER = "engine/seamless_engine/search/schema.py", Path("build/include/search_schema.h")
HEADERS = [*glob("csrc/**/*.h", recursive=True), str(SCHEMA_HEADER)]
INCLUDE = ["csrc", str(SCHEMA_HEADER.parent), pybind11.get_include(), sysconfig.get_path("include")]


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return (home and shutil.which("nvcc", path=os.path.join(home, "bin"))) or shutil.which("nvcc")


def write_schema() -> None:
    """The layout of the search's state for C++. Written only when it changes: then all is compiled again."""
    text = runpy.run_path(SCHEMA)["cpp_header"]()
    if not SCHEMA_HEADER.exists() or SCHEMA_HEADER.read_text(encoding="utf-8") != text:
        SCHEMA_HEADER.parent.mkdir(parents=True, exist_ok=True)
        SCHEMA_HEADER.write_text(text, encoding="utf-8")


class Build(build_ext):
    def run(self) -> None:
        write_schema()
        super().run()

    def build_extension(self, ext: Extension) -> None:
        name = ext.name.rpartition(".")[2]
        try:
            if ext.sources == CUDA_SOURCES:
                self._run_nvcc(ext)
            else:
                super().build_extension(ext)
        except Exception as error:
            if not ext.optional:
                raise
            for stale in (self.get_ext_fullpath(ext.name), *glob(f"kernels/seamless_kernels/{name}.*.so")):
                if os.path.exists(stale):
                    os.remove(stale)
            self.warn(f"{name} was NOT built: torch does its work, more slowly. The reason: {error}")
        else:
            self.announce(f"{name} was built", level=2)

    def _run_nvcc(self, ext: Extension) -> None:
        """One library with code for every architecture and, for later ones, PTX of the last. cudart is linked in."""
        compiler = nvcc()
        if compiler is None:
            raise CompileError("SEAMLESS_BUILD_CUDA=1, but there is no nvcc on the path or in CUDA_HOME/bin")
        output = self.get_ext_fullpath(ext.name)
        if not self.force and not newer_group([*ext.sources, *ext.depends], output):
            return
        os.makedirs(os.path.dirname(output), exist_ok=True)
        targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in ARCHITECTURES]
        targets.append("-gencode=arch=compute_{0},code=compute_{0}".format(ARCHITECTURES[-1]))
        flags = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-cudart=static", "--threads=0"]
        flags.append(f'-DTARGETS="{" ".join(f"sm_{sm}" for sm in ARCHITECTURES)} compute_{ARCHITECTURES[-1]}"')
        include = [f"-I{path}" for path in INCLUDE]
        if CUDA is None:
            self.warn(f"{compiler} was found: it compiles {ext.name}; SEAMLESS_BUILD_CUDA=0 leaves that out")
        command = [compiler, "-shared", *flags, *targets, *include, *ext.sources, "-o", output]
        self.announce(" ".join(command), level=2)
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(f"nvcc failed: {error}") from error


extensions = [
    Extension(
        "seamless_kernels._csrc",
        CPU_SOURCES,
        depends=HEADERS,
        include_dirs=INCLUDE,
        extra_compile_args="-std=c++17 -O3 -g0 -fvisibility=hidden -fopenmp -Wall -Wextra -Wno-psabi".split(),
        extra_link_args=["-fopenmp"],
        language="c++",
        optional=True,
    )
]
if CUDA or (CUDA is None and nvcc()):
    extensions.append(
        Extension(
            "seamless_kernels._csrc_cuda",
            CUDA_SOURCES,
            depends=HEADERS,
            language="c++",
            optional=not CUDA,
        )
    )

# engine/ and kernels/ are source roots and no packages: a top-level package called `kernels` breaks transformers and
# overwrites Hugging Face's of that name.
setup(
    package_dir={package: f"{root}/{package}" for package, root in ROOTS.items()},
    packages=[package for root in ROOTS.values() for package in find_packages(root)],
    package_data={"seamless_engine": ["py.typed"], "seamless_kernels": ["py.typed", "configs.json"]},
    ext_modules=extensions,
    cmdclass={"build_ext": Build},
)
