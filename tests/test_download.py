"""Downloads: the real huggingface_hub client, in processes of its own, against a local hub."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .hub_server import FakeHub, running_hub

REFERENCE = Path(__file__).parent / "data" / "florence2-tiny-original"
HUB_ID = "MiaoshouAI/Florence-2-base-PromptGen-v2.0"
NAME = "Florence-2-base-PromptGen-v2.0"
MIB = 2**20

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the clients are sent POSIX signals")

SMALL = (
    "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json",
)  # fmt: skip


def small_files() -> dict[str, bytes]:
    return {name: (REFERENCE / name).read_bytes() for name in SMALL}


def safetensors_bytes(nbytes: int, seed: int = 0) -> bytes:
    """A whole safetensors file with one float32 tensor of random contents."""
    header = json.dumps({"t": {"dtype": "F32", "shape": [nbytes // 4], "data_offsets": [0, nbytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(nbytes)


def single(nbytes: int = 300_000) -> dict[str, bytes]:
    return small_files() | {
        "model.safetensors": safetensors_bytes(nbytes),
        "pytorch_model.bin": b"never fetched",
        "modeling_florence2.py": b"raise SystemExit('remote code was run')",
        "README.md": b"# card",
        "images/picture.png": b"",
    }


def sharded() -> dict[str, bytes]:
    shards = {f"model-0000{i}-of-00003.safetensors": safetensors_bytes(200_000, i) for i in (1, 2, 3)}
    index = {"metadata": {}, "weight_map": {f"t{i}": name for i, name in enumerate(shards)}}
    return small_files() | shards | {"model.safetensors.index.json": json.dumps(index).encode()}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


@dataclass
class Answer:
    status: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        assert self.status == 0, self.err
        return Path(self.out.strip().splitlines()[-1])

    @property
    def error(self) -> str:
        assert self.status == 3, (self.status, self.out, self.err)
        return self.out


class Client:
    """Runs ``ensure_checkpoint`` and the like in fresh interpreters with a cache of their own."""

    def __init__(self, home: Path, hub: FakeHub) -> None:
        self.home = home
        self.cache = home / "hf" / "hub"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "PROMPTGEN_")) and "proxy" not in name.lower()
        } | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HOME": str(home), "NO_PROXY": "*"}
        self.environment.pop("XDG_CONFIG_HOME", None)

    def start(self, code: str, **environment: str) -> subprocess.Popen[str]:
        lines = [
            "import sys",
            "from promptgen.models_cache import *",
            "try:",
            *(f"    {line}" for line in code.splitlines()),
            "except ModelFilesError as error:",
            "    print(type(error).__name__, error, sep='\\n')",
            "    sys.exit(3)",
        ]
        return subprocess.Popen(
            [sys.executable, "-c", "\n".join(lines)],
            env=self.environment | environment, cwd=self.home, text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, code: str, **environment: str) -> Answer:
        process = self.start(code, **environment)
        out, err = process.communicate(timeout=90)
        return Answer(process.returncode, out, err)

    def ensure(self, model: str = HUB_ID, arguments: str = "", **environment: str) -> Answer:
        return self.run(f"print(ensure_checkpoint({model!r}{arguments}))", **environment)


@pytest.fixture
def client(tmp_path: Path, hub: FakeHub) -> Client:
    return Client(tmp_path, hub)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def no_parts(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.name.endswith((".part", ".incomplete", ".tmp"))]


@pytest.mark.parametrize("kind", ["checkpoint", "adapter"])
def test_repositories_of_one_last_name_have_folders_of_their_own(
    hub: FakeHub, client: Client, kind: str
) -> None:
    def files(seed: int) -> dict[str, bytes]:
        weights = safetensors_bytes(30_000, seed)
        if kind == "checkpoint":
            return {**small_files(), "model.safetensors": weights}
        return {"adapter_config.json": b"{}", "adapter_model.safetensors": weights}

    owners = ["alice", "bob", "carol"]
    for seed, owner in enumerate(owners):
        hub.add(f"{owner}/style", files(seed))
    asked = [f"{owner}/style" for owner in owners * 2]
    answer = client.run(
        "register_folder('models', download=True)\n"
        f"for name in {asked}:\n    print(ensure_{kind}(name, progress=False))"
    )
    folders = [client.home / line for line in answer.out.splitlines()]
    assert len(set(folders)) == 3, answer.err
    assert folders[:3] == folders[3:]
    assert [contents(folder) for folder in folders[:3]] == [files(seed) for seed in range(3)]
    assert "damaged" not in answer.err


def test_downloads_what_is_needed_into_the_cache(hub: FakeHub, client: Client) -> None:
    files = single()
    commit = hub.add(HUB_ID, files).commit
    folder = client.ensure(NAME).folder
    assert folder == client.cache / f"models--{HUB_ID.replace('/', '--')}" / "snapshots" / commit
    wanted = {**small_files(), "model.safetensors": files["model.safetensors"]}
    assert contents(folder) == wanted
    assert hub.resolved() == set(wanted)
    assert no_parts(client.home)


def test_the_cache_is_one_that_the_client_itself_understands(hub: FakeHub, client: Client) -> None:
    hub.add(HUB_ID, single())
    folder = client.ensure().folder
    count = len(hub.requests)
    answer = client.run(
        "from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache\n"
        "info = scan_cache_dir()\n"
        "assert not info.warnings, info.warnings\n"
        f"assert [repo.repo_id for repo in info.repos] == [{HUB_ID!r}]\n"
        f"assert try_to_load_from_cache({HUB_ID!r}, 'model.safetensors')\n"
        f"print(snapshot_download({HUB_ID!r}, local_files_only=True))"
    )
    assert answer.folder == folder
    assert len(hub.requests) == count


def test_what_the_client_has_downloaded_is_used_as_it_is(hub: FakeHub, client: Client) -> None:
    hub.add(HUB_ID, single())
    code = f"from huggingface_hub import snapshot_download\nprint(snapshot_download({HUB_ID!r}))"
    folder = client.run(code).folder
    count = len(hub.requests)
    assert client.ensure().folder == folder
    assert len(hub.requests) == count
    assert "damaged" not in client.run(f"print(verify_checkpoint({HUB_ID!r}))").out


def test_a_partial_snapshot_of_the_client_is_completed(hub: FakeHub, client: Client) -> None:
    hub.add(HUB_ID, single())
    code = f"from huggingface_hub import hf_hub_download\nprint(hf_hub_download({HUB_ID!r}, 'config.json'))"
    partial = client.run(code).folder.parent
    assert client.run(f"print(find_checkpoint({HUB_ID!r}))").out.strip() == "None"
    assert client.ensure().folder == partial
    assert (partial / "model.safetensors").is_file()


def test_a_complete_cache_needs_no_request_and_no_network(hub: FakeHub, client: Client) -> None:
    hub.add(HUB_ID, single())
    folder = client.ensure().folder
    count = len(hub.requests)
    assert client.ensure().folder == folder
    assert client.ensure(arguments=", offline=True").folder == folder
    assert client.ensure(HF_HUB_OFFLINE="1").folder == folder
    assert client.ensure(HF_ENDPOINT="http://127.0.0.1:9").folder == folder
    assert len(hub.requests) == count


def test_goes_on_after_the_connection_is_cut(hub: FakeHub, client: Client) -> None:
    files = single(40 * MIB)
    hub.add(HUB_ID, files)
    hub.cuts["model.safetensors"] = [15 * MIB, 12 * MIB]  # the client writes blocks of 10 MiB
    folder = client.ensure().folder
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert [request.first for request in hub.transfers()] == [0, 10 * MIB, 20 * MIB]
    assert sum(request.sent for request in hub.transfers()) < len(files["model.safetensors"]) + 20 * MIB


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_goes_on_in_the_next_process(hub: FakeHub, client: Client, how: signal.Signals) -> None:
    files = single(40 * MIB)
    hub.add(HUB_ID, files)
    hub.hold["model.safetensors"] = 25 * MIB
    process = client.start(f"print(ensure_checkpoint({HUB_ID!r}))")
    assert hub.held.wait(30)
    assert _grows_to(client.home, 20 * MIB)
    process.send_signal(how)
    process.communicate(timeout=30)
    assert process.returncode != 0
    hub.released.set()

    assert client.run(f"print(find_checkpoint({HUB_ID!r}))").out.strip() == "None"
    hub.requests.clear()
    folder = client.ensure().folder
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert [request.first for request in hub.transfers()] == [20 * MIB]
    assert no_parts(client.home)


def test_a_stopped_repair_counts_as_unfinished_although_all_that_is_needed_is_there(
    hub: FakeHub, client: Client
) -> None:
    """Without its generation settings a checkpoint loads, but writes other text."""
    files = {**small_files(), "model.safetensors": safetensors_bytes(300_000)}
    hub.add(HUB_ID, files)
    folder = client.home / "models" / NAME
    folder.mkdir(parents=True)
    for name in set(files) - {"model.safetensors", "generation_config.json"}:
        (folder / name).write_bytes(files[name])
    hub.hold["generation_config.json"] = 0
    process = client.start(f"print(ensure_checkpoint({str(folder)!r}))")
    assert hub.held.wait(30)
    process.kill()
    process.communicate(timeout=30)
    hub.released.set()
    assert (folder / "model.safetensors").is_file()
    assert client.run(f"print(find_checkpoint({str(folder)!r}))").out.strip() == "None"
    assert "not finished" in client.ensure(str(folder), HF_HUB_OFFLINE="1").error
    assert client.ensure(str(folder)).folder == folder
    assert contents(folder) == files


def _grows_to(folder: Path, nbytes: int) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if any(path.stat().st_size >= nbytes for path in folder.rglob("*.part")):
            return True
        time.sleep(0.05)
    return False


def test_progress_tells_every_byte_and_can_cancel(hub: FakeHub, client: Client) -> None:
    files = single(40 * MIB)
    hub.add(HUB_ID, files)
    code = (
        "seen = []\n"
        "def note(progress):\n"
        "    seen.append(progress)\n"
        "    if LIMIT and progress.done >= LIMIT: raise InterruptedError('cancelled by the host')\n"
        f"try:\n    ensure_checkpoint({HUB_ID!r}, progress=note)\n"
        "except InterruptedError as error:\n    print(error)\n"
        "print(seen[0].done, seen[-1].done, seen[-1].total, seen[-1].file)"
    )
    cancelled = client.run(f"LIMIT = {20 * MIB}\n" + code)
    assert cancelled.status == 0, cancelled.err
    assert "cancelled by the host" in cancelled.out
    total = sum(len(files[name]) for name in [*small_files(), "model.safetensors"])
    rest = client.run("LIMIT = 0\n" + code)
    assert rest.out.split() == [str(20 * MIB), str(total), str(total), "config.json"], rest.err


def test_a_bar_is_shown_on_a_terminal_only(hub: FakeHub, client: Client) -> None:
    import fcntl
    import pty
    import termios

    hub.add(HUB_ID, single())
    assert client.ensure().err == ""
    for quiet in (False, True):
        shutil.rmtree(client.cache)
        main, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        code = f"from promptgen.models_cache import *\nensure_checkpoint({HUB_ID!r}, progress={not quiet})"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=client.environment, cwd=client.home, stdout=subprocess.PIPE, stderr=terminal,
        )  # fmt: skip
        os.close(terminal)
        process.wait(30)
        shown = _read_all(main)
        os.close(main)
        assert (NAME in shown) is not quiet, shown
        assert "model.safetensors:" not in shown, "the client's own bar is shown beside ours"


def _read_all(terminal: int) -> str:
    read = b""
    while True:
        try:
            block = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end is closed
            block = b""
        if not block:
            return read.decode()
        read += block


def test_wrong_bytes_are_fetched_again(hub: FakeHub, client: Client) -> None:
    files = single()
    hub.add(HUB_ID, files)
    hub.wrong["model.safetensors"] = 1
    folder = client.ensure().folder
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_bytes_that_stay_wrong_never_count(hub: FakeHub, client: Client, name: str) -> None:
    hub.add(HUB_ID, single())
    hub.wrong[name] = 10
    error = client.ensure().error
    assert error.startswith("DownloadError")
    assert name in error
    assert "damaged twice" in error
    assert client.run(f"print(find_checkpoint({HUB_ID!r}))").out.strip() == "None"
    hub.wrong.clear()
    assert client.ensure().folder.is_dir()


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
def test_a_file_damaged_on_disk_is_found_and_mended(hub: FakeHub, client: Client, damage: str) -> None:
    files = single()
    hub.add(HUB_ID, files)
    folder = client.ensure().folder
    weights = folder / "model.safetensors"
    _damage(weights, damage)
    assert client.run(f"print(find_checkpoint({HUB_ID!r}))").out.strip() == "None"
    assert "model.safetensors" in client.run(f"print(verify_checkpoint({HUB_ID!r}))").out
    offline = client.ensure(arguments=", offline=True").error
    assert "model.safetensors: " in offline
    assert f"hf download {HUB_ID}" in offline

    hub.requests.clear()
    assert client.ensure().folder == folder
    assert weights.read_bytes() == files["model.safetensors"]
    assert hub.resolved() == {"model.safetensors"}, "only the bad file is fetched again"
    assert client.run(f"print(verify_checkpoint({HUB_ID!r}))").out.strip() == "[]"


def _damage(path: Path, damage: str) -> None:
    if damage == "removed":
        path.unlink()
        return
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_sharded_weights(hub: FakeHub, client: Client) -> None:
    files = sharded()
    hub.add(HUB_ID, files)
    folder = client.ensure().folder
    assert contents(folder) == files
    (folder / "model-00002-of-00003.safetensors").unlink()
    hub.requests.clear()
    assert client.ensure().folder == folder
    assert contents(folder) == files
    assert hub.resolved() == {"model-00002-of-00003.safetensors"}


def test_an_index_that_points_elsewhere_is_refused(hub: FakeHub, client: Client) -> None:
    index = {"weight_map": {"t": "../../../outside.safetensors"}}
    hub.add(HUB_ID, small_files() | {"model.safetensors.index.json": json.dumps(index).encode()})
    assert "outside.safetensors" in client.ensure().error


def test_bin_weights_where_there_is_nothing_better(hub: FakeHub, client: Client) -> None:
    weights = (REFERENCE / "pytorch_model.bin").read_bytes()
    hub.add(HUB_ID, {**small_files(), "pytorch_model.bin": weights})
    folder = client.ensure().folder
    assert (folder / "pytorch_model.bin").read_bytes() == weights
    _damage(folder / "pytorch_model.bin", "cut")
    hub.requests.clear()
    client.ensure()
    assert (folder / "pytorch_model.bin").read_bytes() == weights
    assert hub.resolved() == {"pytorch_model.bin"}


def test_without_a_network_the_error_says_all(client: Client) -> None:
    for environment in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        error = client.ensure(NAME, **environment).error
        assert error.startswith("DownloadError")
        for part in (HUB_ID, "config.json", "model.safetensors", str(client.cache), "PROMPTGEN_MODELS"):
            assert part in error, error
        assert f"hf download {HUB_ID} --exclude '*.py' --local-dir {NAME}" in error
        assert f"promptgen models download {HUB_ID}" in error
    assert "could not be reached" in client.ensure(NAME, HF_ENDPOINT="http://127.0.0.1:9").error
    folder = client.home / "my models"
    error = client.ensure(NAME, HF_HUB_OFFLINE="1", PROMPTGEN_MODELS=str(folder)).error
    assert f"put the files into {folder / NAME}" in error


def test_no_such_repository(client: Client) -> None:
    assert "has no model nobody/nothing" in client.ensure("nobody/nothing").error
    error = client.run(REGISTER + "ensure_checkpoint('nobody/nothing')").error
    assert "nothing is not on this computer" in error
    assert [path for path in client.home.rglob("*") if "nothing" in path.name] == [], "a typo leaves no trace"


def test_a_gated_repository(hub: FakeHub, client: Client) -> None:
    hub.add(HUB_ID, single(), gated=True)
    error = client.ensure().error
    assert "accept its terms" in error
    assert "hf auth login" in error


PALIGEMMA = "google/paligemma-3b-mix-224"


def paligemma() -> dict[str, bytes]:
    """The files of a published PaliGemma checkpoint: shards, Gemma's tokenizer in two forms."""
    texts = {
        "config.json": {"model_type": "paligemma", "architectures": ["PaliGemmaForConditionalGeneration"]},
        "generation_config.json": {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
        "preprocessor_config.json": {"image_processor_type": "SiglipImageProcessor", "image_seq_length": 256},
        "tokenizer.json": {"version": "1.0"},
        "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer"},
        "added_tokens.json": {"<image>": 257152},
        "special_tokens_map.json": {"bos_token": "<bos>"},
    }
    files = {name: content for name, content in sharded().items() if "safetensors" in name}
    files |= {name: json.dumps(text).encode() for name, text in texts.items()}
    return files | {"tokenizer.model": b"never fetched", "README.md": b"# card", ".gitattributes": b""}


