"""What stands between a command line and a library function: call it, and say how its result reads."""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
    MeasuredEncoders,
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
from vicc.text_table import TextTable, print_table
from vicc.text_table import print_line as _print

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vicc.data.survey import Survey
    from vicc.evaluation.result import Result
    from vicc.prepare.build import PrepareReport
    from vicc.training.plan import StageSummary
    from vicc.training.stage import Recipe, Stage

Trained = TypeVar("Trained")
Training = TypeVar("Training", bound=TrainingConfig)
_QUERIES_SHOWN = 5  # of videos without labels: the page shows all


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
        return _prepare_estimate(config, report)

    def show() -> None:
        if report.survey is not None:
            _print_survey(report.survey)
        cells = [
            report.store,
            f"{report.found} found, {report.prepared} new",
            f"{report.frames:,}",
            f"{report.store_bytes / 1e6:.1f} MB",
            str(len(report.labels)) if report.labels else "no labels",
            str(len(report.set_aside)),
        ]
        print_table(TextTable(["store", "videos", "frames", "size", "classes", "set aside"], [[cells]]))
        _reasons("set aside", [(entry.id, entry.reason) for entry in report.set_aside])
        _reasons("note on", list(report.notes.items()))
        for line in report.changes:
            _print(line)
        if config.shard is None:
            say_next(f"vicc pretrain --store {_word(report.store)} --run RUN{_MOTION_OF_RGB * (config.flow == 'none')}")

    return Outcome(asdict(report), show)


def _print_survey(survey: "Survey") -> None:
    """What a place holds: found, passed over, labelled, grouped, split."""
    print_table(TextTable(["found in", survey.place], [list(survey.rows())]))


def _prepare_estimate(config: PrepareConfig, report: "PrepareReport") -> Outcome:
    from vicc.prepare.estimate import estimate_prepare

    document = asdict(report)
    nothing_new = document["found"] == document["already_there"]
    estimate = None if nothing_new else estimate_prepare(config)

    def show() -> None:
        if report.survey is not None:
            _print_survey(report.survey)
        for line in document["changes"]:
            _print(line)
        if estimate is None:
            why = "there is nothing new to decode" if nothing_new else "the videos that were tried cannot be read"
            _print(f"no estimate: {why}")
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
    from vicc.files import require_writable
    from vicc.prepare.check import check_videos, describe

    if config.html is not None:
        require_writable(config.html, instead="Give another --html")
    report = check_videos(config)

    def show() -> None:
        for survey in report.surveys:
            _print_survey(survey)
        videos = report.by_weight()
        shown = (
            videos if config.all or len(videos) <= 40 else [v for v in videos if v.verdict != "readable" or v.remarks]
        )
        rows = []
        for video in shown:
            of = "in parts" if video.sampled else f"of {video.frames_declared or '?'}"
            same = [f"the same as {video.same_as}"] if video.same_as else []
            decoded = f"{video.frames_decoded} {of}" if video.frames_decoded else ""
            remarks = "; ".join([*filter(None, [video.reason]), *video.remarks, *same])
            rows.append([video.name, video.verdict, decoded, describe(video), remarks])
        if shown:
            header = ["video", "verdict", "decoded", "what it is", "remarks"]
            alarming = sorted({video.verdict for video in shown if video.is_problem})
            print_table(TextTable(header, [rows], alarming=alarming))
        if len(shown) < len(videos):
            _print(f"{len(videos) - len(shown)} more are readable, without remarks; --all lists them")
        counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
        counted = f"{len(videos)} video{'s' * (len(videos) != 1)}"
        copies = f"{report.duplicates} duplicate{'s' * (report.duplicates != 1)}"
        _print(f"{counted}: {counts}; {copies}" + (", sampled" if config.fast else ""))
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
        rows = []
        for fold in result.folds:
            least, most = fold.videos_of_a_class
            of_a_class = "-" if not fold.classes else str(least) if least == most else f"{least} to {most}"
            classes = str(fold.classes) if fold.classes else "no labels"
            rows.append([str(fold.number), str(fold.videos), str(fold.groups), classes, of_a_class])
        print_table(TextTable(["fold", "videos", "groups", "classes", "videos of a class"], [rows]))
        for note in result.notes:
            _print(note)
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
        print_table(TextTable(["store", info.store], [list(rows.items())]))
        if listed:
            videos = []
            for row in listed:
                size = f"{row['width']} x {row['height']}" if row["width"] else ""
                cells = (row["id"], row["label"] or "", row["group"] or "", str(row["frames"] or ""), size, row["note"])
                videos.append(cells)
            print_table(TextTable(["video", "label", "group", "frames", "size", "note"], [videos]))
        for problem in info.problems:
            _print(f"note: {problem}")
        say_next(f"vicc pretrain --store {_word(config.store)} --run RUN")

    return Outcome({**asdict(info), **({"listed": listed} if config.videos else {})}, show)


