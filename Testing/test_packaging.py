"""What Slicer's build system and extension index get: complete, and running from where it is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "PALNetLandmarks"
STUB = Path(__file__).parent / "cmake"
INSTALLED = Path("lib/Slicer-5.12/qt-scripted-modules")


def cmake() -> str:
    """The program; the package of that name from PyPI brings it."""
    beside = Path(sys.executable).with_name("cmake")
    found = str(beside) if beside.exists() else shutil.which("cmake")
    if found is None:
        pytest.skip("cmake is not installed (pip install cmake)")
    return found


def install(source: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Configure with the stub of Slicer and install; stops at what fails first."""
    generator = ["-G", "Ninja"] if shutil.which("ninja") and not shutil.which("make") else []
    steps = (
        [cmake(), "-S", str(source), "-B", str(folder / "build"), f"-DSlicer_DIR={STUB}", *generator],
        [cmake(), "--install", str(folder / "build"), "--prefix", str(folder / "installed")],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            break
    return done


def own_files() -> set[str]:
    """The module's files in the repository (or, without git, on disk), relative to its folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=MODULE,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        files = {name for name in listed.stdout.splitlines() if (MODULE / name).exists()}
    else:
        files = {path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*") if path.is_file()}
        files = {name for name in files if "__pycache__" not in name}
    return files - {"CMakeLists.txt"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension, configured and installed."""
    folder = tmp_path_factory.mktemp("extension")
    done = install(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "installed" / INSTALLED


def test_every_file_of_the_module_is_installed_and_no_other(tree: Path) -> None:
    installed = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    assert installed == own_files()


def test_a_listed_file_that_does_not_exist_is_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "training", "__pycache__"))
    (copy / "PALNetLandmarks" / "PALNetLandmarksLib" / "stepwise.py").unlink()
    done = install(copy, tmp_path)
    assert done.returncode != 0
    assert "stepwise.py" in done.stderr


def test_the_self_test_is_registered(tree: Path) -> None:
    build = tree.parents[2].parent / "build"
    assert "py_PALNetLandmarks" in (build / "PALNetLandmarks" / "CTestTestfile.cmake").read_text(encoding="utf-8")


def test_detection_runs_from_the_installed_tree(tree: Path) -> None:
    script = """
import sys
sys.path[:] = [path for path in sys.path if "PALNetLandmarks" not in path and path]
sys.path.insert(0, sys.argv[1])
import PALNetLandmarksLib
assert PALNetLandmarksLib.__file__.startswith(sys.argv[1]), PALNetLandmarksLib.__file__
from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.resources import resource_path
detection = LandmarkDetector.load(device="cpu").detect(resource_path("SampleScan.ply"))
print(len(detection.labels), int((~detection.missing).sum()))
print(*(name for name in ("torch", "PySide6", "rich", "typer", "PIL", "matplotlib") if name in sys.modules))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tree)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tree,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    counts, loaded = done.stdout.split("\n")[:2]
    total, there = map(int, counts.split())
    assert total == 50
    assert there >= 45
    assert loaded == ""  # what Slicer does not ship


def test_nothing_in_the_module_folder_takes_a_name_that_all_modules_share() -> None:
    names = {name.split("/")[0].split(".")[0].lower() for name in own_files()}
    assert not names & {"testing", "test", "tests", "utils", "lib", "logic", "widget"}


def test_modules_import_at_file_scope_only_what_slicer_has() -> None:
    import ast

    if sys.version_info < (3, 10):
        pytest.skip("Python 3.9 cannot list its standard library")
    allowed = {
        *sys.stdlib_module_names,
        *("numpy", "scipy", "vtk", "vtkmodules", "qt", "ctk", "slicer", "SampleData"),
        *("PALNetLandmarksLib", "PALNetLandmarksMRML", "PALNetLandmarksWidgets"),
    }
    command_line_only = {
        "PALNetLandmarksLib/command_line.py": {"typer", "rich"},
        "PALNetLandmarksLib/picture.py": {"PIL"},
    }
    torch_only = {"PALNetLandmarksLib/palnet_torch.py", "PALNetLandmarksLib/height_map_net_torch.py"}
    foreign = {}
    for name in sorted(own_files()):
        if not name.endswith(".py"):
            continue
        imported: set[str] = set()
        for node in ast.parse((MODULE / name).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split(".")[0])
        more = imported - allowed - command_line_only.get(name, set()) - ({"torch"} if name in torch_only else set())
        if more:
            foreign[name] = more
    assert not foreign


def test_the_index_entry_has_what_the_schema_asks_for() -> None:
    entry = json.loads((ROOT / "Resources" / "ExtensionsIndex" / "PALNetLandmarks.json").read_text(encoding="utf-8"))
    # slicer-extension-catalog-entry-schema-v1.0.2: these keys, no others, and these kinds.
    kinds = {
        "$schema": str,
        "category": str,
        "scm_url": str,
        "scm_revision": str,
        "build_dependencies": list,
        "build_subdirectory": str,
        "tier": int,
    }
    assert {key: type(value) for key, value in entry.items()} == kinds
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert 1 <= entry["tier"] <= 5
    listing = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    facts = dict(re.findall(r'set\(EXTENSION_(\w+) "([^"]*)"\)', listing))
    assert entry["category"] == facts["CATEGORY"] == "Craniofacial"
    assert entry["scm_url"] == facts["HOMEPAGE"] + ".git"
    for url in [facts["ICONURL"], *facts["SCREENSHOTURLS"].split()]:
        assert url.startswith(facts["HOMEPAGE"].replace("github.com", "raw.githubusercontent.com"))
        assert (ROOT / url.split("/main/")[1]).exists(), url


@pytest.mark.parametrize(
    "path", ["Resources/PALNetLandmarks.png", "PALNetLandmarks/Resources/Icons/PALNetLandmarks.png"]
)
def test_the_icon_is_a_128_pixel_png(path: str) -> None:
    content = (ROOT / path).read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == (128, 128)
    assert len(content) < 30_000


def test_the_workflow_runs_the_self_test_on_three_systems() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "slicer.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["slicer"]
    systems = {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "windows", "macos"}
    installs = {step["if"].split("'")[1] for step in job["steps"] if step.get("name", "").startswith("Install Slicer")}
    assert installs == {"Linux", "Windows", "macOS"}
    assert "runUnitTest(['PALNetLandmarks'], 'PALNetLandmarks')" in job["steps"][-1]["run"]


def test_a_checkout_with_its_history_is_under_100_mb() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    # What a clone fetches: a checkout's own packs may hold objects twice, or such as no commit reaches.
    count = ["git", "rev-list", "--disk-usage", "--objects", "HEAD"]
    said = subprocess.run(count, cwd=ROOT, capture_output=True, text=True, check=False)
    if said.returncode:
        pytest.skip("git is older than 2.31 and does not tell")
    history = int(said.stdout)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = sum((ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).exists())
    assert history + files < 100e6