def test_a_paligemma_checkpoint_comes_whole(hub: FakeHub, client: Client) -> None:
    hub.add("mnemic/paligemma-longprompt-v1-safetensors", paligemma())
    folder = client.ensure("paligemma-longprompt-v1").folder
    assert set(contents(folder)) == set(paligemma()) - {"tokenizer.model", "README.md", ".gitattributes"}
    told = "print(family_of_model('nobody/some-paligemma'), told_family('nobody/some-paligemma'))\n"
    hub.add("nobody/some-paligemma", paligemma())
    before = client.run(told)
    assert before.out.split() == ["florence2", "None"], "nobody can know"
    assert client.run("ensure_checkpoint('nobody/some-paligemma')\n" + told).out.split() == ["paligemma"] * 2
    assert client.run(f"print(family_of_model({str(folder)!r}))").out.split() == ["paligemma"]
    assert client.run(f"print(family_of_model({PALIGEMMA!r}))").out.split() == ["paligemma"]


def test_what_nobody_knows_is_fetched_before_it_is_asked(hub: FakeHub, client: Client) -> None:
    """What a checkpoint can be asked depends on its family, which its files tell."""
    hub.add("nobody/some-paligemma", paligemma())
    code = """from promptgen.captioning import Captioner, InstructionError
try:
    Captioner('nobody/some-paligemma').stream(['absent.png'], 'OD')
except InstructionError as error:
    print(error)"""
    told = client.run(code)
    assert "OD is for Florence-2; PaliGemma" in told.out, told.err
    assert "config.json" in hub.resolved()


