"""`vcm fewshot`: does a method learn my task from a few labelled scans?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from vcm.cli.options import Joined
from vcm.fewshot.configuration import Embedding, FewShotStudy, FineTuning


def index(
    source: Annotated[str, "Folder (BIDS or FOMO layout) or table of cases."],
    *,
    out: Annotated[Path, "Table to write."] = Path("cases.tsv"),
    against: Annotated[str | None, "Training cases to compare the scans with."] = None,
) -> None:
    """List cases, sequences, labels and geometry, and what cannot be read."""
    from vcm.errors import VCMError
    from vcm.fewshot.cases.domain import differences, write_index
    from vcm.fewshot.cases.layouts import find_cases

    if out.exists():
        raise VCMError(f"{out} exists: give another name with --out.")
    cases = find_cases(source)
    count, rejected = write_index(cases, out)
    for sentence in rejected:
        print(f"rejected: {sentence}", file=sys.stderr)
    print(f"{len(cases)} cases with {count} readable scans, see {out}.")
    if against is not None:
        train = find_cases(against)
        common = sorted({s for c in train for s in c.images} & {s for c in cases for s in c.images})
        for sequence in common:
            scans = [
                [(c.images[sequence], None) for c in s if sequence in c.images]
                for s in (train, cases)
            ]
            for difference in differences(*scans):
                print(f"domain, {sequence}: {difference}.")
        print(f"Compared with {against}: {', '.join(common) or 'no sequence in common'}.")


def finetune(config: FineTuning) -> None:
    """Fit one method to a few labelled scans."""
    from vcm.fewshot.preflight import check_finetuning

    check_finetuning(config)  # a wrong one is refused before the libraries are loaded
    from vcm.fewshot.fitting import finetune as run

    print(f"Fitted; the model is {run(config)}.")


def predict(
    model: Annotated[Path, "Folder of the fitted model."],
    source: Annotated[str, "Folder or table of cases."],
    *,
    out: Annotated[Path, "Folder for the answers."],
    split: Annotated[str | None, "Cases of this split only."] = None,
) -> None:
    """Answer every case: a number, a label map on the scan's voxels, or an embedding."""
    from vcm.fewshot.batch import predict_cases

    done = predict_cases(model, source, out, split)
    for case, reason in done.fallbacks.items():
        print(f"fallback: {case}: {reason}", file=sys.stderr)
    print(f"{done.cases} cases answered in {out}, {len(done.fallbacks)} with a fallback.")


def evaluate(
    answers: Annotated[Path, "Folder of vcm fewshot predict."],
    *,
    truth: Annotated[str, "Folder or table of cases with their labels."],
    split: Annotated[str | None, "Cases of this split only."] = None,
    label: Annotated[str | None, "Column or label map, if not that of the training."] = None,
) -> None:
    """Measure answers with the challenge's metrics; 95 % intervals over the cases."""
    from vcm.fewshot.batch import evaluate_answers

    found = evaluate_answers(answers, truth, split, label)
    for name, value in found.values.items():
        low, high = found.intervals.get(name, (float("nan"), float("nan")))
        shown = f" [{low:.3f}, {high:.3f}]" if low == low else ""
        print(f"{name} {value:.3f}{shown}")
    print(f"{found.cases} cases, {found.missing} without an answer.")


def study(config: FewShotStudy) -> None:
    """Compare methods at several numbers of shots, over draws of the shots; with a page."""
    from vcm.fewshot.preflight import check_study

    check_study(config)  # a wrong one is refused before the libraries are loaded
    from vcm.fewshot.cases.domain import differences
    from vcm.fewshot.comparison.page import summary, write_page
    from vcm.fewshot.example import with_example
    from vcm.fewshot.study import open_tasks, run_study

    config = with_example(config)
    for task in open_tasks(config):
        for name, test in task.tests.items():
            for difference in differences(task.train.masked_references(), test.masked_references()):
                print(f"domain: {task.name}, {name}: {difference}.", file=sys.stderr)
    page = write_page(run_study(config))
    for line in summary(page.parent):
        print(line)
    print(f"Studied; see {page}.")


