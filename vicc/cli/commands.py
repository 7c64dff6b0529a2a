"""What stands between a command line and a library function: call it, and say how its result reads."""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from vicc.configs import (
    BenchConfig,
    CheckConfig,
    ClassifierConfig,
    CompareConfig,
    DemoConfig,
    DemoVideosConfig,
    ExportConfig,
    FinetuneConfig,
    FuseConfig,
    ImportConfig,
    KnnConfig,
    MeasuredClassifiers,
    ParityConfig,
    PrepareConfig,
    PretrainConfig,
    ProbeClipsConfig,
    ProbeConfig,
    RecipesConfig,
    ReportConfig,
    RetrieveConfig,
    RunsConfig,
    SlurmConfig,
    SplitsConfig,
    StoreCopyConfig,
    StoreDropConfig,
    StoreInfoConfig,
    StoreMergeConfig,
    StoreVerifyConfig,
    TableConfig,
    TrainingConfig,
)
from vicc.places import is_url, what_is_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vicc.evaluation.results import Result
    from vicc.training.stage import Recipe
    from vicc.training.train_stage import StageSummary

Trained = TypeVar("Trained")
Training = TypeVar("Training", bound=TrainingConfig)


@dataclass(frozen=True)
class Outcome:
    """What a command leaves: a document for machines, a way to show it to people, an exit status."""

    document: Any
    show: Callable[[], None]
    status: int = 0


def demo_videos(config: DemoVideosConfig) -> Outcome:
    from vicc.prepare.demo_videos import write_demo_videos
    from vicc.progress import progress

    with progress("videos", total=config.train + config.test, unit="videos") as advance:
        done = 0

        def on_progress(finished: int, total: int) -> None:
            nonlocal done
            advance(finished - done, "")
            done = finished

        count = write_demo_videos(
            config.folder,
            num_train=config.train,
            num_test=config.test,
            seed=config.seed,
            num_workers=config.workers,
            on_progress=on_progress,
        )
    document = {"folder": str(config.folder), "train": config.train, "test": config.test, "written": count}

    def show() -> None:
        _print(f"{config.train} training and {config.test} test videos in {config.folder}")
        say_next(f"vicc prepare {_word(config.folder)} --store STORE")

    return Outcome(document, show)


def prepare(config: PrepareConfig) -> Outcome:
    from vicc.prepare.build import prepare_videos

    report = prepare_videos(config)
    if config.dry_run:
        return _prepare_estimate(config, asdict(report))

    def show() -> None:
        table = Table("store", "videos", "frames", "size", "classes", "set aside")
        table.add_row(
            escape(report.store),
            f"{report.found} found, {report.prepared} new",
            f"{report.frames:,}",
            f"{report.store_bytes / 1e6:.1f} MB",
            str(len(report.labels)) if report.labels else "no labels",
            str(len(report.set_aside)),
        )
        Console().print(table)
        _reasons("set aside", [(entry.id, entry.reason) for entry in report.set_aside])
        _reasons("partly readable", list(report.notes.items()))
        if config.shard is None:
            say_next(f"vicc pretrain --store {_word(report.store)} --run RUN{_MOTION_OF_RGB * (config.flow == 'none')}")

    return Outcome(asdict(report), show)


def _prepare_estimate(config: PrepareConfig, document: dict[str, Any]) -> Outcome:
    from vicc.prepare.estimate import estimate_prepare

    estimate = estimate_prepare(config)

    def show() -> None:
        if estimate is None:
            _print("no estimate: there is nothing to prepare, or the videos that were tried cannot be read")
            return
        _print(
            f"preparing would take about {estimate.seconds / 60:.1f} minutes with {estimate.workers} "
            f"process{'es' * (estimate.workers > 1)} and {estimate.store_bytes / 1e6:,.0f} MB "
            f"(measured on {estimate.videos} of the videos)"
        )
        _print(f"training would load {estimate.loading}, with two clips of 32 frames at 128 pixels")
        say_next("the same command without --dry-run")

    return Outcome({**document, "estimate": None if estimate is None else asdict(estimate)}, show)


