"""The hub's own client: ask an agent, follow a stream, look around in the registry.

    python examples/meshway_client.py

It finds the hub by MESHWAY_URL (default http://127.0.0.1:7070) and shows MESHWAY_API_KEY, like the command line does.
"""

import asyncio

from meshway.client import EventKind, HubError, MeshwayClient

__all__: list[str] = []


async def main() -> None:
    async with MeshwayClient() as client:
        for agent in (await client.agents.list(state="online")).items:
            print(f"{agent.id}: {', '.join(skill.name for skill in agent.skills)}")

        answer = await client.ask("echo", "good morning")
        print("echo says:", answer.text)

        question = await client.ask("countdown", "count down, please")
        print("countdown asks:", question.text)
        print("countdown: ", end="")
        async for event in client.stream("countdown", "3", task_id=question.task_id):
            if event.kind is EventKind.ARTIFACT:
                print(event.text, end="", flush=True)
        print()

        try:
            await client.ask("nobody", "hello?")
        except HubError as error:
            print("nobody:", error.code)


if __name__ == "__main__":
    asyncio.run(main())
