"""Simulated cohorts on disk.

    python -m training.cohort lafas-sim --model ../shared/face-model --output /data/lafas-sim
    python -m training.cohort pool --split train --subjects 3000 --model ../shared/face-model --output /data/pool/train

A cohort is a folder with ``<subject>.ply`` and ``<subject>.mrk.json`` each (LPS, mm; the layout that
``training.train`` takes from a laboratory too) and ``cohort.json``, which says how it was made; where the landmarks
bear an annotator's scatter, ``truth/<subject>.mrk.json`` has them without. A pool holds
``<subject>.prepared.npz`` instead: what the shipped model is trained on, without the bulk of the meshes. Both are
made subject by subject from seeds of their own: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PALNetLandmarksLib.landmark_files import write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.reference import load_reference
from rich.progress import track
from scipy.spatial.transform import Rotation

from .annotator import add_annotator_noise, put_higher
from .arguments import at_least_one, command_parser
from .folder import TrainingDataError, make_folder
from .prepared import prepare_scan, save_prepared
from .simulation.capture import REGISTERED, Capture, CaptureSimulator
from .simulation.head import HeadModel, head_model_folder
from .write_ply import write_ply

#: Folder inside a cohort's for the landmarks before an annotator's scatter, where there is one.
TRUTH = "truth"

#: Identities are split before anything else: the split is part of every subject's seed.
SPLITS = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True)
class CohortPlan:
    """What a cohort is made of.

    ``number`` is part of every subject's seed; ``scheme`` as for ``HeadModel``; ``subjects`` how many by default;
    ``device`` None draws one per capture; ``hair`` scales the chance of hair and clothes; ``meshes`` False keeps
    prepared scans only; ``turned`` puts every subject in a pose of its own; ``unusual`` heads lie far from the mean;
    ``higher``: landmarks that the annotator puts so many mm further up than the model.
    """

    name: str
    number: int
    scheme: str
    subjects: int
    device: str | None
    hair: float
    annotator_noise: bool
    meshes: bool
    turned: bool
    unusual: bool = False
    higher: Mapping[str, float] = field(default_factory=dict)


PLANS = {
    plan.name: plan
    for plan in (
        CohortPlan("lafas-sim", 11, "lafas50", 214, "stereo", 0.6, True, True, False),
        CohortPlan("facescape-sim", 12, "multipie68", 700, "clean", 0.0, False, True, False),
        # As FaceScape's published models, which are registered to one topology and have their landmarks at vertices.
        CohortPlan("facescape-registered", 18, "multipie68", 700, REGISTERED, 0.0, False, True, False),
        CohortPlan("pool", 13, "lafas50", 3000, None, 1.0, False, False, False),
        CohortPlan("clinic", 14, "lafas50", 200, "stereo", 0.6, False, True, True),
        CohortPlan("any-device", 15, "lafas50", 1000, None, 1.0, False, True, True),
        CohortPlan("unusual", 17, "lafas50", 100, "stereo", 0.6, False, True, True, True),
    )
}


def draw_capture(
    simulator: CaptureSimulator, plan: CohortPlan, split: str, index: int
) -> tuple[Capture, np.random.Generator]:
    """The capture of one subject and the generator to go on with; depends on plan, split and index alone."""
    rng = np.random.default_rng([20260 + plan.number, SPLITS[split], index])
    neutral = plan.device in ("clean", REGISTERED)
    subject = simulator.model.draw_subject(rng, expressive=not neutral, unusual=plan.unusual)
    return simulator.capture(subject, rng, plan.device, plan.hair), rng


@lru_cache(maxsize=2)
def load_simulator(model_folder: Path, scheme: str) -> CaptureSimulator:
    """The simulator of a landmark scheme; made once per process, as that takes longer than a capture."""
    return CaptureSimulator(HeadModel(model_folder, scheme))


def make_subject(
    index: int, plan: CohortPlan, split: str, model_folder: Path, output: Path, suffix: str = ".mrk.json"
) -> str:
    """Make one subject's files in ``output`` unless they exist; returns the subject's name.

    ``suffix`` is that of the landmark files.

    The file that tells whether a subject exists is written last, so a subject is there as a whole or made again.
    """
    name = f"{split}-{index:05d}"
    if (output / f"{name}{suffix if plan.meshes else '.prepared.npz'}").exists():
        return name
    simulator = load_simulator(model_folder, plan.scheme)
    capture, rng = draw_capture(simulator, plan, split, index)
    if not plan.meshes:
        mesh = TriangleMesh(capture.points, capture.triangles, name)
        save_prepared(
            output / f"{name}.prepared.npz",
            prepare_scan(mesh, capture.landmarks, capture.visible, load_reference()),
        )
        return name
    points, exact = capture.points, put_higher(capture.landmarks, capture.labels, capture.points, plan.higher)
    landmarks = exact
    if plan.annotator_noise:
        landmarks = add_annotator_noise(landmarks, simulator.model.rules, points, rng)
    if plan.turned:
        rotation = Rotation.random(random_state=rng).as_matrix()
        shift = rng.normal(0, 150, 3)
        points, landmarks = points @ rotation.T + shift, landmarks @ rotation.T + shift
        exact = exact @ rotation.T + shift
    write_ply(output / f"{name}.ply", points, capture.triangles)
    # A landmark under hair or outside the cameras' view is not defined, as an annotator would leave it.
    landmarks, exact = (np.where(capture.visible[:, None], those, np.nan) for those in (landmarks, exact))
    if plan.annotator_noise:
        (output / TRUTH).mkdir(exist_ok=True)
        write_landmarks(output / TRUTH / f"{name}.mrk.json", LandmarkSet(capture.labels, exact))
    write_landmarks(output / f"{name}{suffix}", LandmarkSet(capture.labels, landmarks))
    return name


def make_cohort(
    plan: CohortPlan,
    split: str,
    subjects: int,
    model_folder: Path,
    output: Path,
    workers: int,
    suffix: str = ".mrk.json",
    first: int = 0,
) -> None:
    """Make ``subjects`` subjects of ``split``, from number ``first`` on, in ``output`` with ``workers`` processes.

    Raises
    ------
    TrainingDataError
        If the folder cannot be made.
    """
    make_folder(output)
    description = {"cohort": plan.name, **vars(plan), "split": split, "first": first, "subjects": subjects}
    (output / "cohort.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    work = partial(make_subject, plan=plan, split=split, model_folder=model_folder, output=output, suffix=suffix)
    context = multiprocessing.get_context("spawn")
    # Who interrupts wants to hear it from this process alone; what is ignored here the others begin with ignoring.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with context.Pool(workers) as pool:
        signal.signal(signal.SIGINT, before)
        for _ in track(
            pool.imap_unordered(work, range(first, first + subjects)), total=subjects, description=plan.name
        ):
            pass


def _label_and_millimetres(text: str) -> tuple[str, float]:
    label, _, millimetres = text.partition("=")
    try:
        return label, float(millimetres)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not LABEL=MM") from None


def main() -> None:
    parser = command_parser(__doc__.splitlines()[0])
    parser.add_argument("cohort", choices=sorted(PLANS))
    parser.add_argument("--model", type=head_model_folder, required=True, help="folder of the head model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--split", choices=sorted(SPLITS), default="train")
    parser.add_argument("--subjects", type=at_least_one, help="as many as the cohort has, if not given")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="begin with subject N: another part of a pool"
    )
    parser.add_argument("--workers", type=at_least_one, default=2)
    parser.add_argument("--landmarks", choices=[".mrk.json", ".fcsv", ".txt"], default=".mrk.json", metavar="SUFFIX",
                        help="of the landmark files: .mrk.json, .fcsv or .txt (as LAFAS has them)")  # fmt: skip
    parser.add_argument("--higher", nargs="+", type=_label_and_millimetres, default=[], metavar="LABEL=MM",
                        help="landmarks that the annotator puts so much further up than the model")  # fmt: skip
    a = parser.parse_args()
    plan = replace(PLANS[a.cohort], higher=dict(a.higher))
    unknown = sorted(set(plan.higher) - set(HeadModel(a.model, plan.scheme).labels)) if plan.higher else []
    if a.first < 0:
        parser.error("--first counts from 0")
    if unknown or (plan.higher and not plan.meshes):
        parser.error(f"--higher: {unknown[0]} is no landmark" if unknown else "--higher is for cohorts of scans")
    try:
        make_cohort(plan, a.split, a.subjects or plan.subjects, a.model, a.output, a.workers, a.landmarks, a.first)
    except TrainingDataError as error:
        sys.exit(f"Error: {error}")
    except OSError as error:
        sys.exit(f"Error: '{a.output}' cannot be written to ({error.strerror}); choose another --output.")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on from here.")


if __name__ == "__main__":
    main()
