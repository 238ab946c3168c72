"""A fleet of researchers: questions wait in a queue, any number of workers answer them, findings go into a stream.

    python examples/research_fleet.py ask "Why is tea bitter?" "Who drinks it cold?"
    python examples/research_fleet.py work --concurrency 4       # start as many as you like, kill any of them
    python examples/research_fleet.py report

It finds the hub by MESHWAY_URL (default http://127.0.0.1:7070) and shows MESHWAY_API_KEY, like the command line does.
"""

import argparse
import asyncio

from meshway.client import Delivery, MeshwayClient, NewMessage, Reject, Retry

__all__: list[str] = []

QUEUE, FINDINGS = "fleet.questions", "fleet.findings"


class RateLimited(Exception):
    """What the client of a real model raises when it is asked too much."""


async def ask_model(question: str, attempt: int) -> str:
    """Stands for the call of a model: it takes its time, and has no time for loud questions at first."""
    await asyncio.sleep(0.1)
    if question.endswith("!") and attempt == 1:
        raise RateLimited
    return f"All about {question.rstrip('?!').lower()}."


async def ask(questions: list[str]) -> None:
    async with MeshwayClient() as client:
        # Long calls are no reason for a long lease, workers extend it; a short one finds dead workers soon.
        await client.put_channel("queues", QUEUE, lease_ms=2_000, attempts_max=3)
        await client.enqueue_many(QUEUE, [{"question": question} for question in questions])
    print(f"{len(questions)} questions are in {QUEUE}")


async def work(concurrency: int) -> None:
    async with MeshwayClient() as client:

        async def study(delivery: Delivery) -> None:
            question = delivery.json(dict[str, str])["question"]
            if not question:
                raise Reject("there is no question")
            try:
                finding = await ask_model(question, delivery.attempt)
            except RateLimited:
                raise Retry("the model is busy", delay_ms=200) from None
            # Delivered twice, it is studied twice; the id of the question makes it one finding all the same.
            await client.append(FINDINGS, NewMessage(id=delivery.id, data={"question": question, "finding": finding}))
            print(f"attempt {delivery.attempt}: {question}", flush=True)

        # Until SIGTERM or Ctrl-C: what runs is finished, what was not begun goes back.
        await client.worker(QUEUE, study, concurrency=concurrency).run()


async def report() -> None:
    async with MeshwayClient() as client:
        page = await client.read(FINDINGS, from_="first", limit=500)
        for message in page.items:
            print(f"{message.sequence}. {message.json(dict[str, str])['finding']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A fleet of researchers behind a queue.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ask").add_argument("questions", nargs="+")
    commands.add_parser("work").add_argument("--concurrency", type=int, default=4)
    commands.add_parser("report")
    given = parser.parse_args()
    match given.command:
        case "ask":
            asyncio.run(ask(given.questions))
        case "work":
            asyncio.run(work(given.concurrency))
        case "report":
            asyncio.run(report())


if __name__ == "__main__":
    main()
