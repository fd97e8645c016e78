"""The package as it travels: the wheel holds every file, and runs where nothing else of it is.

It is installed and run as containers/Dockerfile says: its line of pip, its environment, a user who is not root,
a root that can only be read, no network. The libraries that it needs are those of the tests.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8")
BWRAP = shutil.which("bwrap")
ISOLATED = ["bwrap", "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev"]


def works() -> bool:
    tried = [*ISOLATED[:2], "--ro-bind", "/", "/", "true"]
    return BWRAP is not None and subprocess.run(tried, check=False).returncode == 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "-q", "-w", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        pytest.skip(f"no wheel can be built here, as hatchling cannot be fetched: {reason}")
    return next(folder.glob("vcm-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel):
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = set()
    for folder, place in (
        ("vcm", "vcm"), ("weights", "vcm/_embedded/weights"), ("configs", "vcm/_embedded/configs"),
    ):  # fmt: skip
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(f"{place}/{path.relative_to(ROOT / folder).as_posix()}")
    assert {"vcm/report/assets/niivue.umd.js.gz", "vcm/imaging/vocabularies/vcm8.yaml"} <= expected
    assert any(n.endswith("brain1mm/detail/diffusion_pytorch_model.safetensors") for n in expected)
    assert inside == expected


def step(word: str) -> str:
    """What the Dockerfile says after a word, its lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return next(m[1] for m in re.finditer(rf"^{word} (.*)$", joined, re.MULTILINE))


def isolated(data: Path, environment: Path, wheel: Path, uid: int, writes: bool) -> list[str]:
    """A root of system folders and Python, with the folder /data; pip may write to the environment."""
    binds: list[str] = []
    for folder in ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt"):
        if Path(folder).is_symlink():
            binds += ["--symlink", os.readlink(folder), folder]
        elif Path(folder).is_dir():
            binds += ["--ro-bind", folder, folder]
    prefixes = dict.fromkeys((sys.base_prefix, sys.prefix))
    for prefix in prefixes:
        if not prefix.startswith("/usr"):
            binds += ["--ro-bind", prefix, prefix]
    binds += ["--bind" if writes else "--ro-bind", str(environment), str(environment)]
    return [
        *ISOLATED, "--tmpfs", "/tmp", *binds, "--ro-bind", str(wheel), f"/tmp/{wheel.name}",
        "--bind", str(data), "/data", "--uid", str(uid), "--gid", str(uid), "--remount-ro", "/",
        "--chdir", step("WORKDIR"), "--clearenv", "--setenv", "PATH", f"{environment}/bin:/usr/bin:/bin",
        "--setenv", "OMP_NUM_THREADS", "1",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(
    not works(), reason="bubblewrap does not work here (apt-get install bubblewrap)"
)
def test_the_steps_of_the_dockerfile_in_an_isolated_root(wheel, tmp_path):
    environment, data = tmp_path / "environment", tmp_path / "data"
    data.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    (place,) = environment.glob("lib/python*/site-packages")

    install = step("RUN").partition("&&")[0].replace("${TORCH_OPTIONS}", "--no-index --no-deps")
    as_root = isolated(data, environment, wheel, 0, writes=True)
    subprocess.run([*as_root, "sh", "-c", install], check=True, timeout=300)
    # The libraries, but nothing of vcm: what was installed beside them comes first.
    (place / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    variables = dict(pair.split("=", 1) for pair in shlex.split(step("ENV")))
    settings = [word for pair in variables.items() for word in ("--setenv", *pair)]
    as_user = [*isolated(data, environment, wheel, 1000, writes=False), *settings]
    command = json.loads(step("ENTRYPOINT"))

    def run(*words: str) -> str:
        done = subprocess.run(
            [*as_user, *words], capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert step("USER") == "vcm" and run("id", "-u").strip() == "1000"
    assert run("python", "-c", "import vcm; print(vcm.__file__)").startswith(str(place))
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), 2)"
    assert subprocess.run([*as_user, "python", "-c", reach], capture_output=True).returncode != 0
    assert "synthesize" in run(*command, *json.loads(step("CMD")))
    run(*command, "synthesize", "example", "--steps", "1", "--out", "/data/synthetic")
    made = {path.suffix for path in (data / "synthetic").iterdir()}
    assert {".gz", ".json", ".png", ".html"} <= made
