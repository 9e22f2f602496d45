"""The coordinator's process: reads blocks, moves frames and tells the time; core.py decides."""

from __future__ import annotations

import os
import queue
import time
import traceback
from typing import Final

from millstream.bootstrap import Bootstrap, next_plan
from millstream.connectors import StdinSource
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.core import Coordinator, State
from millstream.coordinator.reading import HOSTED, Readers
from millstream.coordinator.replays import Replays, logs_in
from millstream.deadletters import DeadLetterFile
from millstream.errors import described
from millstream.meters import add_counts
from millstream.process import ProcessMeter, monotonic_us, now_us, spare_the_collector
from millstream.topology import CALLER, CALLER_HOST, COORDINATOR, SOURCE_HOST, SOURCES
from millstream.transport import Link
from millstream.wire import Beat, Data, Failed, Finished, Hello, Stop

_STEPS: Final = 16
_BEAT_S: Final = 0.25


class _Shell:
    """Args:
    frames: what the supervisor sends by the pipe while the process lives.
    """

    def __init__(self, bootstrap: Bootstrap, link: Link, frames: queue.SimpleQueue[bytes]) -> None:
        self.link = link
        self.bootstrap, self.frames = bootstrap, frames
        self.host_link: Link | None = None
        if bootstrap.hosted:
            self.host_link = Link(bootstrap.directory, SOURCES, bootstrap.attempt)
            link.watch(self.host_link)
        plan = bootstrap.load_plan()
        self.letters = DeadLetterFile(bootstrap.dead_letter_path(COORDINATOR), bootstrap.attempt)
        self.max_rows = plan.batch_rows
        self.hosted = bootstrap.hosted
        for partition in range(len(plan.partitions)):
            source = plan.source_of(partition)
            if isinstance(source, StdinSource):
                source.descriptor = bootstrap.stdin
        recovery = bootstrap.recovery()
        journals = None if bootstrap.checkpoint_us is None else bootstrap.journals
        assert bootstrap.state is not None
        replays = Replays(logs_in(bootstrap.state), {} if recovery is None else recovery.manifest.replayed)
        self.readers = Readers(plan, bootstrap.hosted, link.poller, recovery, journals, replays)
        policy = None if bootstrap.checkpoint_us is None else CheckpointPolicy(bootstrap.checkpoint_us)
        self.store = None if policy is None else bootstrap.checkpoint_store()
        self.core = Coordinator(
            plan, now_us=now_us, dead_letter=self.letters, hang_timeout_s=bootstrap.hang_timeout_s, policy=policy,
            attempt=bootstrap.attempt, recovery=recovery, offset_of=self.readers.offset, replayed=self.readers.replayed,
        )  # fmt: skip
        self.meter = ProcessMeter()
        self.started_s: float | None = None
        self.ended_s: float | None = None
        self.usage: dict[str, float] = {}
        self.reading_us: dict[int, int] = {}
        self.waited_us: dict[int, int] = {}
        self.not_removed = ""
        """Why what no checkpoint needs any more is still there; "" where it is not."""

    def serve(self) -> int:
        next_beat_s = 0.0
        while True:
            core = self.core
            for message in self.link.received():
                core.receive(message, monotonic_us())
            self._hear_hosts()
            if core.state is State.RUNNING and self.started_s is None:
                self.started_s = time.monotonic()
            progressed = self._read()
            self._checkpoint()  # before the work: a barrier is work for the coordinator's own stages, too
            more = core.work(_STEPS)
            self._flush()
            if core.state is State.SWITCHED:
                self._lead_on()
                continue
            if core.state in (State.DONE, State.STOPPED, State.FAILED):
                return self._end()
            now_s = time.monotonic()
            if now_s >= next_beat_s:
                next_beat_s = now_s + _BEAT_S
                self.readers.look_for_replays()
                self.usage = self.meter.read()
                self.link.send(CALLER, Beat(COORDINATOR, self.figures()))
                core.check_members(monotonic_us())
            if not more and not progressed and core.next_partition() is None:
                self._wait(next_beat_s - now_s)

    def _hear_hosts(self) -> None:
        for message in self.host_link.received() if self.host_link is not None else ():
            if isinstance(message, Data) and message.exchange <= HOSTED:
                self.readers.put(message)
            elif isinstance(message, Failed):
                self.core.receive(message, monotonic_us())

    def _lead_on(self) -> None:
        """All is quiet and everyone has been told: lead the next life, with other workers and the same readers."""
        checkpointing = self.core.checkpointing
        assert checkpointing is not None
        before = self.core
        attempt = before.next_attempt
        plan = next_plan(self.frames, attempt)
        self.link.begin(attempt, [n for n in before.members if before.topology.index_of(n) >= plan.workers])
        self.core = before.successor(plan, self.bootstrap.recovery_at(checkpointing.last_epoch))

    def _read(self) -> bool:
        for partition in self.readers.awake():
            self.core.wake(partition)
        index = self.core.next_partition()
        if index is None:
            return False
        started_us = monotonic_us()
        block, ended = self.readers.read(index, self.max_rows, self.core.partitions.read_bytes(index))
        add_counts(self.reading_us, {self.core.plan.partitions[index][0]: monotonic_us() - started_us})
        for receiver, credit in self.readers.credits():
            assert self.host_link is not None
            self.host_link.send(receiver, credit)
        self.core.on_block(index, block, ended, monotonic_us())
        return block is not None or ended

    def _checkpoint(self) -> None:
        """Begin a checkpoint when one is due; write the manifest of one that everyone has acknowledged."""
        if self.store is None:
            return
        given_up = self.core.take_given_up()
        if given_up is not None:
            self._clean(given_up)  # on a full disk it would be in the way of the next one
        self.core.checkpoint_if_due(monotonic_us())
        manifest = self.core.manifest_due()
        if manifest is None:
            return
        try:
            self.store.complete(manifest)
        except OSError as error:
            self.core.checkpoint_written(f"{COORDINATOR}: {error}")
        else:
            self.core.checkpoint_written()
            self.readers.counted(manifest)
            self._clean(manifest.epoch)

    def _clean(self, epoch: int) -> None:
        """Remove what no checkpoint up to this one needs."""
        assert self.store is not None
        newest = f"{epoch:08d}"
        try:
            self.store.clean(keep_data_of=lambda name: name[:8] > newest, pinned=self.core.asked_checkpoints.pinned)
        except OSError as error:  # it is tried again after the next one
            self.not_removed = str(error)
        else:
            self.not_removed = ""

    def _flush(self) -> None:
        outbox = self.core.outbox
        while outbox:
            self.link.send(*outbox.popleft())

    def _wait(self, beat_s: float) -> None:
        wait_s = self.readers.wait_s()
        timeout_s = beat_s if wait_s is None else min(beat_s, wait_s)
        throttled = self.core.waiting_for_credit()
        started_us = monotonic_us()
        self.link.wait(int(timeout_s * 1_000) + 1)
        add_counts(self.waited_us, dict.fromkeys(throttled, monotonic_us() - started_us))

    def _end(self) -> int:
        self.ended_s = time.monotonic()
        self.usage = self.meter.read()
        done = self.core.state in (State.DONE, State.STOPPED)
        self.stop_others()
        if done:
            self.link.send(CALLER, Finished(COORDINATOR, self.figures()))
        else:
            self.core.runner.abort()
            self.link.send(CALLER, self.core.failure or Failed(COORDINATOR, ["stopped"]))
        return 0 if done else 1

    def stop_others(self) -> None:
        """Tell the workers, and whoever reads partitions for this process, that the run is over."""
        sources = [self.core.plan.source_of(p) for p in self.hosted]
        hosts = {CALLER_HOST if source.in_caller else SOURCE_HOST for source in sources}
        for name in self.core.rescaling.everyone:
            self.link.send(name, Stop(False))
        for name in hosts:
            assert self.host_link is not None
            self.host_link.send(name, Stop(False))

    def figures(self) -> dict[str, object]:
        figures = self.core.figures()
        mine = figures["processes"][COORDINATOR]
        mine.update(self.usage, idle_us=self.link.idle_us)
        # A source is read here, and decoded here or elsewhere: both are its work.
        add_counts(mine["busy_us"], {self.core.plan.nodes[n].name: us for n, us in self.reading_us.items()})
        add_counts(mine["waited_us"], {self.core.plan.nodes[n].name: us for n, us in self.waited_us.items()})
        end_s = time.monotonic() if self.ended_s is None else self.ended_s
        elapsed_s = 0.0 if self.started_s is None else end_s - self.started_s
        figures["not_removed"] = self.not_removed
        figures["seconds"] = self.core.seconds_before + elapsed_s
        return figures

    def close(self) -> None:
        self.readers.close()
        if self.host_link is not None:
            self.host_link.close(linger_ms=2_000)
        self.letters.close()


def main(bootstrap: Bootstrap, frames: queue.SimpleQueue[bytes]) -> int:
    """Be the coordinator that was told. Returns the exit status."""
    link = Link(bootstrap.directory, COORDINATOR, bootstrap.attempt)
    link.send(CALLER, Hello(COORDINATOR, os.getpid()))
    shell: _Shell | None = None
    try:
        shell = _Shell(bootstrap, link, frames)
        spare_the_collector()
        return shell.serve()
    except Exception as error:
        link.send(CALLER, Failed(COORDINATOR, described(error, traceback.format_exc())))
        if shell is not None:
            shell.stop_others()
        return 1
    finally:
        if shell is not None:
            shell.close()
        link.close(linger_ms=2_000)
