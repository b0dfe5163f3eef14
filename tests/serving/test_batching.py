"""What came while the model was busy goes in together; who finds the queue full is told when to come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pacx.serving.batching import Batcher
from pacx.serving.limits import Limits
from pacx.serving.problems import Problem
from pacx.serving.runtime import Answers


class Slow:
    """Answers with the first pixel; waits for a sign before each batch."""

    facts: Any = None

    def __init__(self) -> None:
        self.batches: list[tuple[int, frozenset[str]]] = []
        self.go = threading.Event()

    def run(self, images: NDArray[np.float32], *, want: Collection[str]) -> Answers:
        self.go.wait(5)
        self.batches.append((len(images), frozenset(want)))
        if (images < 0).any():
            raise ValueError("negative")
        found = images[:, 0, 0, :1]
        return Answers(*(found if name in want else None for name in Answers._fields))


def image(value: float) -> NDArray[np.float32]:
    return np.full((1, 2, 2), value, np.float32)


def run(use: Any, **limits: int) -> None:
    async def main() -> None:
        model = Slow()
        batcher = Batcher(model, Limits(**{"batch_size": 4, "queue_size": 8, **limits}))
        batcher.seconds_per_image = 0.001
        batcher.start()
        async with asyncio.timeout(10):
            await use(batcher, model)
        await batcher.stop()

    asyncio.run(main())


def test_waiting_images_share_batches_and_get_their_own_answers() -> None:
    async def use(batcher: Batcher, model: Slow) -> None:
        first = asyncio.create_task(batcher.answer(image(0), ("embedding",)))
        await asyncio.sleep(0.05)  # it is in the model now
        rest = [
            asyncio.create_task(batcher.answer(image(n), ("probability",) if n % 2 else ("embedding",)))
            for n in range(1, 7)
        ]
        await asyncio.sleep(0.05)
        assert batcher.waiting == 6
        model.go.set()
        found = await asyncio.gather(first, *rest)
        values = [one.embedding if number % 2 == 0 else one.probability for number, one in enumerate(found)]
        assert [float(value[0]) for value in values] == [0, 1, 2, 3, 4, 5, 6]
        assert [size for size, _ in model.batches] == [1, 4, 2]
        assert model.batches[1][1] == {"embedding", "probability"}

    run(use)


def test_images_of_a_slow_model_do_not_wait_for_each_other() -> None:
    async def use(batcher: Batcher, model: Slow) -> None:
        batcher.seconds_per_image = 0.3
        model.go.set()
        await asyncio.gather(*(batcher.answer(image(n), ("embedding",)) for n in range(3)))
        assert [size for size, _ in model.batches] == [1, 1, 1]

    run(use)


def test_several_runners_share_what_waits() -> None:
    async def main() -> None:
        model = Slow()
        batcher = Batcher(model, Limits(batch_size=8), runners=2)
        batcher.seconds_per_image = 0.001
        tasks = [asyncio.create_task(batcher.answer(image(n), ("embedding",))) for n in range(6)]
        await asyncio.sleep(0)
        batcher.start()
        await asyncio.sleep(0.05)
        model.go.set()
        found = await asyncio.gather(*tasks)
        assert [float(one.embedding[0]) for one in found if one.embedding is not None] == [0, 1, 2, 3, 4, 5]
        assert sorted(size for size, _ in model.batches) == [1, 2, 3]  # each a half of what waits
        await batcher.stop()

    asyncio.run(main())


def test_a_full_queue_says_when_to_come_back() -> None:
    async def use(batcher: Batcher, model: Slow) -> None:
        batcher.seconds_per_image = 2.0
        tasks = [asyncio.create_task(batcher.answer(image(0), ("embedding",)))]
        await asyncio.sleep(0.05)  # it has left the queue
        tasks += [asyncio.create_task(batcher.answer(image(n), ("embedding",))) for n in range(1, 9)]
        await asyncio.sleep(0.05)
        with pytest.raises(Problem) as caught:
            await batcher.answer(image(9), ("embedding",))
        assert caught.value.status == 429
        assert caught.value.retry is not None
        assert caught.value.retry >= 2
        model.go.set()
        assert len(await asyncio.gather(*tasks)) == 9

    run(use)


def test_who_has_gone_away_is_not_computed_for() -> None:
    async def use(batcher: Batcher, model: Slow) -> None:
        first = asyncio.create_task(batcher.answer(image(0), ("embedding",)))
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(batcher.answer(image(1), ("embedding",)))
        stays = asyncio.create_task(batcher.answer(image(2), ("embedding",)))
        await asyncio.sleep(0.05)
        gone.cancel()
        model.go.set()
        await asyncio.gather(first, stays)
        assert [size for size, _ in model.batches] == [1, 1]

    run(use)


def test_a_model_that_fails_is_heard_by_its_batch_alone() -> None:
    async def use(batcher: Batcher, model: Slow) -> None:
        model.go.set()
        with pytest.raises(ValueError, match="negative"):
            await batcher.answer(image(-1), ("embedding",))
        assert (await batcher.answer(image(3), ("embedding",))).embedding is not None

    run(use)


def test_what_waits_when_the_server_stops_is_told_so() -> None:
    async def main() -> None:
        model = Slow()
        batcher = Batcher(model, Limits(batch_size=1))
        batcher.start()
        tasks = [asyncio.create_task(batcher.answer(image(n), ("embedding",))) for n in range(3)]
        await asyncio.sleep(0.05)
        model.go.set()
        await batcher.stop()
        late = await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert all(isinstance(one, Problem) and one.status == 503 for one in late)
        tasks[0].cancel()

    asyncio.run(main())
