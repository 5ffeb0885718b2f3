"""`python -m promptgen.training.demo`: make the demo model, whole or in parts, or measure it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from .recipe import TINY_RECIPE, Recipe


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m promptgen.training.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="make the checkpoint from nothing: all that follows")
    train.add_argument("--output", type=Path, required=True, help="folder; the model: both/final in it")
    eyes = commands.add_parser("eyes", help="warm up the vision tower; the checkpoint to train answers with")
    eyes.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    scenes = commands.add_parser("scenes", help="draw pictures, and a table of the answers to train with")
    scenes.add_argument("--output", type=Path, required=True, help="folder for pictures and table")
    for command in (train, eyes):
        command.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps")
        command.add_argument(
            "--tiny", action="store_true", help="a few steps of a tiny network, to try the machinery"
        )
    for command in (train, eyes, scenes):
        command.add_argument("--workers", type=int, help="processes that draw (default: one per core)")
    scenes.add_argument("--scenes", type=int, default=Recipe().scenes)
    scenes.add_argument("--seed", type=int, default=0, help="offset into the seeds kept for training")

    evaluate = commands.add_parser(
        "evaluate", help="share of stated attributes that are right, unseen scenes"
    )
    evaluate.add_argument("--scenes", type=int, default=500)
    evaluate.add_argument("--seed", type=int, default=0, help="offset into the seeds kept for evaluation")
    evaluate.add_argument("--model", default="demo", help="demo (default) or a checkpoint folder")
    evaluate.add_argument("--device", default="cpu")
    evaluate.add_argument("--wrong", type=int, default=0, help="also print so many wrong answers")

    examples = commands.add_parser("examples", help="draw the pictures of the examples folder")
    examples.add_argument("--output", type=Path, required=True, help="folder for the pictures")

    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    for chatty in ("httpx", "accelerate"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on a GPU
    if options.command == "train":
        from .train import train as train_model

        recipe = TINY_RECIPE if options.tiny else Recipe()
        model = train_model(options.output, recipe, device=options.device, workers=options.workers)
        sys.stdout.write(f"{model}\n")
        return 0
    if options.command == "eyes":
        from .warm_up import warm_up

        recipe = TINY_RECIPE if options.tiny else Recipe()
        warm_up(options.output, recipe, device=options.device, workers=options.workers)
        return 0
    if options.command == "scenes":
        from .scene_files import write_scenes
        from .scenes import TRAINING_SEEDS

        seeds = TRAINING_SEEDS[options.seed :][: options.scenes]
        sys.stdout.write(f"{write_scenes(options.output, seeds, workers=options.workers)}\n")
        return 0
    if options.command == "examples":
        from .examples import EXAMPLES

        options.output.mkdir(parents=True, exist_ok=True)
        for example in EXAMPLES:
            example.write(options.output)
        return 0
    from .evaluate import evaluate as evaluate_model
    from .evaluate import table

    report = evaluate_model(options.model, scenes=options.scenes, offset=options.seed, device=options.device)
    sys.stdout.write(table(report, wrong=options.wrong))
    return 0


if __name__ == "__main__":
    sys.exit(main())
