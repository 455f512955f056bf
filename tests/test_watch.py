"""The watcher over real directories: what wakes, what does not, and what it does when it may have missed something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from ngxsync.edges import watch
from ngxsync.edges.watch import CANARY_EVERY_S, CHANGE, DEAF_AFTER_S, RESCAN, RETRY_EVERY_S, Watcher
from tests.host import wait_until

PATIENCE_S = 30


class Woken:
    """Collects triggers."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, reason: str) -> None:
        with self._changed:
            self.reasons.append(reason)
            self._changed.notify_all()

    def wait_for(self, reason: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: reason in self.reasons, PATIENCE_S), self.reasons


class Scene:
    """A tree with a little content, a watcher over it, and the watcher's clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tree, self.woken, self.now = folder, folder / "tree", Woken(), 0.0
        self.lasts, self.numbers = Woken(), count()
        (self.tree / "conf.d").mkdir(parents=True)
        (self.tree / "logs").mkdir()
        (self.tree / "nginx.conf").write_text("events {}\n")
        (self.tree / "logs" / "access.log").write_text("")
        self.watcher = self.make(self.tree)

    def make(self, *trees: Path) -> Watcher:
        return Watcher(
            trees, self.woken, canary_dir=self.folder / "state", is_relevant=self.is_relevant, clock=lambda: self.now
        )

    def is_relevant(self, path: str) -> bool:
        name = os.path.basename(path)
        if name.startswith("last"):
            self.lasts(name)
            return False
        return "/logs/" not in path + "x" and "/.ngxsync/" not in path and not name.startswith(".") and name != "4913"

    def settle(self) -> None:
        """Until every event so far has been looked at: a file that matters to nobody comes after them."""
        last = self.tree / f"last{next(self.numbers)}"
        last.touch()
        self.lasts.wait_for(last.name)

    def forget(self) -> None:
        self.settle()
        self.woken.reasons.clear()

    def hear(self) -> None:
        """Until the canary's event has come."""
        wait_until(lambda: not self.watcher._is_canary_out, "the canary's event", PATIENCE_S)

    def wakes(self, act: Callable[[], object]) -> bool:
        self.forget()
        act()
        self.settle()
        return CHANGE in self.woken.reasons


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    scene.watcher.start()
    assert scene.watcher.check(), scene.watcher.problems()
    scene.hear()
    yield scene
    scene.watcher.stop()


def shell(scene: Scene, command: str) -> None:
    subprocess.run(["sh", "-ec", command], cwd=scene.tree, check=True)


@pytest.mark.parametrize(
    "command",
    [
        "echo x > new.conf",
        "echo x >> nginx.conf",
        "sed -i s/events/event/ nginx.conf",
        "echo x > .new.swp; mv .new.swp nginx.conf",
        "mv nginx.conf ../elsewhere",
        "echo x > ../outside; mv ../outside conf.d/inside",
        "mv nginx.conf conf.d/",
        "rm nginx.conf",
        "rmdir conf.d",
        "chmod 600 nginx.conf",
        "chmod 700 conf.d",
        "chmod 750 .",
        "touch -d yesterday nginx.conf",
        "ln -s conf.d link",
        "ln -s logs link; ln -sfn conf.d link",
        "mkdir -p a/b/c; echo x > a/b/c/d",
        "mkdir -p ../a/b; echo x > ../a/b/c; mv ../a .",
        "truncate -s 3 nginx.conf",
    ],
)
def test_each_way_of_changing_a_tree_wakes(scene: Scene, command: str) -> None:
    assert scene.wakes(lambda: shell(scene, command))


def test_a_change_deep_in_a_directory_that_was_moved_in_wakes(scene: Scene) -> None:
    shell(scene, "mkdir -p ../a/b; echo x > ../a/b/c; mv ../a .")
    assert scene.wakes(lambda: shell(scene, "echo y >> a/b/c"))