def check(config: CheckConfig) -> Outcome:
    from vicc.prepare.check import check_videos, describe

    report = check_videos(config)

    def show() -> None:
        videos = report.by_weight()
        shown = (
            videos if config.all or len(videos) <= 40 else [v for v in videos if v.verdict != "readable" or v.remarks]
        )
        table = Table(Column("video", overflow="fold"), "", "decoded", "what it is", "remarks")
        for video in shown:
            of = "in parts" if video.sampled else f"of {video.frames_declared or '?'}"
            same = [f"the same as {video.same_as}"] if video.same_as else []
            table.add_row(
                escape(video.name),
                video.verdict if not video.is_problem else f"[bold red]{video.verdict}[/]",
                f"{video.frames_decoded} {of}" if video.frames_decoded else "",
                escape(describe(video)),
                escape("; ".join([*filter(None, [video.reason]), *video.remarks, *same])),
            )
        if shown:
            Console().print(table)
        if len(shown) < len(videos):
            _print(f"{len(videos) - len(shown)} more are readable, without remarks; --all lists them")
        counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
        _print(f"{len(videos)} videos: {counts}; {report.duplicates} duplicates" + (", sampled" if config.fast else ""))
        if config.html is not None:
            _print(f"contact sheet: {config.html.absolute()}")
        folders = [place for place in config.paths if what_is_at(Path(place)) != "a store" and not is_url(place)]
        if len(folders) == len(config.paths) == 1:
            say_next(f"vicc prepare {_word(folders[0])} --store STORE")

    return Outcome(report.to_json(), show, 0 if report.passed else 1)


def splits(config: SplitsConfig) -> Outcome:
    from vicc.prepare.folds import make_folds

    result = make_folds(config)

    def show() -> None:
        table = Table("fold", "videos", "groups", "classes", "videos of a class")
        for fold in result.folds:
            least, most = fold.videos_of_a_class
            table.add_row(
                str(fold.number),
                str(fold.videos),
                str(fold.groups),
                str(fold.classes) if fold.classes else "no labels",
                "-" if not fold.classes else str(least) if least == most else f"{least} to {most}",
            )
        Console().print(table)
        _print(f"written to {result.file}: use it as --split {result.split}:1 to {result.split}:{len(result.folds)}")
        store = "STORE" if config.out is not None else _word(config.place)
        say_next(f"vicc pretrain --store {store} --run RUN --split {_word(result.split)}:1")

    return Outcome(asdict(result), show)


def store_info(config: StoreInfoConfig) -> Outcome:
    from vicc.data.maintenance import list_store
    from vicc.data.maintenance import store_info as run

    info = run(config.store)
    listed = list_store(config.store) if config.videos else []

    def show() -> None:
        table = Table("store", escape(info.store))
        per_frame = {stream: f"{count / max(info.frames, 1):,.0f} a frame" for stream, count in info.bytes.items()}
        rows = {
            "videos": f"{info.videos:,}" + f", {info.set_aside} set aside" * bool(info.set_aside),
            "frames": f"{info.frames:,} ({info.hours:,.2f} hours)",
            **{f"{stream} bytes": f"{count:,} ({per_frame[stream]})" for stream, count in info.bytes.items()},
            "shards": f"{len(info.shards)}, {sum(info.shards.values()) / 1e6:,.1f} MB",
            "labels": ", ".join(f"{label} {count}" for label, count in info.labels.items()) or "none",
            "splits": ", ".join(info.splits) or "none",
            **{name: str(value) for name, value in info.settings.items()},
        }
        for name, value in rows.items():
            table.add_row(name, escape(value))
        Console().print(table)
        if listed:
            videos = Table("video", "label", "group", "frames", "size", "note")
            for row in listed:
                size = f"{row['width']} x {row['height']}" if row["width"] else ""
                cells = (row["id"], row["label"] or "", row["group"] or "", str(row["frames"] or ""), size, row["note"])
                videos.add_row(*map(escape, cells))
            Console().print(videos)
        for problem in info.problems:
            _print(f"note: {problem}")
        say_next(f"vicc pretrain --store {_word(config.store)} --run RUN")

    return Outcome({**asdict(info), **({"listed": listed} if config.videos else {})}, show)


def store_verify(config: StoreVerifyConfig) -> Outcome:
    from vicc.prepare.verify import verify_store

    found = verify_store(config.store, decode=config.decode, workers=config.workers)

    def show() -> None:
        if found.damage:
            table = Table("shard", "video", Column("damage", overflow="fold"))
            for entry in found.damage:
                table.add_row(escape(entry.shard), escape(entry.video), escape(entry.what))
            Console().print(table)
        frames = f", {found.decoded_frames:,} frames decoded" if config.decode else ""
        verdict = f"{len(found.damage)} damaged" if found.damage else "all as it was written"
        _print(f"{found.store}: {found.videos:,} videos, {found.bytes / 1e6:,.1f} MB read{frames}: {verdict}")
        if found.damage:
            store = _word(config.store)
            say_next(f"vicc store drop {store} VIDEO ..., then vicc prepare VIDEOS --store {store}")

    return Outcome(asdict(found), show, 1 if found.damage else 0)


