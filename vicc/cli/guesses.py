"""What was meant by a command line that is refused: text to put after the sentence that says so, or
nothing.
"""

import os
from pathlib import Path

from vicc.places import what_is_at
from vicc.words import did_you_mean, nearest

# What other programs call a flag, and the one here, if the command has it, else a field of the
# recipe's stages.
_OTHER_NAMES = {
    "lr": "learning-rate",
    "wd": "weight-decay",
    "bs b": "batch-size",
    "arch": "backbone",
    "model": "encoder classifier backbone",
    "network": "encoder backbone",
    "checkpoint ckpt weights": "encoder classifier start",
    "pretrained init": "start",
    "amp fp16 bf16 half": "precision",
    "jobs j num-workers processes": "workers",
    "output output-dir o dest": "out run store",
    "data data-dir dataset": "store videos",
    "input": "videos store",
    "gpu cuda": "device",
    "config": "recipe",
    "top-k": "k",
    "frames": "clip-frames",
    "n": "dry-run",
    "resolution": "short-side size",
}


def flag_meant(name: str, known: list[str], choices: dict[str, str], value: str | None) -> str:
    """Which flag an unknown one was meant to be, or which --set of a stage's field does the same.

    Args:
        name: the unknown flag, with its hyphens.
        known: the flags that there are.
        choices: the words that flags take, each with its flag: {"slurm": "--launcher"}.
        value: what stands after the unknown flag.
    """
    bare_name = name.lstrip("-").casefold()
    wanted = [bare_name]
    for others, ours in _OTHER_NAMES.items():
        if bare_name in others.split():
            wanted += ours.split()
    for other in wanted:
        if f"--{other}" in known:
            return f" Did you mean --{other}?"
    if bare_name == "resume":
        return " Nothing is needed for that: the same command with the same --run goes on where it was."
    if "--set" in known:
        stage = "classifier" if "--schedule" in known else "all"
        stage_fields = _stage_fields()
        for other in wanted:
            # A name that is nearly a flag's is rather that flag.
            close = nearest(other, stage_fields, number=1)
            if close and (other.replace("-", "_") == close[0] or not nearest(name, known)):
                return f" Did you mean --set {stage}.{close[0]}={value or 'VALUE'}?"
    word = name.lstrip("-")
    return f" Did you mean {choices[word]} {word}?" if word in choices else did_you_mean(name, known)


def _stage_fields() -> list[str]:
    from vicc.training.stage import stage_fields  # after a mistake only: it brings NumPy with it

    return stage_fields()


def stray_meant(word: str, unused: set[str]) -> str:
    """Which of the `unused` flags a word without a flag belongs to: what is there says so, or the
    word itself.
    """
    if word.startswith("-"):  # behind --, which makes a word of a flag
        return ""
    guesses = {
        "a run": ["--run"],
        "a store": ["--store"],
        "an encoder": ["--encoder"],
        "a stage of a run": ["--encoder"],
        "a classifier": ["--classifier", "--encoder"],
        "": [f"--{word}", "--store", "--run"],
    }
    what = what_is_at(Path(word))
    for flag in guesses.get(what, ["--videos", "--store"]):
        if flag in unused:
            return f" Did you mean {flag}?" if not what and flag == f"--{word}" else f" Did you mean {flag} {word}?"
    return ""


def torchrun_hint(missing: set[str]) -> str:
    """What became of a --run that is missing, if torchrun has started this."""
    if "TORCHELASTIC_RUN_ID" in os.environ and "--run" in missing:
        return " torchrun has a --run of its own: write torchrun ... -m -- vicc ..., with -- before vicc."
    return ""
