"""Ids are taken from bulk entropy, and still nobody gets one twice."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor

from meshway.kernel.ids import new_id


def test_ids_are_random_uuids():
    assert {(uuid.UUID(new_id()).version, uuid.UUID(new_id()).variant) for _ in range(600)} == {(4, uuid.RFC_4122)}


def test_threads_never_get_the_same_id():
    with ThreadPoolExecutor(4) as threads:
        batches = list(threads.map(lambda _: [new_id() for _ in range(5_000)], range(4)))
    assert len({each for batch in batches for each in batch}) == 20_000


def test_a_forked_process_does_not_give_out_the_ids_of_its_parent():
    new_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() != new_id()
    os.close(reader)
    os.close(writer)
