"""Commands of two words on a store that is there."""

from dataclasses import asdict

from vicc.cli.outcome import Outcome, say_next, shell_word
from vicc.data.configs import StoreCopyConfig, StoreDropConfig, StoreInfoConfig, StoreMergeConfig
from vicc.prepare.configs import StoreVerifyConfig
from vicc.text_table import TextTable, print_line, print_table


def store_info(config: StoreInfoConfig) -> Outcome:
    from vicc.data.maintenance import list_store
    from vicc.data.maintenance import store_info as run

    info = run(config.store)
    listed = list_store(config.store) if config.videos else []

    def show() -> None:
        per_frame = {stream: f"{count / max(info.frames, 1):,.0f} a frame" for stream, count in info.bytes.items()}
        rows = {
            "videos": f"{info.videos:,}" + f", {info.set_aside} skipped" * bool(info.set_aside),
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
            print_line(f"note: {problem}")
        say_next(f"vicc pretrain --store {shell_word(config.store)} --run RUN")

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
        print_line(f"{found.store}: {found.videos:,} videos, {found.bytes / 1e6:,.1f} MB read{frames}: {verdict}")
        if found.damage:
            store = shell_word(config.store)
            say_next(f"vicc store drop {store} VIDEO ..., then vicc prepare VIDEOS --store {store}")

    return Outcome(asdict(found), show, 1 if found.damage else 0)


def store_merge(config: StoreMergeConfig) -> Outcome:
    from vicc.data.maintenance import merge_stores

    merged = merge_stores(config.stores, config.store, shard_bytes=config.shard_mb << 20)

    def show() -> None:
        twice = f", {merged.twice} of them in several stores" * bool(merged.twice)
        print_line(
            f"{merged.store}: {merged.videos:,} videos of {len(merged.stores)} stores{twice}, {merged.shards} shards"
        )
        say_next(f"vicc pretrain --store {shell_word(merged.store)} --run RUN")

    return Outcome(asdict(merged), show)


def store_drop(config: StoreDropConfig) -> Outcome:
    from vicc.data.maintenance import drop_videos

    dropped = drop_videos(config.store, config.ids, labels=config.label, dry_run=config.dry_run)

    def show() -> None:
        if config.dry_run:
            for video_id in dropped.ids:
                print_line(video_id)
        verb = "would drop" if config.dry_run else "dropped"
        print_line(f"{verb} {len(dropped.ids)} of {dropped.store}, {dropped.bytes / 1e6:,.1f} MB")
        say_next(
            "the same command without --dry-run" if config.dry_run else f"vicc store info {shell_word(config.store)}"
        )

    return Outcome({**asdict(dropped), "dry_run": config.dry_run}, show)


def store_copy(config: StoreCopyConfig) -> Outcome:
    from vicc.data.maintenance import copy_store

    done = copy_store(config.source, config.target)

    def show() -> None:
        sent = f"{done.sent_bytes / 1e6:,.1f} of {done.bytes / 1e6:,.1f} MB sent"
        print_line(f"{done.target}: {done.videos:,} videos, {sent}, the rest was there")
        say_next(f"vicc store verify {shell_word(done.target)}")

    return Outcome(asdict(done), show)
