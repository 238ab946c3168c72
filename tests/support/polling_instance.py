"""An instance of an agent that takes its tasks by long poll, one call at a time, as a test tells it."""

import httpx

from support.rest_hub import card_document

__all__ = ["PollingInstance", "artifact", "status"]


def status(task, state, text=None):
    """A status update of the task."""
    said = {"state": f"TASK_STATE_{state}"}
    if text is not None:
        said["message"] = {"messageId": "m-1", "role": "ROLE_AGENT", "parts": [{"text": text}]}
    return {"statusUpdate": {"taskId": task["task_id"], "contextId": task["context_id"], "status": said}}


def artifact(task, text, *, append=False, last=True):
    """A chunk of the one artifact."""
    return {
        "artifactUpdate": {
            "taskId": task["task_id"],
            "contextId": task["context_id"],
            "artifact": {"artifactId": "a-1", "parts": [{"text": text}]},
            "append": append,
            "lastChunk": last,
        }
    }


class PollingInstance:
    """Every call must be answered by 2xx unless a test looks at the answer itself with `ask`."""

    def __init__(self, http: httpx.AsyncClient, agent: str = "worker", name: str = "one", **headers: str) -> None:
        self._http = http
        self._agent = agent
        self._headers = headers
        self.name = name

    async def ask(self, verb: str, **body: object) -> httpx.Response:
        url = f"/v1/agents/{self._agent}/{verb}"
        return await self._http.post(url, json={"instance": self.name, **body}, headers=self._headers)

    async def join(self, **more: object) -> dict:
        """The first call: with a card, and without a wait."""
        card = {key: value for key, value in card_document(self._agent).items() if key != "supportedInterfaces"}
        return await self.lease(card=card, **more)

    async def lease(self, **more: object) -> dict:
        return await self._done("lease", **more)

    async def take(self, **more: object) -> dict:
        """One task."""
        (task,) = (await self.lease(wait_ms=5_000, **more))["tasks"]
        return task

    async def report(self, task: dict, *events: dict, after: int = 0) -> dict:
        """Numbered from `after` + 1."""
        reports = [
            {"delivery_id": task["delivery_id"], "source": after + number, "event": event}
            for number, event in enumerate(events, 1)
        ]
        return await self._done("events", reports=reports)

    async def settle(self, task: dict, action: str, **more: object) -> dict:
        settlement = {"delivery_id": task["delivery_id"], "action": action, **more}
        return await self._done("settle", settlements=[settlement])

    async def bye(self) -> None:
        answer = await self.ask("bye")
        assert answer.status_code == 204, answer.text

    async def _done(self, verb: str, **body: object) -> dict:
        answer = await self.ask(verb, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()