def store_merge(config: StoreMergeConfig) -> Outcome:
    from vicc.data.maintenance import merge_stores

    merged = merge_stores(config.stores, config.store, shard_bytes=config.shard_mb << 20)

    def show() -> None:
        twice = f", {merged.twice} of them in several stores" * bool(merged.twice)
        _print(
            f"{merged.store}: {merged.videos:,} videos of {len(merged.stores)} stores{twice}, {merged.shards} shards"
        )
        say_next(f"vicc pretrain --store {_word(merged.store)} --run RUN")

    return Outcome(asdict(merged), show)


def store_drop(config: StoreDropConfig) -> Outcome:
    from vicc.data.maintenance import drop_videos

    dropped = drop_videos(config.store, config.ids, labels=config.label, dry_run=config.dry_run)

    def show() -> None:
        if config.dry_run:
            for video_id in dropped.ids:
                _print(video_id)
        verb = "would drop" if config.dry_run else "dropped"
        _print(f"{verb} {len(dropped.ids)} of {dropped.store}, {dropped.bytes / 1e6:,.1f} MB")
        say_next("the same command without --dry-run" if config.dry_run else f"vicc store info {_word(config.store)}")

    return Outcome({**asdict(dropped), "dry_run": config.dry_run}, show)


def store_copy(config: StoreCopyConfig) -> Outcome:
    from vicc.data.maintenance import copy_store

    done = copy_store(config.source, config.target)

    def show() -> None:
        sent = f"{done.sent_bytes / 1e6:,.1f} of {done.bytes / 1e6:,.1f} MB sent"
        _print(f"{done.target}: {done.videos:,} videos, {sent}, the rest was there")
        say_next(f"vicc store verify {_word(done.target)}")

    return Outcome(asdict(done), show)


def pretrain(config: PretrainConfig) -> Outcome:
    from vicc.recipes import create_recipe

    recipe = create_recipe(config.recipe, motion=config.motion, views=config.views, changes=config.set)
    recipe.require_stages(config.stages)

    # Only now, with what is wrong with the words said: these take seconds.
    from vicc.training.plan import describe_costs
    from vicc.training.pretrain import pretrain as run

    if config.launcher == "slurm":
        planned = run(recipe, _planned_here(config))
        todo = [stage.name for stage in planned if not config.stages or stage.name in config.stages]
        return _submit(
            recipe,
            planned,
            todo,
            config,
            "vicc.training.pretrain:pretrain",
            lambda stage: (recipe, replace(config, launcher="here", slurm=SlurmConfig(), stages=[stage])),
        )
    stages = _trained(lambda: run(recipe, config))
    if stages is None:
        return _stopped(config)
    document = {"run": str(config.run), "recipe": recipe.name, "stages": [asdict(stage) for stage in stages]}

    def show() -> None:
        titles = ["stage", "from", "teacher", "videos x clips a step", "steps"]
        more = ["time", "memory", "disk"] if config.dry_run else ["method", "state"]
        table = Table(*(Column(title, overflow="fold") for title in [*titles, *more]))
        for stage, summary in zip(recipe.stages, stages, strict=True):
            early = summary.schedule_steps != summary.total_steps
            state = "finished" if summary.finished else "not finished"
            table.add_row(
                stage.name,
                stage.start_from or "random weights",
                stage.teacher or "-",
                f"{summary.batch_size} x {sum(stage.clips_encoded)}",
                f"{summary.steps} of {summary.total_steps}" + early * f" (schedule {summary.schedule_steps})",
                *([stage.method, state] if summary.cost is None else summary.cost.texts),
            )
        Console().print(table)
        if not config.dry_run:
            _print(f"finished: encoders are in {config.run}/STAGE/encoder")
            say_next(f"vicc retrieve --run {_word(config.run)} {_videos_flag(config)}")
            return
        for line in describe_costs({stage.name: stage.cost for stage in stages if stage.cost is not None})[-1:]:
            _print(line)
        say_next("the same command without --dry-run")

    return Outcome(document, show)


