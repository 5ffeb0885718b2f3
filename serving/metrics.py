"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from .watch import Watch

if TYPE_CHECKING:
    from prometheus_client import Metric

    from .body_limits import HeldBytes
    from .scheduler import Scheduler

__all__ = ["Metrics", "router"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics(Watch):
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time and open files, on Linux
        count, distribution, model = self._count, self._distribution, ("model",)
        self._http = count("http_requests", "Requests, by route and status.", ("route", "status"))
        self._http_seconds = distribution(
            "http_request_seconds", "From a request's headers to the end of its answer.", ("route",), _SECONDS
        )
        self._accepted = count("pictures_accepted", "Pictures that came into the queue.", ())
        self._ended = count(
            "requests",
            "Requests for captions, by how they ended: answered, dropped (the client went), an error.",
            ("model", "outcome"),
        )
        self._answers = count("answers", "Answers given.", ("model", "instruction"))
        self._wait_seconds = distribution(
            "picture_wait_seconds", "What pictures waited in the queue.", model, _SECONDS
        )
        self._picture_seconds = distribution(
            "picture_seconds", "From a picture's arrival to its answers.", model, _SECONDS
        )
        self._batch_pictures = distribution("batch_pictures", "Pictures of a batch.", model, _SIZES)
        self._batch_answers = distribution("batch_answers", "Answers of a batch.", model, _SIZES)
        self._batch_seconds = distribution("batch_seconds", "Time that a batch took.", model, _SECONDS)

    def _count(self, name: str, text: str, labels: Sequence[str]) -> Counter:
        return Counter(f"promptgen_{name}", text, labels, registry=self.registry)

    def _distribution(
        self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> Histogram:
        return Histogram(f"promptgen_{name}", text, labels, registry=self.registry, buckets=buckets)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered, or its client has gone."""
        self._http.labels(route, str(status)).inc()
        self._http_seconds.labels(route).observe(seconds)

    def accepted(self, pictures: int) -> None:
        self._accepted.inc(pictures)

    def batch(self, model: str, pictures: int, answers: int, seconds: float) -> None:
        self._batch_pictures.labels(model).observe(pictures)
        self._batch_answers.labels(model).observe(answers)
        self._batch_seconds.labels(model).observe(seconds)

    def answered(self, model: str, instructions: Sequence[str], waited: float, seconds: float) -> None:
        self._wait_seconds.labels(model).observe(waited)
        self._picture_seconds.labels(model).observe(seconds)
        for instruction in instructions:
            self._answers.labels(model, instruction).inc()

    def ended(self, model: str | None, outcome: str) -> None:
        self._ended.labels(model or "", outcome).inc()


class _Present:
    """What is so at the moment at which somebody asks."""

    def __init__(self, scheduler: Scheduler, held: HeldBytes) -> None:
        self._scheduler = scheduler
        self._held = held

    def collect(self) -> Iterator[Metric]:
        scheduler = self._scheduler
        yield _gauge("pictures_waiting", "Pictures accepted and not answered yet.", scheduler.waiting)
        yield _gauge("pictures_waiting_limit", "The most of them.", scheduler.limits.queued)
        yield _gauge("body_bytes", "Bytes of the bodies of requests in memory.", self._held.count)
        yield _gauge("shutting_down", "1 once nothing new is accepted.", scheduler.draining)
        yield _gauge("engine_healthy", "0 once the engine has died.", scheduler.healthy)
        loaded = GaugeMetricFamily(
            "promptgen_model_bytes", "Bytes of the weights of each model that is loaded.",
            labels=("model", "device", "dtype", "quantization"),
        )  # fmt: skip
        sizes: dict[tuple[str, str, str, str], int] = {}
        for info in scheduler.manager.loaded():  # with adapters and without: one name, and shared weights
            label = (info.name, info.device, info.dtype, info.quantization)
            sizes[label] = sizes.get(label, 0) + info.nbytes
        for label, nbytes in sizes.items():
            loaded.add_metric(label, nbytes)
        yield loaded


def router(metrics: Metrics, scheduler: Scheduler, held: HeldBytes) -> APIRouter:
    """``/metrics``."""
    metrics.registry.register(_Present(scheduler, held))
    routes = APIRouter(tags=["health"])

    @routes.get("/metrics", summary="Counts and times, for Prometheus", response_class=Response)
    async def read() -> Response:
        return Response(generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return routes


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"promptgen_{name}", text, value=float(value))
