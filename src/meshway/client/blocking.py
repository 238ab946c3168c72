"""The SDK for programs without an event loop: the same client, run on a private loop in one thread.

Nothing is written twice: every method here is the asynchronous one, wrapped.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from meshway.client.agents import AgentsApi
from meshway.client.client import MeshwayClient
from meshway.client.keys import KeysApi
from meshway.client.messages import StreamEvent
from meshway.client.push import PushApi
from meshway.client.tasks import TasksApi
from meshway.client.values import AgentChange

__all__ = ["BlockingAgents", "BlockingClient", "BlockingKeys", "BlockingPush", "BlockingTasks"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Item = TypeVar("Item")
Api = TypeVar("Api")
HeldApi = TypeVar("HeldApi", covariant=True)
# How long leaving waits for the loop to end; connections are only closed, so it takes milliseconds.
_CLOSE_TIMEOUT_S = 5.0


class _LoopThread:
    """One event loop in one daemon thread, so that a forgotten client does not keep the program alive."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="meshway-client", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return not self._loop.is_closed()

    def run(self, work: Coroutine[object, object, Result]) -> Result:
        """Run to the end; an interrupt of the caller (Ctrl-C) cancels the work."""
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("this client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, source: AsyncIterator[Item]) -> Iterator[Item]:
        """Each item when it comes; leaving the iteration closes the source."""
        try:
            while True:
                try:
                    yield self.run(_next(source))
                except StopAsyncIteration:
                    return
        finally:
            if not self._loop.is_closed():
                self.run(_close(source))

    def stop(self) -> None:
        """Cancel what still runs, end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()


class _Facade(Protocol[HeldApi]):
    """Something that holds an asynchronous api and the thread it runs on."""

    @property
    def _api(self) -> HeldApi: ...

    @property
    def _thread(self) -> _LoopThread: ...


def _waiting(
    method: Callable[Concatenate[Api, Parameters], Coroutine[object, object, Result]],
) -> Callable[Concatenate[_Facade[Api], Parameters], Result]:
    """The same method, waiting for its result."""

    def wait(facade: _Facade[Api], /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return facade._thread.run(method(facade._api, *args, **kwargs))

    wait.__doc__ = method.__doc__
    wait.__name__ = method.__name__
    return wait


class BlockingAgents:
    """`AgentsApi`, waiting."""

    def __init__(self, api: AgentsApi, thread: _LoopThread) -> None:
        self._api = api
        self._thread = thread

    list = _waiting(AgentsApi.list)
    get = _waiting(AgentsApi.get)
    register = _waiting(AgentsApi.register)
    update = _waiting(AgentsApi.update)
    remove = _waiting(AgentsApi.remove)
    drain = _waiting(AgentsApi.drain)
    resume = _waiting(AgentsApi.resume)
    heartbeat = _waiting(AgentsApi.heartbeat)
    add_instance = _waiting(AgentsApi.add_instance)
    remove_instance = _waiting(AgentsApi.remove_instance)

    def watch(self, *, after: str | None = None) -> Iterator[AgentChange]:
        """Every change of the registry, for ever; see `AgentsApi.watch`."""
        return self._thread.iterate(self._api.watch(after=after))


class BlockingKeys:
    """`KeysApi`, waiting."""

    def __init__(self, api: KeysApi, thread: _LoopThread) -> None:
        self._api = api
        self._thread = thread

    create = _waiting(KeysApi.create)
    list = _waiting(KeysApi.list)
    revoke = _waiting(KeysApi.revoke)


class BlockingPush:
    """`PushApi`, waiting."""

    def __init__(self, api: PushApi, thread: _LoopThread) -> None:
        self._api = api
        self._thread = thread

    dead_letters = _waiting(PushApi.dead_letters)
    redrive = _waiting(PushApi.redrive)


class BlockingTasks:
    """`TasksApi`, waiting."""

    def __init__(self, api: TasksApi, thread: _LoopThread) -> None:
        self._api = api
        self._thread = thread

    submit = _waiting(TasksApi.submit)
    get = _waiting(TasksApi.get)
    list = _waiting(TasksApi.list)
    cancel = _waiting(TasksApi.cancel)
    receipts = _waiting(TasksApi.receipts)
    tree = _waiting(TasksApi.tree)
    inbox = _waiting(TasksApi.inbox)
    dead_letters = _waiting(TasksApi.dead_letters)
    redrive = _waiting(TasksApi.redrive)
    stop = _waiting(TasksApi.stop)
    resume = _waiting(TasksApi.resume)

    def events(self, task_id: str, *, last_event_id: str | None = None) -> Iterator[StreamEvent]:
        """Every event until the task ends; see `TasksApi.events`."""
        return self._thread.iterate(self._api.events(task_id, last_event_id=last_event_id))


class BlockingClient:
    """`MeshwayClient` for plain programs: `with BlockingClient() as client: print(client.ask("echo", "hi").text)`.

    May be used from several threads; never from inside an event loop, which it would stop.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        # Made here, so that a wrong address raises before a thread exists; httpx binds to a loop at the first request.
        self._api = MeshwayClient(url, api_key)
        self._thread = _LoopThread()
        self.agents = BlockingAgents(self._api.agents, self._thread)
        self.keys = BlockingKeys(self._api.keys, self._thread)
        self.push = BlockingPush(self._api.push, self._thread)
        self.tasks = BlockingTasks(self._api.tasks, self._thread)

    @property
    def url(self) -> str:
        """Where the hub is, without a slash at the end."""
        return self._api.url

    ask = _waiting(MeshwayClient.ask)
    get_task = _waiting(MeshwayClient.get_task)
    cancel_task = _waiting(MeshwayClient.cancel_task)
    publish = _waiting(MeshwayClient.publish)
    append = _waiting(MeshwayClient.append)
    read = _waiting(MeshwayClient.read)
    enqueue = _waiting(MeshwayClient.enqueue)
    enqueue_many = _waiting(MeshwayClient.enqueue_many)
    command = _waiting(MeshwayClient.command)
    query = _waiting(MeshwayClient.query)

    def stream(
        self,
        agent: str,
        content: str | Mapping[str, object],
        *,
        context_id: str | None = None,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        durable: bool = False,
    ) -> Iterator[StreamEvent]:
        """Send, and get events as the agent makes them; see `MeshwayClient.stream`."""
        return self._thread.iterate(
            self._api.stream(
                agent,
                content,
                context_id=context_id,
                task_id=task_id,
                idempotency_key=idempotency_key,
                durable=durable,
            )
        )

    def follow_task(self, agent: str, task_id: str, *, last_event_id: str | None = None) -> Iterator[StreamEvent]:
        """Join a task; see `MeshwayClient.follow_task`."""
        return self._thread.iterate(self._api.follow_task(agent, task_id, last_event_id=last_event_id))

    def close(self) -> None:
        """Close all connections and end the thread. Idempotent."""
        if self._thread.is_running:
            self._thread.run(self._api.aclose())
            self._thread.stop()

    def __enter__(self) -> "BlockingClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _next(source: AsyncIterator[Item]) -> Item:
    return await anext(source)


async def _close(source: AsyncIterator[Item]) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_CLOSE_TIMEOUT_S)
