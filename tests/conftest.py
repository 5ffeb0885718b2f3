"""What holds for the whole test run."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from .browser import Editor, open_browser, open_editor
from .comfyui_host import Checkout, Host, UnavailableError, find_checkouts, start_host
from .command_line import promptgen
from .serving_host import demo_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser


__all__ = ["demo_server", "promptgen"]  # fixtures

# The same examples each time, so that no change fails for what it has not touched. To search for others:
# python dev.py test -- --hypothesis-profile default
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Heed Ctrl-C even when the run was started in the background.

    Shells make background commands ignore SIGINT, and the processes that tests start and stop with it would
    inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Have each test, and the fixtures that are made for it, draw the same random numbers every time."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file run in one process; those in a ComfyUI in one per version, which starts it once.

    Of two processes one does nothing else: two ComfyUIs beside each other would only take each other's cores.
    """
    from xdist.scheduler import LoadScopeScheduling

    versions = {checkout.id for checkout in _checkouts()}
    apart = (config.option.numprocesses or 0) > 2

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            version: set[str] = versions.intersection(test.partition("[")[2].removesuffix("]").split("-"))
            return "comfyui" + (version.pop() if apart else "") if version else file

    return ByFile(config, log)


def _checkouts() -> list[Any]:
    try:
        return [pytest.param(checkout, id=checkout.version) for checkout in find_checkouts()]
    except UnavailableError as reason:
        return [pytest.param(None, id="no-host", marks=pytest.mark.skip(reason=str(reason)))]


@pytest.fixture(scope="session", params=_checkouts())
def comfyui_checkout(request: pytest.FixtureRequest) -> Checkout:
    """Each ComfyUI on this machine that can be started."""
    checkout: Checkout = request.param
    try:
        checkout.interpreter()
    except UnavailableError as reason:
        pytest.skip(str(reason))
    return checkout


@pytest.fixture(scope="session")
def host(comfyui_checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Each of them, running with this pack alone; one at a time, for all tests that use it."""
    with start_host(
        comfyui_checkout, tmp_path_factory.mktemp(f"comfyui-{comfyui_checkout.version}")
    ) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium, for all tests of a file."""
    with open_browser() as running:
        yield running


@pytest.fixture
def editor(browser: Browser, host: Host) -> Iterator[Editor]:
    """A page of it that shows ``host``."""
    with open_editor(browser, host) as opened:
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """What the host wrote at the end belongs to the report of a test that failed with it."""
    report: pytest.TestReport = yield  # type: ignore[assignment,misc]
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and isinstance(host, Host):
        report.sections.append(("the end of ComfyUI's log", host.log()[-4000:]))
    return report  # type: ignore[return-value]