def store_verify(config: StoreVerifyConfig) -> Outcome:
    from vicc.prepare.verify import verify_store

    found = verify_store(config.store, decode=config.decode, workers=config.workers)

    def show() -> None:
        if found.damage:
            rows = [[entry.shard, entry.video, entry.what] for entry in found.damage]
            print_table(TextTable(["shard", "video", "damage"], [rows]))
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
        rows = []
        for stage, summary in zip(recipe.stages, stages, strict=True):
            early = summary.schedule_steps != summary.total_steps
            state = "finished" if summary.finished else "not finished"
            cells = [
                stage.name,
                stage.start_from or "random weights",
                stage.teacher or "-",
                f"{summary.batch_size} x {sum(stage.settings.clips_encoded())}",
                f"{summary.steps} of {summary.total_steps}" + early * f" (schedule {summary.schedule_steps})",
            ]
            rows.append([*cells, *([stage.method, state] if summary.cost is None else summary.cost.texts)])
        print_table(TextTable([*titles, *more], [rows]))
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
        "classes": trained.labelled_split.classes,
        "train": len(trained.labelled_split.train),
        "validation": len(trained.labelled_split.validation),
        "stages": [asdict(trained.summary)],
    }

    def show() -> None:
        (stage,), summary, labelled_split = trained.recipe.stages, trained.summary, trained.labelled_split
        length, rate = stage.length, stage.schedule.learning_rate
        facts = {
            "encoder": str(config.encoder),
            "method": f"{trained.recipe.description}, {len(labelled_split.classes)} classes",
            "learns from": f"{len(labelled_split.train)} videos, {len(labelled_split.validation)} others validate",
            "learning rate": f"{rate:g} for {summary.batch_size} videos a step, {_falls(stage)}",
            "steps": f"{summary.steps} of {summary.total_steps}, in {length.stop_epoch or length.epochs} epochs",
        }
        if summary.cost is not None:
            facts |= dict(zip(("time", "memory", "disk"), summary.cost.texts, strict=True))
        print_table(TextTable(["", ""], [list(facts.items())]))
        if not config.dry_run:
            _print("finished")
            say_next(f"vicc test --classifier {_word(config.run)} {_videos_flag(config)}")

    return Outcome(document, show)


def _falls(stage: "Stage") -> str:
    """Where the learning rate of a classifier falls, as far as the training goes."""
    epochs = stage.length.stop_epoch or stage.length.epochs or 0
    if stage.schedule.name == "cosine":
        return f"falling to {stage.schedule.final_learning_rate:g} as a cosine"
    reached = [milestone for milestone in stage.schedule.milestones if milestone < epochs]
    if not reached:
        return f"the same in all {epochs} epochs"
    return f"times {stage.schedule.decay:g} from epochs {', '.join(map(str, reached))}"


def test(config: MeasuredClassifiers) -> Outcome:
    from vicc.evaluation.measure_classifiers import measure_classifiers, result_path

    where = result_path(config)
    return _measured(measure_classifiers(config), where, _command("table", where, "--view", "classes"))


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
            stage if config.batch_size is None else stage.replace(batch_size=summary.batch_size),
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
        rows = []
        for entry in submitted:
            cells = (str(config.slurm.processes), str(steps[entry.stage]), entry.job, entry.after, entry.log)
            rows.append([entry.stage, *(cell or "" for cell in cells)])
        print_table(TextTable(["stage", "processes", "steps", "job", "after", "log"], [rows]))
        if not config.dry_run:
            numbers = [entry.job or "" for entry in submitted]
            _print(f"watch:  squeue --jobs={','.join(numbers)}; tail -F {submitted[0].log}")
            _print(f"cancel: scancel {' '.join(numbers)}")
            _print("Each job goes back to the queue by itself before its time is over.")

    jobs = [{**asdict(entry), "steps": steps[entry.stage]} for entry in submitted]
    return Outcome({"run": str(config.run), "recipe": recipe.name, "dry_run": config.dry_run, "jobs": jobs}, show)


