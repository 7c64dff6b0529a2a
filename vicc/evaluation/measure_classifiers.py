"""`vicc test`: classifiers to accuracies, their probabilities averaged over sliding windows and
crops.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vicc.data.records import Video
from vicc.device import Precision, choose_device, choose_precision, choose_threads, computing_threads
from vicc.distributed import on_first, processes
from vicc.errors import ViccError
from vicc.evaluation.accuracy import chance_row, classification_row, write_probabilities
from vicc.evaluation.configs import MeasuredClassifiers
from vicc.evaluation.encoders import clip_words, require_flow, started_from, window_words
from vicc.evaluation.result import Protocol, Queries, Result, made_with, write_result
from vicc.evaluation.sets import Sets, open_sets
from vicc.evaluation.train_classifier import probabilities
from vicc.files import require_writable
from vicc.methods.encoder import Encoder
from vicc.methods.features import Windows, describe_videos, for_inference
from vicc.progress import say
from vicc.training.checkpoint import weights_fingerprint
from vicc.training.classifier_folder import Classifier, load_classifier
from vicc.training.plan import num_workers
from vicc.training.run import Run

_PROTOCOLS = {"center": "test-center", "five": "test-five-crop", "ten": "test-ten-crop"}
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class _Tested:
    """A classifier, and what it is called in the table."""

    name: str
    place: Path
    classifier: Classifier


def measure_classifiers(config: MeasuredClassifiers) -> Result:
    """Measure classifiers and write the result where `result_path` says, probabilities beside it.

    Several processes (torchrun) share the work.

    Raises:
        ViccError: no such classifier, classifiers of different kinds or classes, test videos of
            classes that they do not know or that one of them was trained on, a store without their
            stream, or a split that does not fit.
    """
    device = choose_device(config.device)
    with processes(device), computing_threads(choose_threads(config.threads, device)):
        tested = _load(config)
        on_first(partial(require_writable, result_path(config)))
        protocol = _protocol(config, tested)
        sets = open_sets(config, run=Run.of(config.classifier[0]), need_labels=True)
        require_flow(_encoders(tested), sets.store)
        for one in tested[1:]:
            _require_untrained(one, sets)
        classes = _classes(tested, sets)
        sets = _known(sets, classes, intersection=config.intersection)
        precision = choose_precision(config.precision, device)
        found = [_probabilities(one, sets, config, precision) for one in tested]
        return on_first(partial(_measure, config, protocol, tested, sets, precision, found))


def result_path(config: MeasuredClassifiers) -> Path:
    """The file that `measure_classifiers` writes: --out, or one in the first classifier's folder;
    with more crops it has a name of its own, so that it does not overwrite the other result.
    """
    name = "test" if config.crops == "center" else _PROTOCOLS[config.crops]
    return config.out or config.classifier[0] / f"{name}.json"


def _load(config: MeasuredClassifiers) -> list[_Tested]:
    short = [place.resolve().name for place in config.classifier]
    names = short if len(set(short)) == len(short) else [str(place) for place in config.classifier]
    return [_Tested(name, place, load_classifier(place)) for name, place in zip(names, config.classifier, strict=True)]


def _protocol(config: MeasuredClassifiers, tested: Sequence[_Tested]) -> Protocol:
    """What a classifier has learned from, and how, is part of it: a probe's number is no fine-tuned
    one's.

    Raises:
        ViccError: classifiers that differ in that.
    """
    learned = {one.name: (one.classifier.kind, one.classifier.label_share) for one in tested}
    if len(set(learned.values())) > 1:
        pairs = learned.items()
        kinds = "; ".join(f"{name} is {kind} with {100 * share:g} % of the labels" for name, (kind, share) in pairs)
        raise ViccError(f"Classifiers of different kinds do not stand in one table: {kinds}. Measure one at a time.")
    kind, label_share = learned[tested[0].name]
    return Protocol(
        _PROTOCOLS[config.crops],
        1,
        {
            "classifier": kind,
            "window_step": window_words(config.window_step, _encoders(tested)),
            "square": "224/240 of the shorter side",
            **({"label_share": label_share} if label_share < 1 else {}),
        },
    )


def _encoders(tested: Sequence[_Tested]) -> list[tuple[str, Encoder]]:
    return [(one.name, one.classifier.module.encoder) for one in tested]


def _require_untrained(one: _Tested, sets: Sets) -> None:
    """The first classifier's run is looked at with the split; here are the others."""
    run = Run.of(one.place)
    trained = set() if run is None else run.trained_on(sets.store.videos)
    seen = [video.id for video in sets.test if video.id in trained]
    if seen:
        raise ViccError(
            f"{one.place} was trained on {len(seen)} of the {len(sets.test)} test videos of the split "
            f"{sets.data.split}: {_some(seen)}. Give classifiers of one split."
        )


