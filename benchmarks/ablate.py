"""What learns best on small data: variants of a training at equal CPU time, by folds, with ceilings beside them.

    OMP_NUM_THREADS=1 python benchmarks/ablate.py --data fights=DIR demo=DIR --split demo=folders --out FOLDER \\
        --variants swapped contrast contrast+size-64 --against swapped --seconds 120

A variant is one of the names below, or several joined by "+": the first says which stages are trained and by which
loss, the others change it. Rows stand beside chance, hand-made and untrained ones, and ceilings: the same small
encoders from the same random weights with labels, of each stream and of both.

Time. Every stage gets --seconds of CPU time in one thread (a variant with a budget divides that among its stages). The
loading of clips is in it, since it differs between variants and whoever trains waits for it; checkpoints, small
evaluations and measuring are not. What a step takes is timed on a few real ones beforehand and kept in
FOLDER/DATA/timing.json; the number of steps, and with it the cosine, follows from that and does not change when the
command is given again. So start on a quiet machine.

Videos. By default every video is tested once a seed, in folds that keep sources whole. --inner N measures on N folds
of the *training* videos of each fold (or of the split that is given) and never touches test videos: choose there.
Without it the test folds are measured; --inner-choice N adds the row of what N inner folds chose for each test fold.

Kept. Whatever is finished stays in FOLDER and the same command continues, after Ctrl-C too. At its end it writes
table.md, table.json and table.png (inner-table with --inner), with --choose also choose.md: how well each quantity of
the log, none of which knows a label, orders the runs as R@1 does. --plan and --tables start nothing.

Variants, then changes:
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ablate_jobs import (
    LABELS,
    Clock,
    Data,
    Job,
    all_jobs,
    describe_references,
    inner_splits,
    require_same_recipe,
    run_job,
)
from ablate_table import correlations, document, draw, markdown
from ablate_variants import VARIANTS, build_recipe

from vicc import ViccError
from vicc.errors import Diverged
from vicc.files import read_json, write_json
from vicc.progress import complain, say
from vicc.training.engine import Stopped

_STOPPED, _REFUSED = 130, 2  # exit statuses, as those of the command line


def main(words: Sequence[str] | None = None) -> int:
    """Measure what is not measured yet and write the tables; the exit status."""
    options = read_options(words)
    try:
        datas = read_data(options)
        for name in options.variants:
            build_recipe(name, options.set)  # refused at once, and not after hours
        jobs = [job for data in datas for job in all_jobs(data, options, inner=options.inner)]
        if options.plan:
            print(plan(jobs, options))
            return 0
        if not options.tables:
            say(f"{os.cpu_count()} cores, load at the start {os.getloadavg()[0]:.2f}; {describe_references(options)}")
            run_all(datas, jobs, options)
        write_tables(datas, options)
    except (Stopped, KeyboardInterrupt):
        say("stopped; the same command continues")
        return _STOPPED
    except ViccError as error:
        complain(str(error))
        return _REFUSED
    return 0


def run_all(datas: Sequence[Data], jobs: Sequence[Job], options: argparse.Namespace) -> None:
    """Every job that is not finished, in its order."""
    clocks = {}
    for data in datas:
        data.prepare(folds=options.folds, inner=options.inner)
        split = data.outer_splits(options.folds)[0]
        split = inner_splits(split, options.inner)[0] if options.inner else split
        clocks[data] = Clock(data, split, cache_mb=options.cache_mb)
    left = [job for job in jobs if not job.finished]
    for job in jobs:
        if job.finished:
            require_same_recipe(job, clocks[job.data], options)
    for number, job in enumerate(left):
        hours = sum(expected_seconds(later, options) for later in left[number:]) / 3600
        what = f"{job.data.name}, {job.name}, seed {job.seed}, {job.split}"
        say(f"[{number + 1} of {len(left)}] {what}; {hours:.2f} h left")
        is_new, began = not job.run.exists(), time.monotonic()
        try:
            run_job(job, clocks[job.data], options)
        except Diverged as error:  # such as at too large a rate: no reason to leave out all the others
            say(f"{what} is left out: {error}")
            continue
        if is_new:
            write_json(job.run / "took.json", {"seconds": round(time.monotonic() - began, 1)})


def expected_seconds(job: Job, options: argparse.Namespace) -> float:
    """As long as finished ones of its kind took, else the time of its training alone."""
    alike = job.run.parent.glob(f"{job.run.name.partition('-seed-')[0]}-seed-*/took.json")
    if took := [read_json(path, what="time")["seconds"] for path in alike]:
        return statistics.mean(took)
    if job.name == LABELS:
        return 2 * (options.ceiling_seconds or options.seconds)
    return options.seconds * build_recipe(job.name)[1] if job.name in options.variants and not options.steps else 0.0


def plan(jobs: Sequence[Job], options: argparse.Namespace) -> str:
    """The grid, with what is left of it in hours of one core."""
    lines, total = ["| data | row | left | of | hours left | what |", "|---|---|---|---|---|---|"], 0.0
    for data, name in dict.fromkeys((job.data, job.name) for job in jobs):
        mine = [job for job in jobs if (job.data, job.name) == (data, name)]
        left = [job for job in mine if not job.finished]
        hours = sum(expected_seconds(job, options) for job in left) / 3600
        what = build_recipe(name)[0].description if name in options.variants else "reference"
        lines.append(f"| {data.name} | {name} | {len(left)} | {len(mine)} | {hours:.2f} | {what} |")
        total += hours
    end = f"{total:.1f} hours left; of rows of which nothing is finished yet, training to --seconds alone is counted."
    return "\n".join([*lines, "", end])


def write_tables(datas: Sequence[Data], options: argparse.Namespace) -> None:
    """Print and write all that is finished."""
    documents = [document(data, options) for data in datas]
    if not any(found["rows"] for found in documents):
        raise ViccError(f"There is nothing finished in {options.out} of what is asked for.")
    text = "\n".join(markdown(found, options) for found in documents)
    name = "inner-table" if options.inner else "table"
    (options.out / f"{name}.md").write_text(text, encoding="utf-8")
    write_json(options.out / f"{name}.json", {"words": sys.argv[1:], "tables": documents})
    draw(documents, options.out / f"{name}.png")
    print(text)
    if options.choose:
        jobs = {data: all_jobs(data, options, inner=options.inner) for data in datas}
        chosen = "\n".join(correlations(data, mine) for data, mine in jobs.items())
        (options.out / "choose.md").write_text(chosen, encoding="utf-8")
        print(chosen)


def read_data(options: argparse.Namespace) -> list[Data]:
    """The folders and their divisions.

    Raises:
        ViccError: not NAME=..., a folder that is not there, a split of data that is not given.
    """
    pairs = {}
    for flag, texts in (("--data", options.data), ("--split", options.split)):
        for text in texts:
            name, equals, value = text.partition("=")
            if not (name.isidentifier() and equals and value):
                raise ViccError(f"{flag} {text}: expected NAME=..., a word of letters, digits and _ before it.")
            pairs[flag, name] = value
    names = [name for flag, name in pairs if flag == "--data"]
    for flag, name in pairs:
        if name not in names:
            raise ViccError(f"{flag} {name}={pairs[flag, name]}: there is no --data {name}=DIR.")
        if flag == "--data" and not Path(pairs[flag, name]).exists():
            raise ViccError(f"--data {name}={pairs[flag, name]}: there is no such folder.")
    return [Data(name, Path(pairs["--data", name]), options.out / name, pairs.get(("--split", name))) for name in names]


def read_options(words: Sequence[str] | None) -> argparse.Namespace:
    names = "\n".join(f"  {name:22} {variant.sentence}" for name, variant in VARIANTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}{names}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=DIR", help="folders of labelled videos")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for everything that is made")
    parser.add_argument("--variants", nargs="*", default=[], help="what is compared; none: references alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=120.0, help="CPU seconds of a stage")
    length.add_argument("--steps", type=float, help="equal steps in place of equal time: so many times the demo's")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--split", nargs="*", default=[], metavar="NAME=SPLIT", help="a division in place of folds")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--inner", type=int, default=0, help="measure on so many folds of training videos alone")
    choice.add_argument("--inner-choice", type=int, default=0, help="add the row that so many inner folds choose")
    parser.add_argument("--against", metavar="ROW", help="row of the table that paired differences are taken from")
    parser.add_argument("--set", nargs="*", default=[], help="changes to all recipes, as vicc pretrain takes them")
    parser.add_argument("--no-ceilings", dest="ceilings", action="store_false", help="train nothing with labels")
    parser.add_argument("--ceiling-seconds", type=float, help="CPU seconds of a classifier; default: --seconds")
    parser.add_argument("--cache-mb", type=int, default=2048, help="memory for decoded frames")
    parser.add_argument("--choose", action="store_true", help="also write which quantity of the log orders as R@1 does")
    parser.add_argument("--plan", action="store_true", help="print the grid and the hours that are left")
    parser.add_argument("--tables", action="store_true", help="write the tables of what is finished by now")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