def finetune(config: FinetuneConfig) -> Outcome:
    return _train_classifier(config)


def probe_clips(config: ProbeClipsConfig) -> Outcome:
    return _train_classifier(config)


def _train_classifier(config: ClassifierConfig) -> Outcome:
    from vicc.evaluation.train_classifier import train_classifier as run

    if config.launcher == "slurm":
        planned = run(_planned_here(config))
        return _submit(
            planned.recipe,
            [planned.summary],
            [planned.summary.name],
            config,
            "vicc.evaluation.train_classifier:train_classifier",
            lambda stage: (replace(config, launcher="here", slurm=SlurmConfig()),),
        )
    trained = _trained(lambda: run(config))
    if trained is None:
        return _stopped(config)
    document = {
        "run": str(config.run),
        "recipe": trained.recipe.name,
        "classes": trained.lesson.classes,
        "train": len(trained.lesson.train),
        "validation": len(trained.lesson.validation),
        "stages": [asdict(trained.summary)],
    }

    def show() -> None:
        (stage,), summary, lesson = trained.recipe.stages, trained.summary, trained.lesson
        facts = {
            "encoder": str(config.encoder),
            "method": f"{trained.recipe.description}, {len(lesson.classes)} classes",
            "learns from": f"{len(lesson.train)} videos, {len(lesson.validation)} others validate",
            "learning rate": f"{stage.learning_rate:g} for {summary.batch_size} videos a step, a tenth from epochs "
            + ", ".join(map(str, stage.milestones)),
            "steps": f"{summary.steps} of {summary.total_steps}, in {stage.epochs} epochs",
        }
        if summary.cost is not None:
            facts |= dict(zip(("time", "memory", "disk"), summary.cost.texts, strict=True))
        table = Table(show_header=False)
        for name, text in facts.items():
            table.add_row(name, escape(text))
        Console().print(table)
        if not config.dry_run:
            _print("finished")
            say_next(f"vicc test --classifier {_word(config.run)} {_videos_flag(config)}")

    return Outcome(document, show)


def test(config: MeasuredClassifiers) -> Outcome:
    from vicc.evaluation.measure_classifiers import measure_classifiers, result_path

    return _measured(measure_classifiers(config), result_path(config))


def _trained(train: Callable[[], Trained]) -> Trained | None:
    """What a training in this process gives; None if it was asked to stop."""
    from vicc.training.engine import Stopped
    from vicc.training.slurm import adopt_slurm_ranks, stop_signals_wait_for_the_loop

    adopt_slurm_ranks()
    try:
        with stop_signals_wait_for_the_loop():
            return train()
    except Stopped:
        return None


def _stopped(config: TrainingConfig) -> Outcome:
    from vicc.cli import EXIT_STOPPED

    return Outcome({"run": str(config.run), "stopped": True}, lambda: None, EXIT_STOPPED)


def _videos_flag(config: TrainingConfig) -> str:
    return f"--store {_word(config.store)}" if config.videos is None else f"--videos {_word(config.videos)}"


def _planned_here(config: Training) -> Training:
    """The plan of jobs, without their GPUs: what they would refuse hours later is refused here and now."""
    return replace(config, dry_run=True, device="cpu")


def _submit(
    recipe: "Recipe",
    planned: "Sequence[StageSummary]",
    wanted: "Sequence[str]",
    config: TrainingConfig,
    function: str,
    arguments: Callable[[str], tuple[Any, ...]],
) -> Outcome:
    """Submit a job for each of the stages wanted that is not finished."""
    from vicc.training.schedule import stage_length
    from vicc.training.slurm import submit_stages

    todo = [stage.name for stage in planned if not stage.finished and stage.name in wanted]
    steps = {
        stage.name: stage_length(
            stage if config.batch_size is None else replace(stage, batch_size=summary.batch_size),
            summary.videos,
            config.slurm.processes,
        ).steps
        for stage, summary in zip(recipe.stages, planned, strict=True)
        if stage.name in todo
    }
    submitted = submit_stages(config, todo, function, arguments)

    def show() -> None:
        if not submitted:
            _print(f"{config.run}: all stages are finished, so there is nothing to submit")
            return
        if config.dry_run:
            _print(
                f"# The job of {submitted[-1].stage}; the others differ in name and dependency\n{submitted[-1].script}"
            )
        table = Table(
            Column("stage", overflow="fold"), "processes", "steps", "job", "after", Column("log", overflow="fold")
        )
        for entry in submitted:
            cells = (str(config.slurm.processes), str(steps[entry.stage]), entry.job, entry.after, entry.log)
            table.add_row(*(escape(cell or "") for cell in (entry.stage, *cells)))
        Console().print(table)
        if not config.dry_run:
            numbers = [entry.job or "" for entry in submitted]
            _print(f"watch:  squeue --jobs={','.join(numbers)}; tail -F {submitted[0].log}")
            _print(f"cancel: scancel {' '.join(numbers)}")
            _print("Each job goes back to the queue by itself before its time is over.")

    jobs = [{**asdict(entry), "steps": steps[entry.stage]} for entry in submitted]
    return Outcome({"run": str(config.run), "recipe": recipe.name, "dry_run": config.dry_run, "jobs": jobs}, show)


