"""The runs of a plan on a Dask cluster: worker processes on other machines train what `execute.train` trains here.

Workers share the results folder, so only paths travel. Every worker is checked before its first run: same code and
packages, same scenes, same folder. It then gets one run at a time, when it is free; a run that fails or loses its
worker is tried again, elsewhere where there is an elsewhere. Workers may come and go.
"""

import hashlib
import os
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue

from .. import files
from ..errors import PrsaError
from . import runs
from .execute import _opened
from .plan import RunSpec
from .pool import cores
from .schedulers import PATIENCE, connected, jobqueue

RETRIES = 2  # of a run, after its first failure
KEPT = "Finished runs are kept: the same call goes on from there."


@cache
def facts() -> dict[str, str]:
    """What must be the same everywhere: Python, packages, and hashes of the package's files and of the lock."""
    digest, package = hashlib.sha256(), files.ROOT / "prsa"
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    lock = files.ROOT / "requirements.lock"
    lock = hashlib.sha256(lock.read_bytes()).hexdigest()[:12] if lock.is_file() else "none"
    own = {"prsa (hash of its files)": digest.hexdigest()[:12], "requirements.lock (hash)": lock}
    return {name: v for name, v in runs.versions().items() if name != "code"} | {"dask": version("dask")} | own


def seen(path: Path, text: str, patience: float) -> bool:
    """Whether a file with this text is there; waits, because network disks show new files late."""
    end = time.monotonic() + patience
    while True:
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == text:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def check(expected: dict, token: Path, scenes: dict[str, str], patience: float, device: str, data: str) -> Path:
    """On a worker, before its first run: raises `PrsaError` for what is not as the client has it.

    ``expected``: `facts`; ``token``: file of the client in the results folder, with its own name as text; ``scenes``:
    source -> hash; ``patience``: seconds for a file to be seen; ``data``: the client's folder of scenes. Returns the
    file that the worker wrote beside the token.
    """
    from ..training.loop import pick_device

    os.environ["PRSA_DATA"] = data
    if wrong := [f"{name} {v}, got {facts()[name]}" for name, v in expected.items() if facts()[name] != v]:
        raise PrsaError(f"expected {'; '.join(wrong)}. Fix: start it with the environment that this call has.")
    answer = token.with_name(f".{secrets.token_hex(8)}.tmp")
    if not seen(token, token.name, patience):
        raise PrsaError(
            f"it does not see the results folder {token.parent}, in which this call has written {token.name}. Likely "
            "cause: the folder is not on a disk that both share. Fix: PRSA_RESULTS=/a/shared/folder, for this call."
        )
    with files.explained(answer):
        answer.write_text(answer.name, encoding="utf-8")
    for source, wanted in scenes.items():
        if (got := _opened(source).hash) != wanted:
            raise PrsaError(
                f"the scene {source} has the hash {got[:12]} there, expected {wanted[:12]}. Likely causes: another "
                "file of this name (compare sha256sum), or a processor that simulates a scene with other roundings."
            )
    pick_device(device)
    return answer


