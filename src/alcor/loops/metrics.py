"""Prometheus's view of the control plane: hosts, sessions, dials, acknowledgements. Wired by roles, served by api.

Counted where it happens only if that is rare; the rest is read off when somebody scrapes. prometheus-client enters here
only.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from alcor.paths.base import PathName, Session
from alcor.services.health import Reach
from alcor.wire.reports import Ack

BUCKETS_DIALS = (1, 2, 3, 5, 10, 20, 50, 100)
BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """See the module. Fills loops.health.Hearing."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._ports = Counter(
            "alcor_port_reports", "Hosts' words about ports.", ("path", "outcome"), registry=self._registry
        )
        self._wiring = Histogram(
            "alcor_port_wiring_seconds",
            "From a host's receiving goal state to its carrying the port.",
            ("path",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )

        self._attempts = Histogram(
            "alcor_session_dials",
            "Dials that it took until a host was in session.",
            ("path",),
            buckets=BUCKETS_DIALS,
            registry=self._registry,
        )

    def watch(
        self,
        *,
        dials: Callable[[], Mapping[tuple[PathName, str], int]],
        endings: Callable[[], Mapping[tuple[PathName, str], int]],
        paths: Callable[[], Mapping[str, PathName]],
        failing: Callable[[], Mapping[str, int]],
        states: Callable[[], Tally[Reach]],
        seen: Callable[[], Tally[str]],
        revision: Callable[[], int],
        refused: Callable[[], Mapping[str, int]],
    ) -> None:
        """What is read at every scrape: dials by path and outcome, ended sessions by path and cause, sessions, hosts
        not in sync, hosts by state and as their peers see them, the newest commit, bus messages refused by reason."""
        self._registry.register(_Reader(dials, endings, paths, failing, states, seen, revision, refused))

    def greeted(self, session: Session) -> None:
        """See loops.health.Hearing."""
        self._attempts.labels(session.path).observe(session.attempts)

    def acknowledged(self, session: Session, ack: Ack) -> None:
        """See loops.health.Hearing."""
        if not ack.ports:
            return
        failed = 0
        wiring = self._wiring.labels(session.path)
        for port in ack.ports:
            if port.error:
                failed += 1
            elif not port.deleted:
                wiring.observe(port.elapsed_us / 1e6)
        self._ports.labels(session.path, "carried").inc(len(ack.ports) - failed)
        if failed:
            self._ports.labels(session.path, "refused").inc(failed)

    def render(self) -> bytes:
        """The page, in Prometheus's text format."""
        return generate_latest(self._registry)


class _Reader(Collector):
    def __init__(
        self,
        dials: Callable[[], Mapping[tuple[PathName, str], int]],
        endings: Callable[[], Mapping[tuple[PathName, str], int]],
        paths: Callable[[], Mapping[str, PathName]],
        failing: Callable[[], Mapping[str, int]],
        states: Callable[[], Tally[Reach]],
        seen: Callable[[], Tally[str]],
        revision: Callable[[], int],
        refused: Callable[[], Mapping[str, int]],
    ) -> None:
        self._dials = dials
        self._endings = endings
        self._paths = paths
        self._failing = failing
        self._states = states
        self._seen = seen
        self._revision = revision
        self._refused = refused

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        sessions = GaugeMetricFamily("alcor_sessions", "Hosts in session, by path.", labels=("path",))
        counted = Tally(self._paths().values())
        for path in PathName:
            sessions.add_metric((path,), counted[path])
        hosts = GaugeMetricFamily("alcor_hosts", "Hosts that were ever heard, by state.", labels=("state",))
        states = self._states()
        for state in Reach:
            hosts.add_metric((state,), states[state])
        dials = CounterMetricFamily("alcor_dials", "Dials, by path and outcome.", labels=("path", "outcome"))
        for (path, outcome), count in sorted(self._dials().items()):
            dials.add_metric((path, outcome), count)
        about = "Sessions that ended for a reason, by path and cause."
        endings = CounterMetricFamily("alcor_sessions_ended", about, labels=("path", "cause"))
        for (path, cause), count in sorted(self._endings().items()):
            endings.add_metric((path, cause), count)
        refused = GaugeMetricFamily("alcor_bus_refused", "Bus messages refused, by reason.", labels=("reason",))
        for reason, count in sorted(self._refused().items()):
            refused.add_metric((reason,), count)
        by_peers = GaugeMetricFamily("alcor_hosts_by_peers", "Hosts, as their peers see them.", labels=("seen",))
        for word, count in sorted(self._seen().items()):
            by_peers.add_metric((word,), count)
        yield sessions
        yield dials
        yield endings
        yield hosts
        yield by_peers
        yield refused
        yield GaugeMetricFamily("alcor_hosts_failing", "Hosts not in sync.", value=len(self._failing()))
        yield GaugeMetricFamily("alcor_revision", "The newest commit.", value=self._revision())