def retrieve(config: RetrieveConfig) -> Outcome:
    from vicc.evaluation.result import in_short
    from vicc.evaluation.retrieve import result_path
    from vicc.evaluation.retrieve import retrieve as run
    from vicc.results.printed import neighbours_tables

    result, where = run(config), result_path(config)
    if config.query is None and result.labelled:
        return _measured(result, where, _after_retrieve(config, labelled=True))
    shown = 1 if config.query is not None else _QUERIES_SHOWN
    if config.query is None:  # the first ones
        result = replace(result, neighbours={row: entries[:shown] for row, entries in result.neighbours.items()})

    def show() -> None:
        _print_parts(neighbours_tables(result, shown))
        _print(f"written to {where}")
        say_next(_after_retrieve(config, labelled=result.labelled))

    few = {row: entries[-shown:] for row, entries in result.neighbours.items()}
    return Outcome(replace(in_short(result), neighbours=few).to_json(), show)


def knn(config: KnnConfig) -> Outcome:
    from vicc.evaluation.classify_features import knn as run
    from vicc.evaluation.classify_features import result_path

    return _measured(run(config), result_path(config), _command("probe", *_encoder_flags(config)))


def probe(config: ProbeConfig) -> Outcome:
    from vicc.evaluation.classify_features import probe as run
    from vicc.evaluation.classify_features import result_path

    following = _command("table", config.run) if config.run is not None else _command("table", result_path(config))
    return _measured(run(config), result_path(config), following)


def _after_retrieve(config: RetrieveConfig, *, labelled: bool) -> str:
    """A page to look at, which runs have; encoders alone are classified, or asked where no video has a label."""
    flags = _encoder_flags(config)
    if config.run is not None and config.out is None:
        return _command("report", *flags)
    return _command("knn", *flags) if labelled else f"{_command('retrieve', *flags)} --query VIDEO"


def _encoder_flags(config: MeasuredEncoders) -> list[object]:
    """What was measured, as flags of another command."""
    which = ["--run", config.run] if config.run is not None else ["--encoder", *config.encoder]
    return [*which, *(["--store", config.store] if config.videos is None else ["--videos", config.videos])]


def _command(*words: object) -> str:
    """A command of vicc's as a shell takes it."""
    return shlex.join(["vicc", *map(str, words)])


def _measured(result: "Result", where: "Path", following: str) -> Outcome:
    """What a command that measures leaves; the first process shows it, and names the command that is useful next."""
    from vicc.evaluation.result import in_short
    from vicc.progress import process_number
    from vicc.results.printed import result_table

    def show() -> None:
        if process_number() != 0:
            return
        print_table(result_table(result))
        _print(f"written to {where}")
        say_next(following)

    return Outcome(in_short(result).to_json(), show)


def table(config: TableConfig) -> Outcome:
    from vicc.results.formats import render, text_table
    from vicc.results.table import show_table

    sheet, document = show_table(config)

    def show() -> None:
        if config.out is not None:
            _print(f"written to {config.out}")
        elif config.format == "text":
            print_table(text_table(sheet))
            for note in sheet.notes:
                _print(note)
            say_next(_after_table(config, document))
        else:
            print(render(sheet, config.format), end="")

    return Outcome(document, show)


def _after_table(config: TableConfig, document: Any) -> str:
    """From many to two, from all classes of one to its classes, and to which are taken for which.

    Args:
        document: of the table shown; of models, those that can be compared stand in one group of columns.
    """
    from vicc.results.comparable import open_measured

    first, *others = config.results
    # A folder in which results lie further down is no result by itself.
    alone = [not Path(place).is_dir() or (Path(place) / "retrieval.json").exists() for place in config.results]
    if not alone[0]:
        return _command("runs", first)
    if config.view == "models" and [len(one["splits"]) for one in document["measurements"]] == [1]:
        if others and alone[1]:
            return _command("compare", first, others[0])
        names = [row.name for row in open_measured(first).rows if row.kind != "chance"]
        if not others and len(names) > 1:
            return _command("compare", *(f"{first}:{name}" for name in names[-2:]))
    return _command("table", first, "--view", "confusions" if config.view == "classes" else "classes")


def compare(config: CompareConfig) -> Outcome:
    from vicc.results.comparison import compare as run
    from vicc.results.printed import comparison_tables

    found = run(config)

    def show() -> None:
        _print_parts(comparison_tables(found))
        say_next(_command("table", *(side[0] for side in config.sides)))

    return Outcome(found.to_json(), show)


