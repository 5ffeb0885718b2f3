"""The caption server as a Ray Serve application: replicas on the GPUs of a cluster, behind one address.

    serve run --app-dir deploy ray_captions:app replicas=4 model=Florence-2-large-PromptGen-v2.0

Every machine needs ``pip install 'promptgen-tagger[server]' 'ray[serve]'``. Each replica is a server of its
own with its own queue, batches and model; Ray spreads the requests over them, starts and ends them, and
starts them anew where they die. ``$PROMPTGEN_API_KEY`` is the key of all of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ray import serve

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application


def app(settings: dict[str, str]) -> Application:
    """The application with ``NAME=VALUE`` of the command line.

    Args:
        settings: ``model``, names with commas; ``replicas``; ``gpus`` that each replica takes, 1 by default.
    """
    names = settings.get("model", "Florence-2-base-PromptGen-v2.0").split(",")
    keys = tuple(os.environ.get("PROMPTGEN_API_KEY", "").split())

    def captions() -> FastAPI:
        """Called in each replica. The lifespan of what it returns starts the engine, and ends it in order."""
        from promptgen.captioning import Captioner
        from promptgen.models_cache import shared_manager
        from promptgen.serving.app import create_app
        from promptgen.serving.metrics import Metrics
        from promptgen.serving.models import ServedModel, ServedModels
        from promptgen.serving.scheduler import Scheduler
        from promptgen.serving.settings import ServerSettings

        models = ServedModels(ServedModel.of(Captioner(name)) for name in names)
        options = ServerSettings(api_keys=keys)
        metrics = Metrics()
        return create_app(options, Scheduler(models, options.limits, shared_manager(), metrics), metrics)

    @serve.deployment(
        num_replicas=int(settings.get("replicas", "1")),
        ray_actor_options={"num_gpus": float(settings.get("gpus", "1"))},
        max_ongoing_requests=64,  # of one replica, so that its batches are full; more wait at Ray
        graceful_shutdown_timeout_s=375,  # a request's deadline, and some
    )
    @serve.ingress(captions)
    class Captions:
        """A caption server."""

    return Captions.bind()