def retrieve(config: RetrieveConfig) -> Outcome:
    from vicc.evaluation.retrieve import result_path
    from vicc.evaluation.retrieve import retrieve as run

    return _measured(run(config), result_path(config))


def knn(config: KnnConfig) -> Outcome:
    from vicc.evaluation.classify_features import knn as run
    from vicc.evaluation.classify_features import result_path

    return _measured(run(config), result_path(config))


def probe(config: ProbeConfig) -> Outcome:
    from vicc.evaluation.classify_features import probe as run
    from vicc.evaluation.classify_features import result_path

    return _measured(run(config), result_path(config))


def _measured(result: "Result", where: "Path") -> Outcome:
    """What a command that measures leaves; the first process shows it."""
    from vicc.evaluation.results import in_short
    from vicc.evaluation.tables import result_table
    from vicc.progress import process_number

    def show() -> None:
        if process_number() != 0:
            return
        if result.labelled:
            Console().print(result_table(result))
        _print(
            f"written to {where}"
            + ("" if result.labelled else " (nearest neighbours; without labels there is no table)")
        )

    return Outcome(in_short(result).to_json(), show)


def table(config: TableConfig) -> Outcome:
    from vicc.evaluation.sheet import render, rich_table
    from vicc.evaluation.table import show_table

    sheet, document = show_table(config)

    def show() -> None:
        if config.out is not None:
            _print(f"written to {config.out}")
        elif config.format == "text":
            Console().print(rich_table(sheet), highlight=False)
            for note in sheet.notes:
                Console().print(note, markup=False, highlight=False)
        else:
            print(render(sheet, config.format), end="")

    return Outcome(document, show)


def compare(config: CompareConfig) -> Outcome:
    from vicc.evaluation.compare import compare as run
    from vicc.evaluation.tables import comparison_tables

    found = run(config)

    def show() -> None:
        for part in comparison_tables(found):
            Console().print(part, highlight=False)

    return Outcome(found.to_json(), show)


def fuse(config: FuseConfig) -> Outcome:
    from vicc.evaluation.fuse import fuse as run
    from vicc.evaluation.fuse import fused_path
    from vicc.evaluation.results import in_short
    from vicc.evaluation.tables import result_table

    result = run(config)

    def show() -> None:
        Console().print(result_table(result))
        _print(f"written to {fused_path(config)}")

    return Outcome(in_short(result).to_json(), show)


def import_(config: ImportConfig) -> Outcome:
    from vicc.training.published import import_published

    found = import_published(config.file, config.out, stream=config.stream, allow_partial=config.allow_partial)

    def show() -> None:
        facts = {
            "method": found.title,
            "backbone": f"{found.backbone}, {found.features} features",
            "stream": found.stream,
            "epoch": found.epoch,
            "iteration": found.iteration,
            "tensors": found.tensors,
            "prototypes": found.prototypes,
            "queue": found.queue,
            "classes": found.classes,
            **{f"{prefix}.*": folder for prefix, folder in found.folders.items()},
        }
        table = Table("found", escape(found.file))
        for name, value in facts.items():
            if value is not None:
                table.add_row(name, escape(str(value)))
        Console().print(table)
        for what, names in (("left out", found.left_out), ("missing in the file", found.missing)):
            if names:
                _print(f"{what}, {len(names)} tensors: {', '.join(names)}")
        _print("left out: the optimiser's state, since vicc resumes no published training")
        measure = "retrieve --encoder" if found.classes is None else "test --classifier"
        say_next(f"vicc {measure} {_word(config.out)} --store STORE")

    return Outcome(asdict(found), show)