@pytest.mark.parametrize("refusal", [401, 403])
def test_a_gated_paligemma_says_what_to_do(hub: FakeHub, client: Client, refusal: int) -> None:
    hub.add(PALIGEMMA, paligemma(), gated=True).refusal = refusal
    hub.token = "hf_secret"
    error = client.ensure("paligemma-3b-mix-224").error
    assert f"{PALIGEMMA} is gated: accept its terms at {hub.url}/{PALIGEMMA}" in error
    assert "hf auth login" in error
    assert "HF_TOKEN" in error
    assert client.ensure(PALIGEMMA, HF_TOKEN="hf_secret").folder.is_dir()


def test_a_token_that_is_worth_nothing_is_said_to_be(hub: FakeHub, client: Client) -> None:
    hub.add(PALIGEMMA, paligemma(), gated=True).refusal = 401
    hub.token = "hf_secret"
    error = client.ensure(PALIGEMMA, HF_TOKEN="hf_old").error
    assert "HF_TOKEN" in error
    assert "Try again later" not in error


def test_the_token_opens_a_gated_repository_and_is_told_to_nobody_else(hub: FakeHub, client: Client) -> None:
    hub.add(HUB_ID, single(), gated=True)
    hub.token = "hf_secret"
    assert client.ensure(HF_TOKEN="hf_secret").folder.is_dir()
    assert hub.transfers(), "the weights came from the other host"
    assert not any(request.authorised for request in hub.transfers())