def test_a_write_wakes_before_the_writer_closes_the_file(scene: Scene) -> None:
    with (scene.tree / "nginx.conf").open("a") as stream:

        def write() -> None:
            stream.write("x")
            stream.flush()

        assert scene.wakes(write)


@pytest.mark.parametrize(
    "command",
    [
        "cat nginx.conf; ls -R . > /dev/null; cp nginx.conf ../copy; find . -newer nginx.conf",
        "echo x >> logs/access.log",
        "echo x > logs/error.log; rm logs/error.log",
        "mkdir -p .ngxsync/run/stage; echo x > .ngxsync/run/stage/a",
        "echo x > .nginx.conf.swp; rm .nginx.conf.swp; touch 4913; rm 4913",
        "mkdir ../other; echo x > ../other/file; rm -r ../other",
    ],
)
def test_a_read_and_what_is_excluded_do_not_wake(scene: Scene, command: str) -> None:
    assert not scene.wakes(lambda: shell(scene, command))


def test_a_busy_log_is_not_even_looked_at(tmp_path: Path) -> None:
    """Each line of a log costs nothing: no event is made where no file can matter."""
    asked: list[str] = []
    scene = Scene(tmp_path)
    judge = scene.is_relevant
    scene.is_relevant = lambda path: bool(asked.append(path)) or judge(path)  # type: ignore[method-assign]
    scene.watcher = scene.make(scene.tree)
    scene.watcher.start()
    scene.settle()
    asked.clear()
    with (scene.tree / "logs" / "access.log").open("a", buffering=1) as log:
        for number in range(100):
            log.write(f"line {number}\n")
        scene.settle()
        assert [path for path in asked if "access.log" in path] == []
    scene.watcher.stop()


