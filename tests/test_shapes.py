"""Shapes of tensors are written in annotations, compared while tests run, and cost a user nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from shape_checks import CHECKED

from vcm.diffusion.sampling import make_scheduler, sample
from vcm.nets.patches import from_patches, to_patches
from vcm.nets.segmenter import TissueSegmenter
from vcm.nets.slice_denoiser import add_noise

PACKAGE = Path(__file__).parents[1] / "vcm"
#: Where no shape is stated, because the function itself refuses others in a sentence.
REFUSED_IN_WORDS = {
    "check_rows",
    "class_inputs",
    "decode_in_slabs",
    "encode",
    "_check",
}


def test_a_shape_that_disagrees_with_another_is_caught():
    x, t = torch.rand(2, 1, 4, 4), torch.rand(2)
    assert add_noise(x, x, t).shape == x.shape
    with pytest.raises(TypeCheckError, match="'noise'"):
        add_noise(x, x[:1], t)  # would broadcast in silence
    with pytest.raises(TypeCheckError, match="'t'"):
        add_noise(x, x, (1000 * t).long())


def test_a_result_of_another_shape_is_caught(monkeypatch):
    network = TissueSegmenter((4, 8), 2)
    image = torch.rand(1, 1, 8, 8, 8)
    assert network(image).shape == (1, 9, 8, 8, 8)
    monkeypatch.setattr(network.out, "forward", lambda h: h[..., 1:])
    with pytest.raises(TypeCheckError, match="return value"):
        network(image)


def test_shapes_that_depend_on_a_number_are_computed():
    folded = to_patches(torch.rand(1, 2, 4, 6, 8), 2)
    assert from_patches(folded, 2).shape == (1, 2, 4, 6, 8)
    with pytest.raises(TypeCheckError):
        from_patches(folded[0], 2)


def test_the_sampler_is_checked_too():
    with pytest.raises(TypeCheckError, match="'noise'"):
        sample(lambda z, t: z, torch.rand(4, 4, 4), make_scheduler("ddim"), 1)


def functions(module: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef))


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    rooms = [PACKAGE.parent / name.replace(".", "/") for name in CHECKED]
    paths = [
        p
        for room in rooms
        for p in (room.rglob("*.py") if room.is_dir() else [room.with_suffix(".py")])
    ]
    assert len(paths) > 25
    return {str(p.relative_to(PACKAGE)): ast.parse(p.read_text(encoding="utf-8")) for p in paths}


def bare(function: ast.FunctionDef) -> bool:
    """Whether a tensor without a shape is among the arguments or is returned."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    hints = [a.annotation for a in arguments] + [function.returns]
    return any(
        isinstance(node, ast.Name) and node.id == "Tensor"
        for hint in hints if hint is not None
        for node in outside_subscripts(hint)
    )  # fmt: skip


def outside_subscripts(hint: ast.AST) -> Iterator[ast.AST]:
    """Nodes of an annotation, without those in Float[...] and its kind, and in Callable[...]."""
    if isinstance(hint, ast.Subscript):
        shaped = ast.unparse(hint.slice).startswith("(Tensor, ")
        if shaped or ast.unparse(hint.value) == "Callable":
            return
    yield hint
    for child in ast.iter_child_nodes(hint):
        yield from outside_subscripts(child)


def test_every_public_function_states_its_shapes(modules):
    found = {
        f"{path}: {f.name}"
        for path, module in modules.items()
        for f in functions(module)
        if not f.name.startswith("_") and f.name not in REFUSED_IN_WORDS and bare(f)
    }
    assert found == set()


def test_a_function_without_shapes_would_be_found():
    for line in (
        "def f(x: Tensor): ...",
        "def f() -> list[Tensor]: ...",
        "def f(x: Tensor | None): ...",
    ):
        assert bare(ast.parse(line).body[0])
    assert not bare(ast.parse("def f(x: Float[Tensor, 'B'] | None, y: int): ...").body[0])


def test_users_import_no_type_checker(modules):
    """jaxtyping is imported for type checkers alone, at the top of each file."""
    for path, module in modules.items():
        for node in module.body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            assert "jaxtyping" not in ast.unparse(node), path
