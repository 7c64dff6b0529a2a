"""Commands that make a store of videos: draw, prepare, check, divide, and measure how fast it
loads.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vicc.cli.outcome import Outcome, say_next, shell_word
from vicc.data.configs import BenchConfig
from vicc.places import is_url, what_is_at
from vicc.prepare.configs import CheckConfig, DemoVideosConfig, PrepareConfig, SplitsConfig
from vicc.text_table import TextTable, print_line, print_table

if TYPE_CHECKING:
    from vicc.data.survey import Survey
    from vicc.prepare.build import PrepareReport

_MOTION_OF_RGB = " --motion diff"  # of a store without flow


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
        print_line(f"{config.train} training and {config.test} test videos in {config.folder}")
        say_next(f"vicc prepare {shell_word(config.folder)} --store STORE")

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
        print_table(TextTable(["store", "videos", "frames", "size", "classes", "skipped"], [[cells]]))
        _reasons("skipped", [(entry.id, entry.reason) for entry in report.set_aside])
        _reasons("note on", list(report.notes.items()))
        for line in report.changes:
            print_line(line)
        if config.shard is None:
            say_next(
                f"vicc pretrain --store {shell_word(report.store)} --run RUN{_MOTION_OF_RGB * (config.flow == 'none')}"
            )

    return Outcome(asdict(report), show)


def _print_survey(survey: "Survey") -> None:
    """What a folder, list or store holds: found, passed over, labelled, grouped, split."""
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
            print_line(line)
        if estimate is None:
            why = "there is nothing new to decode" if nothing_new else "the videos that were tried cannot be read"
            print_line(f"no estimate: {why}")
            return
        print_line(
            f"preparing would take about {estimate.seconds / 60:.1f} minutes with {estimate.workers} "
            f"process{'es' * (estimate.workers > 1)} and {estimate.store_bytes / 1e6:,.0f} MB "
            f"(measured on {estimate.videos} of the videos)"
        )
        print_line(f"training would load {estimate.loading}, with two clips of 32 frames at 128 pixels")
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
            print_line(f"{len(videos) - len(shown)} more are readable, without remarks; --all lists them")
        counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
        counted = f"{len(videos)} video{'s' * (len(videos) != 1)}"
        copies = f"{report.duplicates} duplicate{'s' * (report.duplicates != 1)}"
        print_line(f"{counted}: {counts}; {copies}" + (", sampled" if config.fast else ""))
        if config.html is not None:
            print_line(f"contact sheet: {config.html.absolute()}")
        folders = [place for place in config.paths if what_is_at(Path(place)) != "a store" and not is_url(place)]
        if len(folders) == len(config.paths) == 1:
            say_next(f"vicc prepare {shell_word(folders[0])} --store STORE")

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
            print_line(note)
        print_line(
            f"written to {result.file}: use it as --split {result.split}:1 to {result.split}:{len(result.folds)}"
        )
        store = "STORE" if config.out is not None else shell_word(config.path)
        say_next(f"vicc pretrain --store {store} --run RUN --split {shell_word(result.split)}:1")

    return Outcome(asdict(result), show)


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
            print_line(f"{workers} loader worker{'s' * (workers > 1)}: {rate:.0f} clips/s each, both streams together")
        for method, rate in result.flow_frames_per_second.items():
            print_line(f"flow by {method}: {rate:.1f} frames/s a core")
        print_line(
            f"{result.bytes_per_frame:,.0f} bytes a frame, all streams; {result.videos} videos, {result.frames} frames"
        )
        print_line(
            f"a sample: two clips of {config.clip_frames} frames, {config.size} x {config.size}, {config.preset}"
        )
        say_next(
            f"vicc pretrain --store {shell_word(config.store)} --run RUN --dry-run, for the time of a whole training"
        )

    return Outcome(asdict(result), show)


def _reasons(title: str, entries: list[tuple[str, str]]) -> None:
    if entries:
        print_table(TextTable([title, "reason"], [entries]))