def test_a_hub_out_of_order(hub: FakeHub, client: Client) -> None:
    hub.status = 500
    assert "status 500" in client.ensure().error


def test_a_repository_without_weights(hub: FakeHub, client: Client) -> None:
    hub.add(HUB_ID, small_files())
    for _attempt in range(2):
        error = client.ensure().error
        assert "no weights" in error
        assert "is not on this computer" in error, "the first attempt has left nothing that looks begun"


REGISTER = "register_folder('models', download=True)\n"


def test_downloads_into_a_folder_of_the_host(hub: FakeHub, client: Client) -> None:
    files = single()
    hub.add(HUB_ID, files)
    ensure = REGISTER + f"print(ensure_checkpoint({NAME!r}))"
    folder = client.run(ensure).folder
    assert folder == client.home / "models" / NAME
    assert contents(folder) == {**small_files(), "model.safetensors": files["model.safetensors"]}
    assert not client.cache.exists()
    count = len(hub.requests)
    assert client.run(ensure, HF_HUB_OFFLINE="1").folder == folder
    assert len(hub.requests) == count

    (folder / "generation_config.json").write_text('{"num_beams": 5}')
    _damage(folder / "model.safetensors", "flipped")
    assert client.run(ensure).folder == folder
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert (folder / "model.safetensors.damaged").is_file(), "what was there is renamed, not deleted"
    assert (folder / "generation_config.json").read_text() == '{"num_beams": 5}', "the user's setting stays"