def test_the_tree_behind_a_symlinked_root_is_watched_and_named_as_configured(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    real = scene.tree.rename(tmp_path / "release-1")
    scene.tree.symlink_to(real)
    asked: list[str] = []
    scene.is_relevant = lambda path: bool(asked.append(path)) or True  # type: ignore[method-assign]
    watcher = scene.make(scene.tree)
    watcher.start()
    (real / "conf.d" / "new.conf").write_text("x")
    scene.woken.wait_for(CHANGE)
    watcher.stop()
    assert str(scene.tree / "conf.d" / "new.conf") in asked
    assert not any("release-1" in path for path in asked)


LOSSES: dict[str, Callable[[Scene], object]] = {
    "deleted and made again": lambda scene: (shutil.rmtree(scene.tree), scene.tree.mkdir()),
    "renamed away, another in its place": lambda scene: (scene.tree.rename(scene.folder / "old"), scene.tree.mkdir()),
    "swapped by a symlink": lambda scene: (
        (scene.folder / "release").mkdir(),
        scene.tree.rename(scene.folder / "old"),
        scene.tree.symlink_to(scene.folder / "release"),
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_replaced_root_is_told_at_once_and_then_watched(scene: Scene, loss: str) -> None:
    scene.forget()
    LOSSES[loss](scene)
    scene.woken.wait_for(RESCAN)
    assert not scene.watcher.check()
    assert scene.watcher.check()
    assert scene.watcher.problems() == ()
    assert scene.wakes(lambda: shell(scene, "echo x > new.conf"))


def test_a_root_made_again_is_told_by_its_parent_alone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have the inode of the old one (ext4), whose thread on a busy machine has yet to end."""
    monkeypatch.setattr(scene.watcher._observer, "is_alive", lambda: True)
    same = watch._identity(scene.tree)
    monkeypatch.setattr(watch, "_identity", lambda _root: same)
    scene.forget()
    LOSSES["deleted and made again"](scene)
    scene.woken.wait_for(RESCAN)
    assert not scene.watcher.check()
    assert scene.wakes(lambda: shell(scene, "echo x > new.conf"))


def test_what_happens_in_a_root_that_was_renamed_away_does_not_wake(scene: Scene) -> None:
    old = scene.tree.rename(scene.folder / "old")
    scene.tree.mkdir()
    scene.watcher.check()
    assert not scene.wakes(lambda: (old / "nginx.conf").write_text("x"))


def test_a_missing_root_is_a_problem_until_it_comes(scene: Scene) -> None:
    shutil.rmtree(scene.tree)
    assert not scene.watcher.check()
    (problem,) = scene.watcher.problems()
    assert problem == (
        f"{scene.tree}: no such directory to watch\n  now: changes there are seen at check_every and schedule only\n"
        "  next: restore it, or correct `trees`"
    )
    scene.now += RETRY_EVERY_S * 2
    assert scene.watcher.check(), "an absent root is no reason to begin anew for ever"
    scene.woken.reasons.clear()
    scene.tree.mkdir()
    scene.woken.wait_for(RESCAN)
    assert not scene.watcher.check()
    assert scene.watcher.problems() == ()
    assert scene.wakes(lambda: shell(scene, "echo x > new.conf"))


def test_one_tree_of_two_is_lost_and_the_other_goes_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.watcher = scene.make(tmp_path / "absent", scene.tree)
    scene.watcher.start()
    assert scene.wakes(lambda: shell(scene, "echo x > new.conf"))
    assert len(scene.watcher.problems()) == 1
    scene.watcher.stop()


def test_lost_events_are_answered_by_a_rescan(scene: Scene) -> None:
    """The kernel's queue really overflows: nobody reads it while more events come than it takes."""
    inotify = scene.watcher._observer._inotify  # type: ignore[union-attr]
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    scene.forget()
    with inotify._lock:
        for number in range(limit // 2 + 1000):
            (scene.tree / f"file{number % 1000}").touch()
            (scene.tree / "nginx.conf").touch()
    scene.woken.wait_for(RESCAN)
    assert scene.wakes(lambda: shell(scene, "echo x > new.conf"))


def test_a_deaf_watcher_is_found_out_by_the_canary_and_mended(scene: Scene) -> None:
    state = scene.folder / "state"
    scene.forget()
    state.rename(scene.folder / "elsewhere")  # its events go on to nobody
    state.mkdir()
    scene.now += CANARY_EVERY_S
    assert scene.watcher.check()
    scene.now += DEAF_AFTER_S + 1
    assert not scene.watcher.check()
    assert scene.woken.reasons == [RESCAN]
    for _ in range(3):
        scene.now += CANARY_EVERY_S
        assert scene.watcher.check()
        scene.hear()


def test_a_canary_that_is_heard_lets_the_watcher_be(scene: Scene) -> None:
    scene.forget()
    for _ in range(5):
        scene.now += CANARY_EVERY_S
        assert scene.watcher.check()
        scene.hear()
        scene.now += DEAF_AFTER_S + 1
        assert scene.watcher.check()
    assert scene.woken.reasons == []


def test_a_canary_that_cannot_be_touched_is_a_problem_not_an_alarm(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    (tmp_path / "state").write_text("a file where the directory should be")
    scene.watcher.start()
    assert scene.watcher.check()
    (problem,) = scene.watcher.problems()
    assert problem.startswith(f"{tmp_path}/state/canary: cannot prove that events arrive: ")
    assert scene.wakes(lambda: shell(scene, "echo x > new.conf"))
    scene.watcher.stop()


@pytest.mark.parametrize("broken", ["is_relevant", "on_event"])
def test_an_exception_in_a_handler_kills_nothing_and_is_told(tmp_path: Path, broken: str) -> None:
    scene, called = Scene(tmp_path), threading.Event()

    def fail(_: str) -> bool:
        called.set()
        raise RuntimeError("no more")

    hooks = {"is_relevant": scene.is_relevant, "on_event": scene.woken, broken: fail}
    watcher = Watcher([scene.tree], hooks["on_event"], canary_dir=tmp_path / "state", is_relevant=hooks["is_relevant"])
    watcher.start()
    for number in range(3):
        called.clear()
        (scene.tree / f"new{number}.conf").write_text("x")
        assert called.wait(PATIENCE_S)
    assert watcher.is_alive()
    assert any("no more" in problem for problem in watcher.problems())
    watcher.stop()


def test_a_burst_of_new_directories_neither_warns_nor_kills(scene: Scene) -> None:
    """watchdog warns of each directory that it meets twice, with a text of up to a megabyte; as an error, that kills it."""
    scene.forget()
    shell(scene, "for i in $(seq 150); do mkdir -p a$i/b/c; done; mv a1/b a2/d; cp -r a3 a4; rm -r a5")
    scene.settle()
    assert scene.watcher.is_alive()
    assert scene.wakes(lambda: shell(scene, "echo x > a150/b/c/new.conf"))


def test_it_is_alive_from_start_to_stop_and_can_start_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert not scene.watcher.is_alive()
    assert not scene.watcher.check()
    for _ in range(2):
        scene.watcher.start()
        assert scene.watcher.is_alive()
        assert scene.wakes(lambda: shell(scene, "echo x >> nginx.conf"))
        scene.watcher.stop()
        assert not scene.watcher.is_alive()
        scene.watcher.stop()
    scene.woken.reasons.clear()
    assert not scene.watcher.check()
    assert scene.woken.reasons == []


def test_starting_anew_twenty_times_leaks_no_descriptors(scene: Scene) -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    scene.watcher.stop()
    before = held()
    for _ in range(20):
        scene.watcher.start()
        scene.watcher.stop()
    assert held() == before


def test_a_started_program_does_not_inherit_the_watches(scene: Scene) -> None:
    argv = ["sh", "-c", "ls -l /proc/self/fd"]
    held = subprocess.run(argv, capture_output=True, text=True, check=True, close_fds=False).stdout
    assert "inotify" not in held


LIMITED = """
import os, sys
from pathlib import Path
kind, limit, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
Path(f"/proc/sys/user/max_inotify_{kind}").write_text(limit)
from ngxsync.edges.watch import RETRY_EVERY_S, Watcher
now, reasons = [0.0], []
watcher = Watcher([folder / "tree"], reasons.append, canary_dir=folder / "state", clock=lambda: now[0])
watcher.start()
print(watcher.is_alive(), *watcher.problems(), sep="\\n")
Path(f"/proc/sys/user/max_inotify_{kind}").write_text("1000")
now[0] += RETRY_EVERY_S + 1
print(watcher.check(), watcher.is_alive(), watcher.problems(), reasons)
watcher.stop()
"""


def limited(tmp_path: Path, kind: str, limit: int) -> list[str]:
    """What a watcher over 61 directories says where the kernel allows it only so many watches or instances."""
    for number in range(60):
        (tmp_path / "tree" / f"dir{number:02}").mkdir(parents=True)
    argv = ["unshare", "--user", "--map-root-user", sys.executable, "-c", LIMITED, kind, str(limit), str(tmp_path)]
    root = Path(watch.__file__).parents[3]
    return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=root).stdout.splitlines()


def test_directories_beyond_the_limit_of_watches_are_told_and_tried_again(tmp_path: Path) -> None:
    alive, where, now, next_step, after = limited(tmp_path, "watches", 20)
    assert alive == "True"
    assert where.startswith(f"{tmp_path}/tree/dir")
    # 20 watches: the canary's directory, the parent, the root and 17 of 60 directories
    assert where.endswith(": not watched: inotify watch limit reached (43 directories)")
    assert now == "  now: changes there are seen at check_every and schedule only"
    assert next_step == "  next: raise the sysctl fs.inotify.max_user_watches"
    assert after == "False True () ['rescan']"


def test_no_instance_at_all_is_told_and_tried_again(tmp_path: Path) -> None:
    alive, what, _, next_step, after = limited(tmp_path, "instances", 0)
    assert alive == "False"
    assert what == "inotify: cannot watch: inotify instance limit reached"
    assert next_step == "  next: raise the sysctl fs.inotify.max_user_instances"
    assert after == "False True () ['rescan']"
