"""Write the container recipe of a fitted model: all files that the image needs, and how to build it.

Knows the contract and which modules answer a case; nothing of fitting. The image holds the few
modules of vcm that prediction imports, found by following their imports, so that neither diffusers
nor MONAI is loaded there.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.container.contracts import Contract
from vcm.fewshot.methods.model import FittedModel
from vcm.files import write_json, write_whole

_PACKAGE = Path(__file__).parents[2]
#: Where following the imports begins.
_ENTRY = "vcm.fewshot.container.predict"
#: What the image installs beside torch, in the versions at hand.
_REQUIREMENTS = ("numpy", "scipy", "nibabel", "safetensors")
GPU_BASE = "pytorch/pytorch:2.11.0-cuda12.6-cudnn9-runtime"
CPU_BASE = "python:3.11-slim"
_CPU_TORCH = "torch=={} --index-url https://download.pytorch.org/whl/cpu"

#: The root is read-only and the caller's home is mounted: caches go to /tmp, packages of the caller's
#: are not seen.
ENVIRONMENT = {
    "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp", "LC_ALL": "C.UTF-8",
    "HF_HOME": "/tmp", "TORCH_HOME": "/tmp", "MPLCONFIGDIR": "/tmp", "XDG_CACHE_HOME": "/tmp",
    "NUMBA_CACHE_DIR": "/tmp",
}  # fmt: skip

_PREDICT = '''"""Answer one case; see contract.json for the arguments."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from vcm.fewshot.container.predict import main