def _classes(tested: Sequence[_Tested], sets: Sets) -> list[str]:
    """The classes of all classifiers, in the order of their probabilities."""
    known = [(one, _classes_of(one, sets)) for one in tested]
    first, classes = known[0]
    for one, others in known[1:]:
        if others != classes:
            differing = sorted(set(classes) ^ set(others))
            raise ViccError(
                f"{one.place} tells {len(others)} classes apart and {first.place} {len(classes)}, which are not the "
                f"same: {_some(differing)}. Give classifiers of the same classes, or measure one at a time."
            )
    return classes


def _classes_of(one: _Tested, sets: Sets) -> list[str]:
    if one.classifier.classes is not None:
        return one.classifier.classes
    if one.classifier.num_classes != len(sets.data.classes):
        raise ViccError(
            f"{one.place} tells {one.classifier.num_classes} classes apart and does not say which; the training videos "
            f"of {sets.data.place} have {len(sets.data.classes)}. Give the data that it was trained for."
        )
    say(f"{one.name} does not say which classes it knows: those of {sets.data.place}, in alphabetical order, are taken")
    return sets.data.classes


def _known(sets: Sets, classes: list[str], *, intersection: bool) -> Sets:
    """The sets with test videos of these classes alone."""
    unknown = sorted({str(video.label) for video in sets.test} - set(classes))
    data = replace(sets.data, classes=classes)
    if not unknown:
        return replace(sets, data=data)
    kept = [place for place, video in enumerate(sets.test) if video.label in classes]
    told = f"{len(unknown)} classes have test videos, and the classifier does not know them: {_some(unknown)}"
    if not intersection or not kept:
        raise ViccError(f"{told}. " + ("Give --intersection to leave them out." if kept else "No test video is left."))
    say(f"{told}: measured without them, on {len(kept)} test videos")
    ids, labels, groups = sets.queries.ids, sets.queries.labels, sets.queries.groups
    queries = Queries([ids[n] for n in kept], [labels[n] for n in kept], [groups[n] for n in kept])
    test: list[Video] = [sets.test[place] for place in kept]
    return replace(sets, test=test, data=replace(data, test=len(test)), queries=queries)


def _probabilities(one: _Tested, sets: Sets, config: MeasuredClassifiers, precision: Precision) -> torch.Tensor:
    """Mean probabilities (Q, classes) of the test videos."""
    module = one.classifier.module
    return describe_videos(
        partial(probabilities, for_inference(module, precision)),
        module.encoder.config,
        sets.store,
        sets.test,
        Windows(config.window_step, crops=config.crops),
        precision=precision,
        workers=num_workers(config.workers),
        description=one.name,
    )


def _measure(
    config: MeasuredClassifiers,
    protocol: Protocol,
    tested: Sequence[_Tested],
    sets: Sets,
    precision: Precision,
    found: Sequence[torch.Tensor],
) -> Result:
    path, classes = result_path(config), sets.data.classes
    rows = [
        classification_row(
            one.name,
            "trained",
            values,
            sets.queries,
            classes,
            model=_model(one),
            outputs=write_probabilities(path, one.name, values, sets.queries, classes),
        )
        for one, values in zip(tested, found, strict=True)
    ]
    result = Result(
        protocol=protocol,
        data=sets.data,
        queries=sets.queries,
        rows=[chance_row(len(classes)), *rows],
        neighbours={},
        made_with=made_with(precision=precision.name, device=str(precision.device)),
    )
    write_result(path, result)
    return result


def _model(one: _Tested) -> dict[str, Any]:
    config = one.classifier.module.encoder.config
    run = Run.of(one.place)
    encoder = None if run is None else run.description.get("encoder")
    return {
        "classifier": str(one.place.absolute()),
        "kind": one.classifier.kind,
        "stream": config.stream,
        "backbone": config.backbone,
        "clip": clip_words(config),
        "weights": weights_fingerprint(one.classifier.module.state_dict()),
        "seed": None if run is None else run.seed,
        **({} if encoder is None else started_from(Path(encoder))),
    }


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
