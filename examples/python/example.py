"""Quorate from Python, with the stock NATS library and nothing else: pip install nats-py

    make run                             # in another terminal
    python3 examples/python/example.py   # or with NATS_URL=nats://host:4222

It creates a store, appends with an expected version, meets a conflict, reads the stream, follows the store with no gap between what there was and what comes, and consumes a
durable subscription, for which the cluster remembers what was acknowledged. Live events come on es.<store>.event.<stream>, at most once.
Every request and reply is JSON; subjects.md has them all.
"""

import asyncio
import json
import os
import uuid

import nats
from nats.errors import NoRespondersError, TimeoutError


class QuorateError(Exception):
    """What a request got instead of a result; name is stable, such as "wrong_expected_version"."""

    def __init__(self, error):
        super().__init__(f"{error['name']}: {error['description']}")
        self.name, self.code, self.error = error["name"], error["code"], error


async def ask(nc, subject, body=None, timeout=5.0, tries=10):
    """Send a request until it is answered for good. A write is safe to repeat because its event ids stay the same."""
    payload = json.dumps(body or {}).encode()
    for attempt in range(tries):
        try:
            reply = json.loads((await nc.request(subject, payload, timeout=timeout)).data)
            error = reply.get("error")
            if error is None:
                return reply
            if error["code"] not in (429, 503, 504) or attempt == tries - 1:
                raise QuorateError(error)
        except (TimeoutError, NoRespondersError):
            if attempt == tries - 1:
                raise
        await asyncio.sleep(min(0.05 * 2**attempt, 1.0))


async def append(nc, store, stream, events, expected_version):
    for event in events:
        event.setdefault("id", str(uuid.uuid4()))  # before the first try
    return await ask(nc, f"es.{store}.write.append.{stream}", {"events": events, "expected_version": expected_version})


async def follow(nc, store, after=0):
    """Yield every event behind the position, and wait for more. Keep the last position to go on from there."""
    while True:
        page = await ask(nc, f"es.{store}.read.all", {"after": after, "limit": 500, "wait_ms": 5000}, timeout=12)
        for event in page["events"]:
            yield event
        after = page["next"]


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)
    try:
        await ask(nc, "es.config.write.put.pyshop", timeout=12)
        order = f"order-{uuid.uuid4().hex[:8]}"

        live = await nc.subscribe(f"es.pyshop.event.{order}")

        placed = {"type": "OrderPlaced", "data": {"total": 12}, "tags": ["customer:7"]}
        result = await append(nc, "pyshop", order, [placed], -1)  # -1: the stream must not exist
        print("version", result["version"])

        again = await append(nc, "pyshop", order, [placed], -1)  # the same id: written once
        print("duplicate", again["duplicate"])

        try:
            await append(nc, "pyshop", order, [{"type": "OrderPlaced"}], -1)
        except QuorateError as e:
            print("refused", e.name, "actual version", e.error["actual_version"])

        await append(nc, "pyshop", order, [{"type": "OrderPaid", "data": {"method": "card"}}], 0)
        page = await ask(nc, f"es.pyshop.read.stream.{order}")
        print("events", [event["type"] for event in page["events"]])

        message = await live.next_msg(timeout=5)
        print("live", message.headers["ce-type"], message.headers["ce-version"], message.data.decode())

        async for event in follow(nc, "pyshop", after=result["position"] - 1):
            if event["stream"] == order:
                print("followed", event["version"], event["type"], event.get("data"))
                if event["type"] == "OrderPaid":
                    break

        # A subscription of its own for each run of the example: only the events behind the position that it began at.
        name = f"mail-{order}"
        await ask(nc, f"es.pyshop.write.subscription.create.{name}", {"after": result["position"] - 1, "query": {"items": [{"types": ["OrderPaid"]}]}})
        batch = await ask(nc, f"es.pyshop.write.subscription.fetch.{name}", {"limit": 10, "wait_ms": 5000}, timeout=12)
        positions = [event["position"] for event in batch["events"] if event["stream"] == order]
        done = await ask(nc, f"es.pyshop.write.subscription.ack.{name}", {"positions": positions})
        print("acknowledged", done["done"])
        await ask(nc, f"es.pyshop.write.subscription.delete.{name}")
    finally:
        await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
