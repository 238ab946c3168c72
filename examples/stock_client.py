"""A stock a2a-sdk client that calls an agent through the hub: whole answers, and answers as they are made.

    python examples/stock_client.py greeter Ada

The client reads the agent's card at the hub, and from then on every call goes there. It needs no change to know the
hub: only the address is the hub's.
"""

import asyncio
import os
import sys

import httpx
from a2a.client import ClientConfig, create_client
from a2a.helpers import get_artifact_text, get_message_text, get_stream_response_text, new_text_message
from a2a.types import Role, SendMessageRequest, StreamResponse

__all__ = ["ask", "stream"]

_HUB = os.environ.get("MESHWAY_URL", "http://127.0.0.1:7070")
_KEY = os.environ.get("MESHWAY_API_KEY")


async def ask(agent: str, text: str) -> str:
    """The whole answer, when it is there."""
    async with await create_client(f"{_HUB}/a2a/{agent}", _config(streaming=False)) as client:
        answers = [answer async for answer in client.send_message(_request(text))]
    return _text(answers[-1])


async def stream(agent: str, text: str) -> None:
    """Print the answer while the agent makes it."""
    async with await create_client(f"{_HUB}/a2a/{agent}", _config(streaming=True)) as client:
        async for event in client.send_message(_request(text)):
            if event.HasField("message") or event.HasField("artifact_update"):
                print(get_stream_response_text(event), end="", flush=True)
    print()


def _config(*, streaming: bool) -> ClientConfig:
    headers = {"Authorization": f"Bearer {_KEY}"} if _KEY else {}
    return ClientConfig(streaming=streaming, httpx_client=httpx.AsyncClient(headers=headers))


def _request(text: str) -> SendMessageRequest:
    return SendMessageRequest(message=new_text_message(text, role=Role.ROLE_USER))


def _text(answer: StreamResponse) -> str:
    if answer.HasField("message"):
        return get_message_text(answer.message)
    return "".join(get_artifact_text(artifact, delimiter="") for artifact in answer.task.artifacts)


async def main() -> None:
    agent, text = sys.argv[1:] if len(sys.argv) == 3 else ("echo", "good morning")
    print("answer:", await ask(agent, text))
    print("stream: ", end="")
    await stream(agent, text)


if __name__ == "__main__":
    asyncio.run(main())
