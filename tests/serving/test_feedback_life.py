"""The life of feedback, as hypothesis makes it up: written, labelled, deleted, crashed, drained, in any order."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from saved_feedback import label, prediction

from labline.feedback import FeedbackStore, Label, Prediction
from serving.draining import Drainer
from serving.entries import encode_label, encode_prediction
from serving.journal import Journal, frame

PLENTY = 2**30


class Life(RuleBasedStateMachine):
    """Two workers of one service, and what should be known of everything that they acknowledged."""

    predictions = Bundle("predictions")
    labels = Bundle("labels")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="labline-feedback-")
        self.root = Path(self.folder.name) / "journal"
        self.store = FeedbackStore(f"sqlite:///{self.folder.name}/feedback.db")
        self.workers: list[Journal] = []
        self.predicted: dict[str, Prediction] = {}
        self.said: dict[str, Label] = {}
        self.deleted: set[str] = set()

    @initialize()
    def start(self) -> None:
        self.workers = [Journal(self.root, PLENTY) for _ in range(2)]

    @rule(target=predictions, worker=st.integers(0, 1), at=st.floats(0, 100))
    def predict(self, worker: int, at: float) -> Prediction:
        given = prediction(at=at)
        self.workers[worker].append("predictions", frame(encode_prediction(given, None)))
        self.predicted[given.id] = given
        return given

    @rule(
        target=labels,
        of=predictions,
        worker=st.integers(0, 1),
        at=st.integers(0, 3),
        received=st.integers(0, 3),
        name=st.sampled_from("abc"),
    )
    def say(self, of: Prediction, worker: int, at: int, received: int, name: str) -> Label:
        said = label(of, name, at=float(at), received=float(received))
        return self.say_again(said, worker)

    @rule(target=labels, said=labels, worker=st.integers(0, 1))
    def say_again(self, said: Label, worker: int) -> Label:
        self.workers[worker].append("labels", frame(encode_label(said))).sync()
        self.said[said.id] = said
        return said

    @rule(of=predictions)
    def delete(self, of: Prediction) -> None:
        self.store.delete([of.id])
        self.deleted.add(of.id)

    @rule(worker=st.integers(0, 1))
    def hand_over(self, worker: int) -> None:
        self.workers[worker].roll()

    @rule(worker=st.integers(0, 1), torn=st.binary(max_size=30))
    def crash(self, worker: int, torn: bytes) -> None:
        """Kill -9 in the middle of writing a record."""
        journal = self.workers[worker]
        for segment in journal._active.values():
            os.pwrite(segment.descriptor, torn, segment.size)
            os.close(segment.descriptor)
        os.close(journal._lock_descriptor)
        self.workers[worker] = Journal(self.root, PLENTY)

    @rule(crashing=st.booleans())
    def drain(self, crashing: bool) -> None:
        """Where it crashes, what it stored already lies in the journal still."""
        copies = {path: path.read_bytes() for path in self.root.rglob("*.closed")} if crashing else {}
        drainer = Drainer(self.store.address, self.root)
        drainer.close(60)
        assert drainer.problem == "" and drainer.refused == 0
        for path, content in copies.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)

    @invariant()
    def nothing_is_made_up_doubled_or_brought_back(self) -> None:
        window = self.store.window("steel")
        assert window["id"].is_unique
        assert set(window["id"]) <= self.predicted.keys() - self.deleted

    def teardown(self) -> None:
        for worker in self.workers:
            worker.close()
        self.drain(crashing=False)
        window = self.store.window("steel").set_index("id")
        assert set(window.index) == self.predicted.keys() - self.deleted, "nothing is lost"
        for of in self.predicted:
            expected = [said for said in self.said.values() if said.prediction == of and of not in self.deleted]
            expected.sort(key=lambda said: (said.at, said.received, said.id))
            assert self.store.labels(of) == expected, "all are kept"
            if expected:
                assert window.loc[of, "label"] == expected[-1].label, "the latest counts"
        self.store.close()
        self.folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
