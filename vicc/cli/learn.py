"""Commands that train, and the recipes they train by."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from vicc.cli.configs import RecipesConfig
from vicc.cli.outcome import EXIT_STOPPED, Outcome, say_next, shell_word
from vicc.evaluation.configs import ClassifierConfig, FinetuneConfig, ProbeClipsConfig
from vicc.text_table import TextTable, print_line, print_table
from vicc.training.configs import PretrainConfig, TrainingConfig

if TYPE_CHECKING:
    from vicc.training.slurm import SubmittedStage
    from vicc.training.stage import Recipe, Stage

Trained = TypeVar("Trained")


def pretrain(config: PretrainConfig) -> Outcome:
    from vicc.recipes import create_recipe

    recipe = create_recipe(config.recipe, motion=config.motion, views=config.views, changes=config.set)
    recipe.require_stages(config.stages)

    # Only now, with what is wrong with the words said: these take seconds.
    from vicc.training.plan import describe_costs
    from vicc.training.pretrain import pretrain as run
    from vicc.training.slurm import in_a_job, planned_here, submit_stages

    if config.launcher == "slurm":
        submitted = submit_stages(
            config,
            recipe,
            run(recipe, planned_here(config)),
            wanted=config.stages or [stage.name for stage in recipe.stages],
            function="vicc.training.pretrain:pretrain",
            arguments=lambda stage: (recipe, in_a_job(config, stages=[stage])),
        )
        return _submitted(config, recipe, submitted)
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
                stage.start_from or summary.start or "random weights",
                stage.teacher or "-",
                f"{summary.batch_size} x {sum(stage.settings.clips_encoded())}",
                f"{summary.steps} of {summary.total_steps}" + early * f" (schedule {summary.schedule_steps})",
            ]
            rows.append([*cells, *([stage.method, state] if summary.cost is None else summary.cost.texts)])
        print_table(TextTable([*titles, *more], [rows]))
        if not config.dry_run:
            print_line(f"finished: encoders are in {config.run}/STAGE/encoder")
            say_next(f"vicc retrieve --run {shell_word(config.run)} {_videos_flag(config)}")
            return
        for line in describe_costs({stage.name: stage.cost for stage in stages if stage.cost is not None})[-1:]:
            print_line(line)
        say_next("the same command without --dry-run")

    return Outcome(document, show)


def finetune(config: FinetuneConfig) -> Outcome:
    return _train_classifier(config)


def probe_clips(config: ProbeClipsConfig) -> Outcome:
    return _train_classifier(config)


def _train_classifier(config: ClassifierConfig) -> Outcome:
    from vicc.evaluation.train_classifier import train_classifier as run
    from vicc.training.slurm import in_a_job, planned_here, submit_stages

    if config.launcher == "slurm":
        planned = run(planned_here(config))
        submitted = submit_stages(
            config,
            planned.recipe,
            [planned.summary],
            wanted=[planned.summary.name],
            function="vicc.evaluation.train_classifier:train_classifier",
            arguments=lambda stage: (in_a_job(config),),
        )
        return _submitted(config, planned.recipe, submitted)
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
            print_line("finished")
            say_next(f"vicc test --classifier {shell_word(config.run)} {_videos_flag(config)}")

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
    return Outcome({"run": str(config.run), "stopped": True}, lambda: None, EXIT_STOPPED)


def _submitted(config: TrainingConfig, recipe: "Recipe", submitted: "list[SubmittedStage]") -> Outcome:
    """What is said of a job for each stage that is not finished."""

    def show() -> None:
        if not submitted:
            print_line(f"{config.run}: all stages are finished, so there is nothing to submit")
            return
        if config.dry_run:
            print_line(
                f"# The job of {submitted[-1].stage}; the others differ in name and dependency\n{submitted[-1].script}"
            )
        rows = []
        for entry in submitted:
            cells = (str(config.slurm.processes), str(entry.steps), entry.job, entry.after, entry.log)
            rows.append([entry.stage, *(cell or "" for cell in cells)])
        print_table(TextTable(["stage", "processes", "steps", "job", "after", "log"], [rows]))
        if not config.dry_run:
            numbers = [entry.job or "" for entry in submitted]
            print_line(f"watch:  squeue --jobs={','.join(numbers)}; tail -F {submitted[0].log}")
            print_line(f"cancel: scancel {' '.join(numbers)}")
            print_line("Each job goes back to the queue by itself before its time is over.")

    jobs = [asdict(entry) for entry in submitted]
    return Outcome({"run": str(config.run), "recipe": recipe.name, "dry_run": config.dry_run, "jobs": jobs}, show)


def _videos_flag(config: TrainingConfig) -> str:
    return f"--store {shell_word(config.store)}" if config.videos is None else f"--videos {shell_word(config.videos)}"


def recipes(config: RecipesConfig) -> Outcome:
    from vicc.cli.recipes import list_recipes, show_recipe

    return list_recipes() if config.name is None else show_recipe(config.name, config)