def rank(
    folder: Annotated[Path, "Folder of vcm fewshot study."],
    *,
    shots: Annotated[int | None, "Number of shots; default: the most."] = None,
    weights: Annotated[str, "Weights of the tasks: equal or fomo26."] = "equal",
    repeats: Annotated[int, "Bootstraps and permutations."] = 10_000,
) -> None:
    """Rank methods over tasks as the FOMO challenge does, with intervals and tiers."""
    from vcm.fewshot.comparison.leaderboard import rank_study

    board = rank_study(folder, shots, weights, repeats)
    print(f"Ranks at {board.shots} shots (1 is best), 95 % over test cases, share in front:")
    for method in board.ranking.methods:
        low, high = board.ranking.intervals[method]
        overall, first = board.ranking.overall[method], board.ranking.first[method]
        print(f"  {method:<12} {overall:.2f} [{low:.2f}, {high:.2f}]  {100 * first:.0f} %")
    for task, groups in board.tiers.items():
        shown = " > ".join(", ".join(group) for group in groups)
        print(f"{task}: {shown}  (Holm-adjusted permutation tests at 0.05)")


def embed(config: Embedding) -> None:
    """Make an embedding whose numbers are standardised over unlabelled scans."""
    from vcm.errors import VCMError
    from vcm.fewshot.preflight import refuse_fitted
    from vcm.files import check_output, write_whole

    out = Path(config.out)
    refuse_fitted(out)
    if not config.data:
        raise VCMError("No scans are given: give folders of unlabelled scans.")
    check_output(out)
    from vcm.fewshot.fitting import fit_embedding

    model = fit_embedding(config)
    write_whole(out / "model", model.save)
    print(f"An embedding of {len(model.arrays['mean'])} numbers; the model is {out / 'model'}.")


def probe(
    vectors: Annotated[Path, "Folder of embeddings, CASE.npy, as vcm fewshot predict writes them."],
    *,
    labels: Annotated[Path, "Table with a row per case."],
    label: Annotated[str, "Column of the class."],
    case: Annotated[str, "Column of the case."] = "participant_id",
    groups: Annotated[Joined | None, "Columns of groups for fairness, joined by commas."] = None,
) -> None:
    """Read a class out of embeddings by the challenge's linear probe, and compare groups."""
    from vcm.fewshot.comparison.probe_files import probe_folder

    found = probe_folder(vectors, labels, case, label, groups.split(",") if groups else [])
    print(
        f"auroc {found.auroc:.3f}, macro F1 {found.f1:.3f}, learning rate {found.learning_rate:g}"
    )
    for measure, value in found.fairness.items():
        if groups:
            print(f"fairness of {measure} {value:.3f}: {found.groups[measure]}")


def package(
    model: Annotated[Path, "Folder of the fitted model."],
    *,
    contract: Annotated[str, "For instance fomo26:task1."],
    out: Annotated[Path, "New folder for the recipe and its files."],
    cpu: Annotated[bool, "An image without CUDA."] = False,
) -> None:
    """Write the container recipe that the challenge takes."""
    from vcm.fewshot.container.contracts import load_contract
    from vcm.fewshot.container.package import package as write
    from vcm.fewshot.methods.model import FittedModel

    made = write(FittedModel.load(model), load_contract(contract), out, cpu)
    print(f"Packaged in {made}; next: vcm fewshot check {made}")


def check(
    image: Annotated[Path, "Package folder, or a .sif built from it."],
    *,
    contract: Annotated[str | None, "Default: that of the package folder."] = None,
    runtime: Annotated[
        str | None, "apptainer, bubblewrap or process; default: the strictest."
    ] = None,
    quick: Annotated[bool, "Small cases only."] = False,
) -> None:
    """Run a package as the challenge does, on generated cases. Exit code 1: something is wrong."""
    import json

    from vcm.errors import VCMError
    from vcm.fewshot.container.check import check_package
    from vcm.fewshot.container.contracts import load_contract
    from vcm.fewshot.container.sandbox import MissingRuntime, choose_runtime

    kept = image / "app" / "contract.json"
    if contract is None:
        if not kept.is_file():
            raise VCMError(f"{image} does not tell its contract: give one with --contract.")
        contract = str(json.loads(kept.read_text(encoding="utf-8"))["name"])
    try:
        chosen = choose_runtime(runtime, image)
    except MissingRuntime as error:
        print(f"vcm: {error}", file=sys.stderr)
        sys.exit(3)
    report = check_package(image, load_contract(contract), chosen, quick)
    isolated = "nothing is isolated" if chosen == "process" else "no network, read-only root"
    print(f"{contract}, run with {chosen} ({isolated}):")
    for case, seconds in report.seconds.items():
        print(f"  {case}: {seconds:.1f} s, {report.cpu_seconds[case]:.1f} CPU s")
    for complaint in report.complaints:
        print(f"  {complaint.case}: {complaint.sentence}", file=sys.stderr)
    if not report.passed:
        sys.exit(1)
    print("Everything that was checked is right. The GPU was not.")
