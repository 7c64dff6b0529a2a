"""What is compared, kind by kind. Every function gives the comparisons of one kind of file, or none if it is absent.

Bounds are those that the numbers were published with: arrays within 1e-6 of their largest magnitude in float64, losses
of one call within 1e-9, of a training within 1e-8. Which variants there are is read from the descriptions, so files of
the same kind with other variants run too.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from tests.parity import networks
from tests.parity.formula import fill, gauss, unif, unit_rows, value
from tests.parity.published_numbers import Comparison, Fixtures, compare, require_equal
from vicc.batch import Batch
from vicc.data.sampling import clip_frame_indices, sliding_windows
from vicc.errors import Diverged, ViccError
from vicc.methods.assignments import sinkhorn
from vicc.methods.classifier import FineTuned, LinearProbe
from vicc.methods.coclr import CoCLR
from vicc.methods.infonce import InfoNCE
from vicc.methods.single_stream import SingleStream
from vicc.methods.ubernce import UberNCE
from vicc.retrieval import hits, similarity
from vicc.training.optim import LARC
from vicc.training.schedule import cosine_learning_rate

ARRAY_BOUND, LOSS_BOUND, TRAINING_LOSS_BOUND = 1e-6, 1e-9, 1e-8
# Train-mode S3D on noise is ill-conditioned in float32: the published code's own runs differ by 1e-3.
FLOAT32_TRAIN_BOUND = 5e-3
# float32 features of both: rounding alone.
SIMILARITY_BOUND = 1e-6
_CLIP = (3, 8, 64, 64)
# Inputs of the backbones by letter; others are worked out from the shape of S3D's feature map.
_BACKBONE_INPUTS = {"a": (2, 3, 16, 64, 64), "b": (1, 3, 32, 128, 128)}

Case = Callable[[], Iterator[Comparison]]


def backbone_cases(fixtures: Fixtures) -> Iterator[tuple[str, Case]]:
    """Feature maps in eval and train mode, running statistics after."""
    for network in networks.BACKBONES:
        for name in (*fixtures.names(f"{network}*.f64"), *fixtures.names(network)):
            arrays = fixtures.arrays(name)
            for key in arrays:
                mode, _, letter = key.partition("_")
                if mode in ("eval", "train"):
                    yield f"{name}/{key}", _backbone_case(f"{name}/{key}", network, arrays, mode, letter)


def _backbone_case(case: str, network: str, arrays: dict[str, np.ndarray], mode: str, letter: str) -> Case:
    def run() -> Iterator[Comparison]:
        expected = arrays[f"{mode}_{letter}"]
        single = "f64" not in case
        module = networks.backbone(network).train(mode == "train")
        clips = gauss(f"x.{network}.{letter}", _input_shape(network, letter, expected.shape)).double()
        if single:
            module, clips = module.float(), clips.float()
        with torch.no_grad():
            features = module(clips)
        if expected.shape[2:] == (1, 1, 1):
            features = features.mean((2, 3, 4), keepdim=True)
        bound = FLOAT32_TRAIN_BOUND if single and mode == "train" else ARRAY_BOUND
        yield compare(case, "features", features, expected, bound=bound)
        statistics = {
            key.split("/", 1)[1]: array for key, array in arrays.items() if key.startswith(f"after_{letter}/")
        }
        if mode == "train" and statistics:
            ours = {networks.backbone_key(network, key): tensor for key, tensor in module.state_dict().items()}
            for key, array in statistics.items():
                yield compare(case, key, ours[key], array, bound=bound)

    return run


def _input_shape(network: str, letter: str, features: tuple[int, ...]) -> tuple[int, ...]:
    if letter in _BACKBONE_INPUTS:
        return _BACKBONE_INPUTS[letter]
    if network != "s3d":
        raise ViccError(f"The shape of input {letter!r} is not known.")
    batch, _, frames, height, width = features
    return (batch, 3, 8 * frames, 32 * height, 32 * width)


def sinkhorn_cases(fixtures: Fixtures) -> Iterator[tuple[str, Case]]:
    """Assignments of given matrices. Infinite inputs are refused; a row of zeros stays one."""
    for name in fixtures.names("sinkhorn*"):
        if not fixtures.has(f"{name}_meta.json"):
            continue
        arrays, cases = fixtures.arrays(name), fixtures.description(f"{name}_meta")
        for key, about in cases.items():
            yield f"{name}/{key}", _sinkhorn_case(f"{name}/{key}", arrays, key, about)


def _sinkhorn_case(case: str, arrays: dict[str, np.ndarray], key: str, about: dict[str, Any]) -> Case:
    def run() -> Iterator[Comparison]:
        # Stored matrices (K, B) are exponentials already.
        scores = torch.from_numpy(arrays[f"in/{key}"]).double().log().t()
        options = {"epsilon": 1.0, "num_iterations": about["iterations"]}
        if about["n_inf_in"]:
            try:
                sinkhorn(scores, **options)
            except Diverged:
                yield Comparison(case, "infinite input is refused", 0, 0, "published: replaced by the largest")
            else:
                yield Comparison(case, "infinite input is refused", 1, 0, "it was accepted")
            return
        yield compare(case, "assignments", sinkhorn(scores, **options), arrays[f"out/{key}"], bound=ARRAY_BOUND)
        if f"out/{key}_ws2" in arrays:  # two processes with the same batch each
            both = sinkhorn(torch.cat((scores, scores)), **options)[: len(scores)]
            yield compare(case, "assignments of two processes", both, arrays[f"out/{key}_ws2"], bound=ARRAY_BOUND)

    return run


def single_stream_cases(fixtures: Fixtures) -> Iterator[tuple[str, Case]]:
    """One call: loss, embeddings, scores, gradients, queue afterwards."""
    yield from _vicc_cases(fixtures, "vicc", views=2)


def cross_stream_cases(fixtures: Fixtures) -> Iterator[tuple[str, Case]]:
    """One call with a frozen teacher, also reversed."""
    yield from _vicc_cases(fixtures, "vicc2", views=4)


def _vicc_cases(fixtures: Fixtures, name: str, *, views: int) -> Iterator[tuple[str, Case]]:
    if not fixtures.has(f"{name}.f64.npz", f"{name}_meta.json"):
        return
    arrays, about = fixtures.arrays(f"{name}.f64"), fixtures.description(f"{name}_meta")
    for variant, options in about["variants"].items():
        mine = {key.split(".", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{variant}.")}
        if mine:
            case = f"{name}/{variant}"
            yield case, _vicc_case(case, name, mine, options, about, views)


def _vicc_case(
    case: str, name: str, stored: dict[str, np.ndarray], options: dict[str, Any], about: dict[str, Any], views: int
) -> Case:
    def run() -> Iterator[Comparison]:
        network = options.get("network", "s3d")
        queue = stored.get("queue_after")
        task = networks.vicc_task(
            teacher=views == 4,
            reverse=options.get("reverse", False),
            network=network,
            views_with_gradient="one" if options["batch_shuffle"] else "both",
            views_for_assign=options.get("views_for_assign", (0, 1)),
            queue_length=0 if queue is None else queue.shape[1],
            queue_from_epoch=1 if options["queue"] == "nostart" else 0,
        )
        if queue is not None:
            rows = _queue_before(name, options["queue"], queue.shape)
            task.queue.load_state_dict({"rows": rows}, rows.device)
        batch = _vicc_batch(name, about, views, samples=len(stored["embedding"]) // views)
        embeddings = task.embed(batch)
        outputs = task.loss(embeddings, 0)
        outputs["loss"].backward()
        yield compare(case, "loss", outputs["loss"], stored["loss"], bound=LOSS_BOUND, relative=False)
        yield compare(case, "embeddings", torch.cat(embeddings), stored["embedding"], bound=ARRAY_BOUND)
        if "output" in stored:
            scores = torch.cat([task.prototypes[0](view) for view in embeddings])
            yield compare(case, "scores", scores, stored["output"], bound=ARRAY_BOUND)
        weights = networks.named(task, task.named_parameters(), network=network)
        yield from _gradients(case, stored, weights, about.get("gradnorm_order", []))
        if queue is not None:
            yield compare(case, "queue afterwards", task.queue.rows, queue, bound=ARRAY_BOUND)

    return run


def _queue_before(name: str, state: str, shape: tuple[int, ...]) -> torch.Tensor:
    rows = unit_rows(f"{name}.queue", shape).double()
    if state == "part":
        rows[:, shape[1] // 2 :] = 0
    return torch.zeros_like(rows) if state == "zero" else rows


def _vicc_batch(name: str, about: dict[str, Any], views: int, *, samples: int) -> Batch:
    shape = (samples, 2, *_CLIP)
    if views == 2:
        given = re.search(r"'([\w.]+)'\s*,\s*\(([\d,\s]+)\)", about.get("input", ""))
        tag = given.group(1) if given else f"{name}.block"
        shape = tuple(map(int, given.group(2).split(","))) if given else shape  # type: ignore[assignment]
        return Batch({"rgb": gauss(tag, shape).double()}, torch.arange(samples))
    return _two_stream_batch(*(gauss(f"{name}.block{moment}", shape).double() for moment in (1, 2)))


def _two_stream_batch(first: torch.Tensor, second: torch.Tensor) -> Batch:
    """The published layout, one block a moment with RGB before flow, as one block a stream."""
    rgb, flow = (torch.stack((first[:, stream], second[:, stream]), dim=1) for stream in (0, 1))
    return Batch({"rgb": rgb, "flow": flow}, torch.arange(len(rgb)))


def _gradients(
    case: str, stored: dict[str, np.ndarray], weights: Mapping[str, torch.Tensor], order: list[str]
) -> Iterator[Comparison]:
    for key, array in stored.items():
        if key.startswith("grad/"):
            yield compare(case, key, weights[key.removeprefix("grad/")].grad, array, bound=ARRAY_BOUND)
    if "gradnorm" in stored:
        grads = [weights[key].grad for key in order]
        norms = [-1.0 if grad is None else grad.norm().item() for grad in grads]
        yield compare(case, "norms of all gradients", norms, stored["gradnorm"], bound=ARRAY_BOUND)


def contrastive_cases(fixtures: Fixtures) -> Iterator[tuple[str, Case]]:
    """InfoNCE, UberNCE, CoCLR: logits, positives, loss, queues and key encoder afterwards, gradient."""
    if not fixtures.has("nce.f64.npz", "nce_meta.json"):
        return
    arrays, about = fixtures.arrays("nce.f64"), fixtures.description("nce_meta")
    for variant in dict.fromkeys(key.split(".")[0] for key in arrays):
        mine = {key.split(".", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{variant}.")}
        yield f"nce/{variant}", _contrastive_case(f"nce/{variant}", variant, mine, about)


def _contrastive_case(case: str, variant: str, stored: dict[str, np.ndarray], about: dict[str, Any]) -> Case:
    def run() -> Iterator[Comparison]:
        task, batch = _contrastive_task(variant, about, samples=len(stored["logits"]))
        seen: dict[str, torch.Tensor] = {}
        loss = task.loss

        def watched(logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
            seen.update(logits=logits, positives=positives)
            return loss(logits, positives)

        task.loss = watched  # type: ignore[method-assign]
        with torch.set_grad_enabled("eval" not in variant):
            if torch.is_grad_enabled():
                task.before_step()
            outputs = task(batch, 0)
        yield compare(case, "loss", outputs["loss"], stored["loss"], bound=LOSS_BOUND, relative=False)
        yield compare(case, "logits", seen["logits"], stored["logits"], bound=ARRAY_BOUND)
        target = stored["target"]
        if target.dtype == bool:
            yield require_equal(case, "positives", seen["positives"], target)
        else:
            yield require_equal(case, "positives", seen["positives"].int().argmax(1), target)
        if "acc" in stored:
            yield compare(case, "top-1", outputs["positive_first"], stored["acc"][0], bound=ARRAY_BOUND, relative=False)
        if outputs["loss"].requires_grad:
            outputs["loss"].backward()
            weights = {
                networks.encoder_key("s3d", "encoder_q")(key): weight for key, weight in task.encoder.named_parameters()
            }
            yield from _gradients(case, stored, weights, [])
        yield from _key_queue(case, stored, task)
        norms = torch.stack([weight.norm() for weight in task.key_encoder.parameters()])
        # Both lists hold the same tensors; sorted, since torchvision's order of modules is another one.
        expected = np.sort(stored["knorm_after"])
        yield compare(case, "norms of the key encoder", norms.sort().values, expected, bound=ARRAY_BOUND)

    return run


def _contrastive_task(variant: str, about: dict[str, Any], *, samples: int) -> tuple[InfoNCE, Batch]:
    length, options = about["K"], {"queue_length": about["K"], "temperature": about["T"], "key_momentum": about["m"]}
    shape = (samples, 2, *_CLIP)
    if not variant.startswith("coclr"):
        student = networks.encoder("rgb", "encoder_q")
        task = (UberNCE if variant.startswith("ubernce") else InfoNCE)(student, **options)
        labels = torch.tensor(about["ubernce_label"])
        batch = Batch({"rgb": gauss("nce.block", shape).double()}, torch.arange(samples), label=labels)
        task.queue.columns.update(
            {name: torch.tensor(about["ubernce_queue_label"]) for name in task.queue.columns if name == "label"}
        )
    else:
        reverse = "rev" in variant.split("_")
        student = networks.encoder("flow" if reverse else "rgb", "encoder_q")
        teacher = networks.encoder("rgb" if reverse else "flow", "sampler")
        task = CoCLR(student, teacher, num_mined=about["topk"], **options)
        batch = _two_stream_batch(*(gauss(f"coclr.block{moment}", shape).double() for moment in (1, 2)))
        batch = Batch(batch.clips, batch.index, recording=torch.tensor(about["coclr_vsource"]))
        known = torch.arange(length) < (6 if "notfull" in variant else length)
        task.queue.columns["source"] = torch.tensor(about["coclr_full_queue_vname"]).where(known, torch.tensor(-1))
        task.queue.columns["teacher"] = value("queue_second", (about["dim"], length)).t().double()
    fill(task.key_encoder, networks.encoder_key("s3d", "encoder_k"))
    task.queue.columns["key"] = value("queue", (about["dim"], length)).t().double()
    task.queue.next = about["queue_ptr_before"]
    return task.double().train(), batch


def _key_queue(case: str, stored: dict[str, np.ndarray], task: InfoNCE) -> Iterator[Comparison]:
    columns = task.queue.columns
    yield compare(case, "queue afterwards", columns["key"].t(), stored["queue_after"], bound=ARRAY_BOUND)
    yield require_equal(case, "queue pointer", [task.queue.next], stored["ptr_after"])
    if "teacher" in columns:
        second = stored["queue_second_after"]
        yield compare(case, "other stream's queue", columns["teacher"].t(), second, bound=ARRAY_BOUND)
        yield require_equal(case, "queue of recordings", columns["source"], stored["queue_vname_after"])
    if "label" in columns:
        yield require_equal(case, "queue of labels", columns["label"], stored["queue_label_after"])


def classifier_cases(fixtures: Fixtures) -> Iterator[tuple[str, Case]]:
    """Linear heads: of the probe in train mode, of fine-tuning without dropout."""
    if not fixtures.has("lincls.f64.npz"):
        return
    arrays = fixtures.arrays("lincls.f64")
    for variant in dict.fromkeys(key.split(".")[0] for key in arrays):
        if variant in ("last", "ft"):
            yield f"lincls/{variant}", _classifier_case(f"lincls/{variant}", variant, arrays)


def _classifier_case(case: str, variant: str, arrays: dict[str, np.ndarray]) -> Case:
    def run() -> Iterator[Comparison]:
        stored = {key.split(".", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{variant}.")}
        samples, classes = stored["logit"].shape
        encoder = networks.encoder("rgb", "encoder_q")
        encoder.backbone = networks.backbone("s3d", prefix="backbone.")
        clips = gauss("lincls.x", (samples, 3, 16, 64, 64)).double()
        probe = variant == "last"
        model = (LinearProbe if probe else FineTuned)(encoder, classes).double()
        fill(model.linear, lambda key: f"final_fc.{0 if probe else 1}.{key}")
        if isinstance(model, LinearProbe):
            fill(model.batchnorm, lambda key: f"final_bn.{key}")
        model.train(probe)
        with torch.no_grad():
            yield compare(case, "features", model.features(clips), stored["feat"], bound=ARRAY_BOUND)
            yield compare(case, "logits", model(clips), stored["logit"], bound=ARRAY_BOUND)
        if isinstance(model, LinearProbe):
            for ours, key in (("running_mean", "bn_mean_after"), ("running_var", "bn_var_after")):
                yield compare(case, ours, getattr(model.batchnorm, ours), stored[key], bound=ARRAY_BOUND)

    return run


def retrieval_cases(fixtures: Fixtures) -> Iterator[tuple[str, Case]]:
    """Similarities and R@k of given features; both streams: the two similarity matrices added."""
    for name in fixtures.names("retrieval*"):
        if not fixtures.has(f"{name}_meta.json"):
            continue
        arrays, about = fixtures.arrays(name), fixtures.description(f"{name}_meta")
        for stream, recall in about["acc"].items():
            yield f"{name}/{stream}", _retrieval_case(f"{name}/{stream}", arrays, stream, recall)


def _retrieval_case(case: str, arrays: dict[str, np.ndarray], stream: str, recall: dict[str, float]) -> Case:
    def run() -> Iterator[Comparison]:
        streams = [stream] if f"test/{stream}" in arrays else ["rgb", "flow"]
        matrices = []
        for name in streams:
            queries, gallery = (torch.from_numpy(arrays[f"{part}/{name}"]).double() for part in ("test", "train"))
            matrices.append(similarity(queries, gallery))
            yield compare(case, f"similarities {name}", matrices[-1], arrays[f"sim/{name}"], bound=SIMILARITY_BOUND)
        labels = [[str(label) for label in arrays[f"{part}_label"]] for part in ("test", "train")]
        ours = [hits(sum(matrices), *labels, k=int(k)).double().mean().item() for k in recall]  # type: ignore[arg-type]
        # Published with four digits.
        yield require_equal(case, "R@k", [round(share, 4) for share in ours], list(recall.values()))

    return run


def frame_cases(fixtures: Fixtures) -> Iterator[tuple[str, Case]]:
    """Frame numbers of sliding windows and of seeded random clips, padding included."""
    if not fixtures.has("frame_sampler.json"):
        return
    about = fixtures.description("frame_sampler")
    for kind in ("test", "train", "double"):
        if kind in about:
            yield f"frames/{kind}", _frame_case(f"frames/{kind}", kind, about[kind])


def _frame_case(case: str, kind: str, entries: list[dict[str, Any]]) -> Case:
    def run() -> Iterator[Comparison]:
        for entry in entries:
            frames, stride, available = entry["num_frames"], entry["ds"], entry["total"]
            if kind == "test":
                step = frames * stride // 2 - 1
                numbers = sliding_windows(available, clip_frames=frames, stride=stride, step=step)
            else:
                starts = _published_starts(entry, clips=2 if kind == "double" else 1)
                numbers = np.stack(
                    [
                        clip_frame_indices(start, available=available, clip_frames=frames, stride=stride)
                        for start in starts
                    ]
                )
            quantity = f"{available} frames, clips of {frames}, stride {stride}"
            yield require_equal(case, quantity, numbers.flatten(), entry["idx"])

    return run


def _published_starts(entry: dict[str, Any], *, clips: int) -> list[int]:
    """The published draws: a start that leaves a whole stride behind the clip, or any phase of a video too short."""
    starts = entry["total"] - entry["num_frames"] * entry["ds"]
    stream = np.random.RandomState(entry["seed"])
    return [int(stream.choice(starts if starts > 0 else entry["ds"])) for _ in range(clips)]


def training_cases(fixtures: Fixtures) -> Iterator[tuple[str, Case]]:
    """Whole trainings of a few steps: schedule, prototypes normalised and frozen, queue, LARC."""
    if not fixtures.has("traj_meta.json"):
        return
    about = fixtures.description("traj_meta")
    for name, run in about["runs"].items():
        if fixtures.has(f"traj_{name}.f64.npz"):
            yield f"training/{name}", _training_case(f"training/{name}", fixtures, name, run, about)


def _training_case(case: str, fixtures: Fixtures, name: str, run: dict[str, Any], about: dict[str, Any]) -> Case:
    def compare_training() -> Iterator[Comparison]:
        stored, config = fixtures.arrays(f"traj_{name}.f64"), run["cfg"]
        cross = config["kind"] == "cross"
        queue = stored.get("queue_after")
        network = config.get("network", "s3d")
        task = networks.vicc_task(
            teacher=cross,
            reverse=bool(config.get("reverse", False)),
            variant="init",
            network=network,
            views_with_gradient="one" if config["shuffle"] else "both",
            queue_length=0 if queue is None else queue.shape[1],
            queue_from_epoch=config.get("q_from", 1),
            freeze_prototypes_epochs=config.get("freeze", 1),
        )
        optimizer = LARC(
            [weight for weight in task.parameters() if weight.requires_grad],
            lr=about["base_lr"],
            momentum=about["momentum"],
            weight_decay=about["wd"],
            trust=about["trust"],
        )
        losses, rates = _train(task, optimizer, config, about)
        yield compare(case, "learning rates", rates, run["lr"], bound=LOSS_BOUND, relative=False)
        yield compare(case, "losses", losses, stored["loss"], bound=TRAINING_LOSS_BOUND, relative=False)
        weights = networks.named(task, task.named_parameters(), network=network)
        buffers = networks.named(task, task.named_buffers(), network=network)
        for quantity, names, tensors in (("param_norm", "names", weights), ("buffer_norm", "buffers", buffers)):
            norms = [tensors[key].double().norm().item() for key in run[names]]
            yield compare(case, quantity, norms, stored[quantity], bound=ARRAY_BOUND)
        for key, array in stored.items():
            kind, _, weight = key.partition("/")
            if kind == "param":
                yield compare(case, key, weights[weight], array, bound=ARRAY_BOUND)
            elif kind == "momentum":
                yield compare(case, key, optimizer.state[weights[weight]]["momentum"], array, bound=ARRAY_BOUND)
        if queue is not None:
            yield compare(case, "queue afterwards", task.queue.rows, queue, bound=ARRAY_BOUND)

    return compare_training


def _train(
    task: SingleStream, optimizer: LARC, config: dict[str, Any], about: dict[str, Any]
) -> tuple[list[float], list[float]]:
    per_epoch = config["steps_per_epoch"]
    total = per_epoch * -(-config["nsteps"] // per_epoch)
    losses, rates = [], []
    for step in range(config["nsteps"]):
        rates.append(cosine_learning_rate(step, total_steps=total, base=about["base_lr"], final=about["final_lr"]))
        optimizer.param_groups[0]["lr"] = rates[-1]
        if task.teacher is not None and step >= 5:
            # A fault of the published run that its numbers contain: after step 5 the teacher has left eval mode.
            task.teacher.train()
        task.before_step()
        loss = task(_training_batch(config["kind"], step, about), step // per_epoch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        task.cancel_gradients(step // per_epoch)
        optimizer.step()
        losses.append(loss.item())
    return losses, rates


def _training_batch(kind: str, step: int, about: dict[str, Any]) -> Batch:
    batch, frames, size = about["B"], about["T"], about["HW"]
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def block(name: str) -> torch.Tensor:
        pixels = unif(f"traj.{kind}.{step}.{name}", (batch, 3, 2 * frames, size, size)).double()
        return ((pixels.view(batch, 3, 2, frames, size, size) - mean) / std).transpose(1, 2)

    if kind == "single":
        return Batch({"rgb": block("b")}, torch.arange(batch))
    return _two_stream_batch(block("b1"), block("b2"))


KINDS = (
    backbone_cases,
    sinkhorn_cases,
    single_stream_cases,
    cross_stream_cases,
    contrastive_cases,
    classifier_cases,
    retrieval_cases,
    frame_cases,
    training_cases,
)
