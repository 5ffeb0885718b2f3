"""What goes wrong between a client and the server: one class per reason, with its HTTP status."""

from __future__ import annotations

__all__ = [
    "BadRequestError",
    "BodyTooLargeError",
    "DeadlineError",
    "DrainingError",
    "EngineFailedError",
    "ForbiddenError",
    "KeyRefusedError",
    "ModelNotServedError",
    "QueueFullError",
    "ServingError",
    "SlowBodyError",
    "TooManyConnectionsError",
    "UnreadableImagesError",
]


class ServingError(Exception):
    """A request is refused or has failed. The message says why and what to do, in one line.

    Args:
        retry_after: seconds after which to try again may help; None if it will not.
    """

    status = 500
    code = "server_error"  # for programs; never changes

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(ServingError):
    """The request asks for something that does not exist or contradicts itself."""

    status = 400
    code = "bad_request"


class KeyRefusedError(ServingError):
    """The API key is missing or none of the server's."""

    status = 401
    code = "invalid_api_key"


class ForbiddenError(ServingError):
    """A web page of another place tries to use the server through its visitor's browser."""

    status = 403
    code = "forbidden"


class ModelNotServedError(ServingError):
    """The model is not among those of this server."""

    status = 404
    code = "model_not_found"


class SlowBodyError(ServingError):
    """The body did not arrive in time."""

    status = 408
    code = "body_timeout"


class BodyTooLargeError(ServingError):
    """The body, the picture or the number of pictures is above the server's limits."""

    status = 413
    code = "too_large"


class UnreadableImagesError(ServingError):
    """No picture of the request could be read."""

    status = 422
    code = "unreadable_image"


class QueueFullError(ServingError):
    """So much is waiting already that this would have to wait for too long."""

    status = 429
    code = "queue_full"


class TooManyConnectionsError(ServingError):
    """So many clients are connected already that one more is not served."""

    status = 503
    code = "too_many_connections"


class DrainingError(ServingError):
    """The server is on its way down and accepts nothing new."""

    status = 503
    code = "shutting_down"


class EngineFailedError(ServingError):
    """The model could not be loaded, or failed at this request."""

    status = 503
    code = "engine_failed"


class DeadlineError(ServingError):
    """The answer was not there in time; the work on it has been dropped."""

    status = 504
    code = "deadline"