def task(function: Callable, spec: RunSpec, path: Path, device: str, keep_model: bool) -> Path:
    """On a worker, with one thread: `execute.train`, which first looks whether the run is finished."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return function(spec, path, device, keep_model)


class _Grid:
    """Hands out calls of a function to the workers of a client and takes their results in."""

    def __init__(
        self, client, function: Callable, calls: list[tuple], scenes: dict[str, str], token: Path, say: Callable
    ):
        self.client, self.function, self.calls, self.say = client, function, calls, say
        self.about, self.device, self.address = (
            (facts(), token, scenes, PATIENCE),
            calls[0][2],
            client.scheduler.address,
        )
        self.waiting, self.done, self.looked = deque(calls), SimpleQueue(), -1.0
        self.ready, self.refused, self.busy = set(), {}, {}  # addresses; address -> reason; -> future, call (or check)
        self.failures, self.avoid, self.errors = Counter(), defaultdict(set), {}  # by path of the run
        self.told = set()
        self.started = False

    def look(self) -> None:
        """Who came and who left: at most once a second."""
        if time.monotonic() < self.looked + 1:
            return
        self.looked = time.monotonic()
        try:
            there = self.client.scheduler_info()["workers"] if self.client.status == "running" else None
        except (OSError, AttributeError):
            there = None
        if there is None:
            raise self.lost()
        gpus = {address for address, about in there.items() if about["resources"].get("GPU", 0) >= 1}
        if self.device == "auto" and there:
            self.device = "cuda" if gpus else "cpu"
        there = gpus if self.device.startswith("cuda") else {*there}
        for address in {*self.ready, *self.busy, *self.refused} - there:
            self.ready.discard(address)
            self.refused.pop(address, None)
            future, call = self.busy.pop(address, (None, None))
            if future:
                future.cancel()
            if call:
                self.failed(call, address, "its worker left or was killed (out of memory?)")
        for address in sorted(there - self.ready - {*self.busy} - {*self.refused}):
            self.submit(address, None, check, *self.about, self.device, str(files.data()))

    def submit(self, address: str, call: tuple | None, function: Callable, *arguments) -> None:
        need = {"GPU": 1} if self.device.startswith("cuda") else None
        where = {"workers": [address], "allow_other_workers": False, "pure": False, "resources": need}
        future = self.client.submit(function, *arguments, **where)
        self.busy[address] = future, call
        future.add_done_callback(lambda future: self.done.put((address, future)))

    def hand_out(self) -> None:
        """A run for every free worker, once all that were there at the start are checked."""
        free = sorted(self.ready - {*self.busy})
        self.started |= bool(free) and not self.busy
        for address in free if self.started else ():
            for call in self.waiting:
                if address not in self.avoid[call[1]] or self.ready <= self.avoid[call[1]]:
                    self.waiting.remove(call)
                    self.submit(address, call, task, self.function, *call[:2], self.device, call[3])
                    break

    def take(self, address: str, future) -> RunSpec | None:
        """The run that a future has finished; its future is released at once, so that it is never run again."""
        if self.busy.get(address, (None,))[0] is not future:
            return None  # of a worker that left
        call, status = self.busy.pop(address)[1], future.status
        if status not in ("finished", "error"):
            raise self.lost()
        error = future.exception() if status == "error" else None
        reason = str(error) if isinstance(error, PrsaError) else f"{type(error).__name__}: {error}"
        if call is None:
            self.checked(address, reason if error else self.unanswered(future.result()))
        elif error:
            self.failed(call, address, reason)
        else:
            return call[0]

    def unanswered(self, answer: Path) -> str:
        if seen(answer, answer.name, PATIENCE):
            answer.unlink(missing_ok=True)
            return ""
        return f"this machine does not see what it wrote into {answer.parent}: the folder is not on a shared disk."

    def checked(self, address: str, wrong: str) -> None:
        if not wrong:
            self.ready.add(address)
            return
        self.refused[address] = wrong = f"worker {address} is refused: {wrong}"
        if not self.started:
            raise PrsaError(wrong[:880])
        self.say(wrong)

    def failed(self, call: tuple, address: str, reason: str) -> None:
        path = call[1]
        self.failures[path] += 1
        self.avoid[path].add(address)
        self.errors[path] = f"{path.name} on worker {address}: {reason}"
        if again := self.failures[path] <= RETRIES:
            self.waiting.append(call)
        if not again or address not in self.told:  # not a line for every run that one worker fails at
            self.told.add(address)
            self.say(f"{self.errors[path][:400]} ({'tried again' if again else 'given up'})")

    def lost(self) -> PrsaError:
        return PrsaError(f"the connection to the scheduler at {self.address} is lost. {KEPT}")

    def finished(self) -> Iterator[tuple[RunSpec, str]]:
        """Runs as they are finished, with a word on the state. What is missing at the end is tried once more; raises
        `PrsaError` that names what is missing then, too.
        """
        for last in (False, True):
            alone = time.monotonic()
            while self.waiting or self.busy:
                self.look()
                self.hand_out()
                if self.ready or self.busy or not self.waiting:
                    alone = time.monotonic()
                elif time.monotonic() > alone:
                    alone = time.monotonic() + 60
                    kind = " with --resources GPU=1" * self.device.startswith("cuda")
                    self.say(f"waiting for workers{kind} at {self.address} (Ctrl-C gives up)")
                with suppress(Empty):
                    if spec := self.take(*self.done.get(timeout=1)):
                        given_up = sum(n > RETRIES for n in self.failures.values())
                        yield spec, f"{len(self.ready)} workers, {given_up} failed"
            missing = [call for call in self.calls if not runs.is_finished(call[1])]
            if missing and not last:
                self.say(f"{len(missing)} of {len(self.calls)} runs are missing: once more")
                self.waiting.extend(missing)
                self.failures.clear()
        if missing:
            first, *others = (call[1] for call in missing)
            more = f" Also missing: {', '.join(path.name for path in others)}"[:200] if others else ""
            text = f"{len(missing)} of {len(self.calls)} runs failed, first {self.errors.get(first, first.name)[:480]}"
            raise PrsaError(f"{text} {KEPT}{more}")


def executor(where: str, say: Callable[[str], None] = print) -> Callable:
    """The executor of `execute.run` for a cluster: ``local`` (worker processes of this machine), the address of a
    running scheduler, e.g. ``tcp://host:8786``, or a YAML file, see `jobqueue`.

    Raises `PrsaError` for what is none of these.
    """
    if "://" not in where and where != "local":
        jobqueue(Path(where))

    @contextmanager
    def on_cluster(
        function: Callable, plan, jobs: int | None, calls: list[tuple]
    ) -> Iterator[Iterator[tuple[RunSpec, str]]]:
        folder, scenes = calls[0][1].parent, {spec.scene: plan.source(spec.scene).hash for spec, *_ in calls}
        gpu = calls[0][2].startswith("cuda")
        token = folder / f".{secrets.token_hex(8)}.tmp"
        files.write_text(token.name, token)
        try:
            with connected(where, min(jobs or (1 if gpu else cores()), len(calls)), gpu) as client:
                say(f"scheduler {client.scheduler.address}, dashboard {client.dashboard_link}")
                grid = _Grid(client, function, calls, scenes, token, say)
                try:
                    yield grid.finished()
                finally:
                    client.cancel([future for future, _ in grid.busy.values()])
        finally:
            token.unlink(missing_ok=True)

    return on_cluster
