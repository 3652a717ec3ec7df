"""The tiny world end to end: imitation, offline, online, self-play, and one page about them."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llm_bridge.demo.arms import ETA, GAME_ETA, Arm, Bench, DemoSize
from llm_bridge.demo.page import write_demo_page
from llm_bridge.evaluation.cards import Card, write_card
from llm_bridge.evaluation.details import Details, frame_bytes
from llm_bridge.jobs.evaluate import summary_table
from llm_bridge.jobs.job import Say
from llm_bridge.storage.content import model_files
from llm_bridge.storage.records import DAMAGED, found_whole, write_record
from llm_bridge.tiny.world import TinyWorldRecipe, build, one_thread
from rlhf_theory.report.words import duration
from rlhf_theory.store import write_atomic

__all__ = ["DemoJob", "DemoSize"]


_DONE = "done.json"

QUICK = DemoSize(
    steps=250,
    prompts=64,
    held_out=32,
    pool_size=6,
    held_out_pool=8,
    samples=2,
    labels=192,
    rounds=2,
    epochs=1.0,
    self_play_rounds=1,
    dim=64,
)


@dataclass(frozen=True, kw_only=True)
class DemoJob:
    """Run the demonstration.

    Attributes
    ----------
    quick
        As small as it gets; shows that everything runs and nothing else.
    seed
        Of labels, pools, trainings and evaluation; the language model is the same for all.
    size
        How large it is; None takes the size that ``quick`` says.
    cache
        Where the language model is kept, see `tiny.cache_folder`.
    """

    quick: bool = False
    seed: int = 0
    size: DemoSize | None = field(default=None)
    cache: Path | None = None

    @property
    def _size(self) -> DemoSize:
        return self.size or (QUICK if self.quick else DemoSize())

    def study(self) -> dict[str, object]:
        """Return what the results depend on; see `Job`."""
        return {"command": "demo", "seed": self.seed, **asdict(self._size)}

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        s = self._size
        arms = [p.parent for p in sorted(out.glob(f"arms/*/{_DONE}"))]
        done = [arm.name for arm in arms if arm.suffix != DAMAGED]
        return [
            f"A Llama of 89 thousand weights, {s.steps} steps, unless it is in the cache.",
            f"Then {s.labels} labels each for offline DPO, its pessimistic version and the online "
            f"arms ({s.rounds} rounds), and self-play against a general preference.",
            f"Done already: {', '.join(done) or 'nothing'}.",
        ]

    def run(self, out: Path, say: Say) -> None:
        """Run what is missing and write the page; see `Job`."""
        # At this size a second thread only waits for the first.
        with one_thread():
            self._run(out, say)

    def _run(self, out: Path, say: Say) -> None:
        world = build(TinyWorldRecipe(steps=self._size.steps), self.cache)
        say(f"Language model: loss {world.losses[1]:.3f} nats per token, {world.folder}")
        bench = Bench(world, self._size, self.seed, out / "training")
        results: dict[str, list[Details]] = {}
        seconds = 0.0
        for name, arm in bench.arms.items():
            folder = out / "arms" / name
            found = _complete(folder)
            how = "found complete"
            if found is None:
                (out / "report.html").unlink(missing_ok=True)
                found = _carried_out(folder, arm, bench.card(name))
                how = duration(found[1])
            results[name] = found[0]
            seconds += found[1]
            say(f"{name} ({how}): {_headline(found[0][-1])}")
        if (out / "report.html").is_file():
            say(f"Report: {out / 'report.html'}")
            return
        last = {name: found[-1] for name, found in results.items()}
        write_atomic(out / "results.parquet", frame_bytes(summary_table(last)))
        page = write_demo_page(
            out,
            results,
            held_out=bench.judge,
            game=bench.game_judge,
            proxy=bench.offline_fit,
            problem=bench.problem,
            world=world,
            cards=[bench.card(name) for name in bench.arms if name != "reference"],
            spread=str(bench.oracle.spread(bench.problem.table)),
            facts={
                "Seed": self.seed,
                "Labels per arm": self._size.labels,
                "η": ETA,
                "η of the game": GAME_ETA,
                "Computing time": duration(seconds),
            },
        )
        say(f"Report: {page}")


def _headline(found: Details) -> str:
    names = ("fresh_gold", "fresh_kl_k1", "fresh_objective", "fresh_win_rate")
    return ", ".join(
        f"{name.removeprefix('fresh_')} {found.mean(name)[0]:.2f}"
        for name in names
        if name in found.per_prompt
    )


def _complete(folder: Path) -> tuple[list[Details], float] | None:
    """Return results and seconds of an arm that is complete in its folder, else None."""
    marker = found_whole(folder / _DONE, folder)
    if marker is None:
        return None
    found = [Details.load(folder, f"{t:03d}") for t in range(marker["policies"])]
    return found, float(marker["seconds"])


def _carried_out(folder: Path, arm: Arm, card: Card) -> tuple[list[Details], float]:
    """Carry out an arm; the file that says that it is complete comes last."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.perf_counter()
    found, model = arm()
    seconds = time.perf_counter() - start
    files = [name for t, details in enumerate(found) for name in details.save(folder, f"{t:03d}")]
    if model is not None:
        model.save(folder / "model")
        write_card(folder / "model", card)
        files += [f"model/{file.name}" for file in model_files(folder / "model")]
    write_record(folder / _DONE, {"policies": len(found), "seconds": seconds}, files)
    return found, seconds