def fuse(config: FuseConfig) -> Outcome:
    from vicc.evaluation.result import in_short
    from vicc.results.fusion import fuse as run
    from vicc.results.fusion import fused_path
    from vicc.results.printed import result_table

    result = run(config)

    def show() -> None:
        print_table(result_table(result))
        _print(f"written to {fused_path(config)}")
        say_next(_command("compare", fused_path(config), config.results[0]))

    return Outcome(in_short(result).to_json(), show)


def import_(config: ImportConfig) -> Outcome:
    from vicc.files import require_writable
    from vicc.published.importing import import_published

    require_writable(config.out / "config.json")
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
        rows = [[name, str(value)] for name, value in facts.items() if value is not None]
        print_table(TextTable(["found", found.file], [rows]))
        for what, names in (("left out", found.left_out), ("missing in the file", found.missing)):
            if names:
                _print(f"{what}, {len(names)} tensors: {', '.join(names)}")
        _print("left out: the optimiser's state, since vicc resumes no published training")
        measure = "retrieve --encoder" if found.classes is None else "test --classifier"
        say_next(f"vicc {measure} {_word(config.out)} --store STORE")

    return Outcome(asdict(found), show)


def export(config: ExportConfig) -> Outcome:
    from vicc.files import require_writable
    from vicc.published.exporting import export_published

    require_writable(config.out)
    written = export_published(config.source, config.out)

    def show() -> None:
        _print(f"{written.file}: {written.title}, {written.backbone}, {written.tensors} tensors; optimizer is empty")
        if written.lacks:
            _print(f"not in {config.source}, so not in the file: {', '.join(written.lacks)}")
        say_next(f"give {written.file} to the published code, or back: vicc import {_word(written.file)} --out FOLDER")

    return Outcome(asdict(written), show)


def report(config: ReportConfig) -> Outcome:
    from vicc.results.page import write_report

    path = write_report(config)

    def show() -> None:
        _print(f"report: {path.absolute()}")
        place = ["--store", config.store] if config.videos is None else ["--videos", config.videos]
        say_next(f"{_command('retrieve', '--run', config.run, *place)} --query VIDEO, for one video's neighbours")

    return Outcome({"report": str(path), "bytes": path.stat().st_size}, show)


def runs(config: RunsConfig) -> Outcome:
    from vicc.results.printed import runs_tables
    from vicc.results.runs import compare_runs

    found = compare_runs(config)

    def show() -> None:
        _print_parts(runs_tables(found))
        if config.out is not None:
            _print(f"plot: {config.out.absolute()}")
        following = next((run.following for run in found if run.following), None)
        if following is not None:
            say_next(following)

    return Outcome([asdict(run) for run in found], show)


def recipes(config: RecipesConfig) -> Outcome:
    from vicc.cli.recipes import list_recipes, show_recipe

    return list_recipes() if config.name is None else show_recipe(config.name, config)


def bench(config: BenchConfig) -> Outcome:
    from vicc.data.bench import bench_data

    result = bench_data(config)

    def show() -> None:
        rows = []
        for row in result.loading:
            median, smallest, largest = row.samples_per_second
            shares = [f"{share:.0%}" for share in (row.read, row.decode, row.augment)]
            samples = f"{median:.1f} ({smallest:.1f} to {largest:.1f})"
            rows.append([" and ".join(row.streams), samples, f"{median * 2 * len(row.streams):.0f}", *shares])
        header = ["streams", "samples/s (median, range)", "clips/s", "read", "decode", "augment"]
        print_table(TextTable(header, [rows]))
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


def demo(config: DemoConfig) -> Outcome:
    from vicc.cli.demo import walk

    return walk(config)


def _reasons(title: str, entries: list[tuple[str, str]]) -> None:
    if entries:
        print_table(TextTable([title, "reason"], [entries]))


def _print_parts(parts: "Iterable[TextTable | str]") -> None:
    """Tables and lines in their order."""
    for part in parts:
        if isinstance(part, TextTable):
            print_table(part)
        else:
            _print(part)


_MOTION_OF_RGB = " --motion diff"  # of a store without flow


def say_next(command: str) -> None:
    """The last line of a command that ended well: what is usually given after it."""
    _print(f"next: {command}")


def _word(place: "Path | str | None") -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(place))