def test_a_half_finished_folder_is_completed_in_place(hub: FakeHub, client: Client) -> None:
    files = sharded()
    hub.add(HUB_ID, files)
    folder = client.home / "models" / NAME
    folder.mkdir(parents=True)
    present = {"config.json", "model.safetensors.index.json", "model-00001-of-00003.safetensors"}
    for name in present:
        (folder / name).write_bytes(files[name])
    before = (folder / "model-00001-of-00003.safetensors").stat()
    answer = client.ensure(PROMPTGEN_MODELS=str(client.home / "models"))
    assert answer.folder == folder
    assert contents(folder) == files
    after = (folder / "model-00001-of-00003.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert hub.resolved() == set(files) - present


def test_a_folder_with_leftovers_of_a_stopped_download(hub: FakeHub, client: Client) -> None:
    files = {**small_files(), "model.safetensors": safetensors_bytes(300_000)}
    hub.add(HUB_ID, files)
    folder = client.home / "models" / NAME
    leftovers = folder / ".cache" / "huggingface" / "download"
    leftovers.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "generation_config.json").unlink()  # not strictly needed, but other text comes out without it
    (leftovers / "abc.incomplete").write_bytes(b"half")
    where = {"PROMPTGEN_MODELS": str(client.home / "models")}
    assert "abc.incomplete" in client.ensure(HF_HUB_OFFLINE="1", **where).error
    assert client.ensure(**where).folder == folder
    assert contents(folder) == files
    assert client.ensure(HF_HUB_OFFLINE="1", **where).folder == folder