sys.exit(main(Path(__file__).parent))
'''


def package(model: FittedModel, contract: Contract, out: Path, cpu: bool = False) -> Path:
    """Write Apptainer.def, Dockerfile, README.md and app/ to a new folder.

    A VCMWarning says which class the answer is of, where the model has other names for its classes than the contract.

    Args:
        model: as `finetune` or `embed` fitted it.
        contract: what the container must answer.
        out: folder to write; it must not exist.
        cpu: an image without CUDA.

    Raises:
        VCMError: the model does not answer what the contract asks, or `out` exists.
    """
    refuse_mismatch(model, contract)
    if out.exists():
        raise VCMError(f"{out} exists: give a new folder, so that nothing of yours is overwritten.")
    _warn_of_other_classes(model, contract)
    write_whole(out, lambda part: _write(part, model, contract, out.name, cpu))
    return out


def _write(part: Path, model: FittedModel, contract: Contract, name: str, cpu: bool) -> None:
    app = part / "app"
    app.mkdir(parents=True)
    (app / "predict.py").write_text(_PREDICT, encoding="utf-8")
    for module in prediction_modules():
        target = app / module.relative_to(_PACKAGE.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(module.read_bytes())
    model.save(app / "model")
    write_json(app / "contract.json", contract.as_dict())
    pins = [f"{name}=={version(name)}" for name in _REQUIREMENTS]
    (app / "requirements.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    base = CPU_BASE if cpu else GPU_BASE
    install = ["pip install --no-cache-dir -r /app/requirements.txt"]
    if cpu:
        torch = _CPU_TORCH.format(version("torch").split("+")[0])
        install.insert(0, f"pip install --no-cache-dir {torch}")
    (part / "Apptainer.def").write_text(_apptainer(base, install), encoding="utf-8")
    (part / "Dockerfile").write_text(_dockerfile(base, install), encoding="utf-8")
    (part / "README.md").write_text(_readme(model, contract, name), encoding="utf-8")


def refuse_mismatch(model: FittedModel, contract: Contract) -> None:
    """Raise VCMError where a model does not answer what a contract asks."""
    if model.task.kind != contract.task.kind:
        raise VCMError(
            f"The model answers a {model.task.kind} and {contract.name} asks for a "
            f"{contract.task.kind}: choose another contract, or fit another model."
        )
    if "frozen" in model.settings:
        raise VCMError(
            f"The method '{model.method}' looks through {model.settings['frozen']['model']}, which needs "
            "libraries that the container does not hold: package another method."
        )
    for options in model.task.inputs:
        if not set(options) & set(contract.arguments):
            raise VCMError(
                f"The model reads {' or '.join(options)}, which {contract.name} does not give (it gives "
                f"{', '.join(contract.arguments)}): fit a model of these sequences."
            )
        for choice in contract.task.inputs:
            unread = [s for s in choice if s not in options]
            if set(options) & set(choice) and unread and options[0] not in model.task.optional:
                raise VCMError(
                    f"The model reads {' or '.join(options)}, where a case of {contract.name} may have "
                    f"{' or '.join(unread)} instead: write {{one_of: [{', '.join(choice)}]}} in the task, and fit again."
                )
    if model.record.get("mask"):
        raise VCMError(
            f"The scans of the model were masked by '{model.record['mask']}', and a container gets no mask: fit it "
            "without mask, on scans such as the container gets."
        )
    count = len(model.task.classes)
    if contract.labels and count != contract.labels:
        raise VCMError(
            f"The model has {count} classes and {contract.name} {contract.labels}: fit it with those."
        )
    if contract.task.kind == "classification" and count != 2:
        raise VCMError(f"The model has {count} classes, but {contract.name} asks for two.")
    asked, here = contract.task.classes, model.task.classes
    if here != asked and sorted(here) == sorted(asked):
        raise VCMError(
            f"The classes of the model are {', '.join(here)} and those of {contract.name} {', '.join(asked)}, and an "
            "answer tells them by their order: name them in that order in the task, and fit again."
        )


def _warn_of_other_classes(model: FittedModel, contract: Contract) -> None:
    """Names cannot be compared, so the user is told what the order of the classes makes of them."""
    asked, here = contract.task.classes, model.task.classes
    if here != asked and len(here) > 1:
        warnings.warn(
            f"{contract.name} has the classes {', '.join(asked)} and the model {', '.join(here)}. {_meaning(model)} "
            "Where they mean the same in another order, name them in that of the contract, and fit again.",
            VCMWarning,
            stacklevel=3,
        )


def _meaning(model: FittedModel) -> str:
    """What an answer says in the model's names of the classes, a sentence; "" where it has none."""
    classes = model.task.classes
    if model.task.kind == "classification":
        return f"The number is the probability of '{classes[1]}'."
    labels = ", ".join(f"{label} is {name}" for label, name in enumerate(classes, start=1))
    return f"In the map {labels}." if classes else ""


def prediction_modules() -> list[Path]:
    """Files of vcm that answering a case imports, by following the imports in their sources."""
    todo, found = [_ENTRY], dict[Path, None]()
    while todo:
        name = todo.pop()
        parts = name.split(".")
        files = [_file_of(parts[:n]) for n in range(1, len(parts) + 1)]
        for file in files:
            if file is not None and file not in found:
                found[file] = None
                if file != _PACKAGE / "__init__.py":
                    todo += _imports(file)
    return sorted(found)


def _file_of(parts: list[str]) -> Path | None:
    base = _PACKAGE.parent.joinpath(*parts)
    for file in (base / "__init__.py", base.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vcm":
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _apptainer(base: str, install: list[str]) -> str:
    environment = "\n".join(f"    export {k}={v}" for k, v in ENVIRONMENT.items())
    steps = "\n".join(f"    {line}" for line in install)
    return (
        f"Bootstrap: docker\nFrom: {base}\n\n%files\n    app /app\n\n%post\n"
        f"    mkdir -p /input /output\n{steps}\n\n%environment\n{environment}\n"
    )


def _dockerfile(base: str, install: list[str]) -> str:
    environment = "\n".join(f"ENV {k}={v}" for k, v in ENVIRONMENT.items())
    steps = "\n".join(f"RUN {line}" for line in install)
    return (
        f"FROM {base}\nCOPY app /app\nRUN mkdir -p /input /output\n{steps}\n{environment}\n"
    )  # fmt: skip


def _readme(model: FittedModel, contract: Contract, name: str) -> str:
    arguments = " ".join(f"{a} /input/{s}.nii.gz" for s, a in contract.arguments.items())
    meaning = _meaning(model)
    record = json.dumps(model.record, indent=2) if model.record else "{}"
    return f"""# {contract.name}: {contract.title}

Method `{model.method}`. {meaning + " " if meaning else ""}What it was fitted on, and what its parents saw:

```json
{record}
```

Build, check and call:

    apptainer build {name}.sif Apptainer.def
    vcm fewshot check {name}
    apptainer exec --bind IN:/input:ro --bind OUT:/output {name}.sif \\
        python /app/predict.py {arguments} --output /output/case{contract.suffix}

Where a contract offers one of several sequences, give the one that there is. A scan that cannot be
read is answered without looking, with a line on stderr; `--strict` refuses it.
"""
