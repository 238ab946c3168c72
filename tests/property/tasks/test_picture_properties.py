"""Laws of the picture of a task: whatever was cut off comes back from the agent's own task."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from meshway.tasks.missed_events import missed_events
from meshway.tasks.picture import TaskPicture
from meshway.tasks.values import TaskState

_OPEN = [TaskState.SUBMITTED, TaskState.WORKING, TaskState.INPUT_REQUIRED]
_TERMINAL = [state for state in TaskState if state.is_terminal]

_texts = st.text('ab\n"ü', max_size=3)
_parts = st.one_of(
    st.builds(lambda text: {"text": text}, _texts),
    st.builds(lambda text: {"text": text, "mediaType": "text/markdown"}, _texts),
    st.builds(lambda data: {"data": data}, st.one_of(st.booleans(), st.integers(0, 2), st.just({"b": 1, "a": None}))),
)
_fields = st.fixed_dictionaries(
    {},
    optional={"name": st.sampled_from(["n", "o"]), "metadata": st.dictionaries(st.sampled_from("kl"), st.integers())},
)
_messages = st.builds(
    lambda text: {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": text}]}, st.sampled_from("xy")
)


@st.composite
def _artifact_events(draw):
    artifact = draw(_fields) | {"artifactId": draw(st.sampled_from("ab")), "parts": draw(st.lists(_parts, max_size=3))}
    update = {"taskId": "t", "contextId": "c", "artifact": artifact, "append": draw(st.booleans())}
    return msgspec.json.encode({"artifactUpdate": update})


def _statuses(states):
    def event(state, message):
        status = {"state": state.value} | ({"message": message} if message else {})
        return msgspec.json.encode({"statusUpdate": {"taskId": "t", "contextId": "c", "status": status}})

    return st.builds(event, st.sampled_from(states), st.none() | _messages)


@st.composite
def _lives(draw):
    """The events of one task, ended or not."""
    first = msgspec.json.encode({"task": {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_SUBMITTED"}}})
    events = draw(st.lists(_artifact_events() | _statuses(_OPEN), max_size=10))
    return [first, *events, *draw(st.lists(_statuses(_TERMINAL), max_size=1))]


def _read(task: dict) -> dict:
    """A task as a reader sees it: texts that follow one another are one."""
    artifacts = {}
    for artifact in task.get("artifacts", []):
        parts: list = []
        for part in artifact["parts"]:
            if parts and part.keys() == parts[-1].keys() == {"text"}:
                parts[-1] = {"text": parts[-1]["text"] + part["text"]}
            else:
                parts.append(part)
        parts = [part for part in parts if part != {"text": ""}]
        fields = {name: value for name, value in artifact.items() if value != {}}
        artifacts[artifact["artifactId"]] = fields | {"parts": parts}
    return {"artifacts": artifacts, "status": task["status"]}


def _merge(task: dict) -> dict:
    """The same task of an agent that keeps a streamed text in one part."""
    merged = _read(task)["artifacts"]
    artifacts = [artifact | {"parts": merged[artifact["artifactId"]]["parts"]} for artifact in task["artifacts"]]
    return task | {"artifacts": artifacts}


@given(_lives(), st.data(), st.booleans())
def test_known_events_and_missed_ones_give_the_agent_s_task(events, data, merges):
    cut = data.draw(st.integers(0, len(events)))
    known = events[:cut]
    task = TaskPicture.of(events).task()
    if merges and "artifacts" in task:
        task = _merge(task)
    missing = missed_events(TaskPicture.of(known), msgspec.json.encode(task), task_id="t")
    caught_up = TaskPicture.of([*known, *missing])
    assert _read(caught_up.task()) == _read(task)
    assert missed_events(caught_up, msgspec.json.encode(task), task_id="t") == []
    statuses = [b'"statusUpdate"' in event for event in missing]
    assert sum(statuses) <= 1
    assert not any(statuses[:-1]), "the status comes last"


@given(_lives())
def test_a_picture_is_the_same_folded_at_once_or_from_its_own_task(events):
    for cut in range(1, len(events) + 1):
        snapshot = b'{"task":%b}' % TaskPicture.of(events[:cut]).encode()
        assert TaskPicture.of([snapshot, *events[cut:]]).task() == TaskPicture.of(events).task()