def test_weights_of_another_origin_are_not_mixed_with_the_hub(hub: FakeHub, client: Client) -> None:
    hub.add(HUB_ID, single())
    folder = client.home / "models" / NAME
    folder.mkdir(parents=True)
    own = safetensors_bytes(200_000, seed=7)
    (folder / "model.safetensors").write_bytes(own)
    (folder / "config.json").write_bytes(small_files()["config.json"])
    error = client.ensure(PROMPTGEN_MODELS=str(client.home / "models")).error
    assert "tokenizer.json: missing" in error
    assert "not mixed in" in error
    assert contents(folder) == {"model.safetensors": own, "config.json": small_files()["config.json"]}


def test_many_processes_download_once(hub: FakeHub, client: Client) -> None:
    files = single(12 * MIB)
    hub.add(HUB_ID, files)
    processes = [client.start(f"print(ensure_checkpoint({HUB_ID!r}))") for _ in range(3)]
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert len(set(answers)) == 1
    assert Path(answers[0]).is_dir()
    assert len(hub.transfers()) == 1
    assert sum(request.path.startswith("/api/models/") for request in hub.requests) == 1


def test_symlinks_are_not_needed(hub: FakeHub, client: Client) -> None:
    """As on Windows without developer mode: the files themselves lie in the snapshot."""
    files = single()
    hub.add(HUB_ID, files)
    code = (
        "import os, pathlib\n"
        "def refuse(*arguments, **options): raise OSError('no right to make links')\n"
        "os.symlink = pathlib.Path.symlink_to = refuse\n"
        f"print(ensure_checkpoint({HUB_ID!r}))"
    )
    folder = client.run(code).folder
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    _damage(folder / "model.safetensors", "cut")
    assert client.run(code).folder == folder
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert client.ensure(HF_HUB_OFFLINE="1").folder == folder


def test_no_remote_code_ever_arrives(hub: FakeHub, client: Client) -> None:
    hub.add(HUB_ID, single())
    client.ensure()
    assert not list(client.home.rglob("*.py"))
    assert not [request for request in hub.requests if request.path.endswith((".py", ".md", ".png"))]