def export(config: ExportConfig) -> Outcome:
    from vicc.training.published import export_published

    written = export_published(config.source, config.out)

    def show() -> None:
        _print(f"{written.file}: {written.title}, {written.backbone}, {written.tensors} tensors; optimizer is empty")
        if written.lacks:
            _print(f"not in {config.source}, so not in the file: {', '.join(written.lacks)}")
        say_next(f"give {written.file} to the published code, or back: vicc import {_word(written.file)} --out FOLDER")

    return Outcome(asdict(written), show)


def report(config: ReportConfig) -> Outcome:
    from vicc.evaluation.report import write_report

    path = write_report(config)
    return Outcome({"report": str(path), "bytes": path.stat().st_size}, lambda: _print(f"report: {path.absolute()}"))


def runs(config: RunsConfig) -> Outcome:
    from vicc.evaluation.runs import compare_runs
    from vicc.evaluation.tables import runs_tables

    found = compare_runs(config)

    def show() -> None:
        for table in runs_tables(found):
            Console().print(table, highlight=False)
        if config.out is not None:
            _print(f"plot: {config.out.absolute()}")

    return Outcome([asdict(run) for run in found], show)


def recipes(config: RecipesConfig) -> Outcome:
    from vicc.cli.recipes import list_recipes, show_recipe

    return list_recipes() if config.name is None else show_recipe(config.name, config)


def bench(config: BenchConfig) -> Outcome:
    from vicc.data.bench import bench_data

    result = bench_data(config)

    def show() -> None:
        table = Table("streams", "samples/s (median, range)", "clips/s", "read", "decode", "augment")
        for row in result.loading:
            median, smallest, largest = row.samples_per_second
            table.add_row(
                " and ".join(row.streams),
                f"{median:.1f} ({smallest:.1f} to {largest:.1f})",
                f"{median * 2 * len(row.streams):.0f}",
                *(f"{share:.0%}" for share in (row.read, row.decode, row.augment)),
            )
        Console().print(table)
        for workers, rate in result.clips_per_second_of_a_worker.items():
            _print(f"{workers} loader worker{'s' * (workers > 1)}: {rate:.0f} clips/s each, both streams together")
        for method, rate in result.flow_frames_per_second.items():
            _print(f"flow by {method}: {rate:.1f} frames/s a core")
        _print(
            f"{result.bytes_per_frame:,.0f} bytes a frame, all streams; {result.videos} videos, {result.frames} frames"
        )
        _print(f"a sample: two clips of {config.clip_frames} frames, {config.size} x {config.size}, {config.preset}")
        say_next(f"vicc pretrain --store {_word(config.store)} --run RUN --dry-run, for the time of a whole training")

    return Outcome(asdict(result), show)


def parity(config: ParityConfig) -> Outcome:
    from vicc.parity.run import check_parity

    report = check_parity(config)

    def show() -> None:
        table = Table(Column("case", no_wrap=True), "quantities", "worst of them", "deviation", "bound", "")
        for result in report.cases():
            worst = result.worst
            table.add_row(
                escape(result.case),
                str(result.quantities),
                escape(f"{worst.quantity}: {worst.note}" if worst.note else worst.quantity),
                f"{worst.deviation:.1e}",
                f"{worst.bound:.0e}",
                "ok" if result.passed else "[bold red]differs[/]",
            )
        Console().print(table)
        if report.absent:
            _print(f"not in {report.fixtures}: {', '.join(report.absent)}")
        failed = [entry for entry in report.comparisons if not entry.passed]
        _print(f"{len(report.comparisons)} quantities compared, {len(failed)} beyond their bound")

    return Outcome(report.to_json(), show, 0 if report.passed else 1)


def demo(config: DemoConfig) -> Outcome:
    from vicc.cli.demo import walk

    return walk(config)


def _reasons(title: str, entries: list[tuple[str, str]]) -> None:
    if entries:
        table = Table(title, "reason")
        for name, reason in entries:
            table.add_row(escape(name), escape(reason))
        Console().print(table)


_MOTION_OF_RGB = " --motion diff"  # of a store without flow


def say_next(command: str) -> None:
    """The last line of a command that ended well: what is usually given after it."""
    _print(f"next: {command}")


def _word(place: "Path | str | None") -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(place))


def _print(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
