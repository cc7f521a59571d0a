"""What customers and staff do meanwhile: orders for too little stock, receipts, prices, confirmations."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from uuid_utils import uuid7

from bench.campaign.client import Answer, Client, Command
from bench.campaign.ledger import Effect
from runtime.stopping import cancel

LOCATION: Final = "DEPOT"
CURRENCY: Final = "EUR"
CONTENDED: Final = 4
"""SKUs that everybody wants."""
PRICED: Final = 4
"""SKUs whose price changes; nobody orders them."""
PROBE: Final = "PROBE"
POISONED: Final = "POISONED"
PLENTY: Final = 1_000_000
AMOUNT: Final = 999
BUYERS: Final = 6
READERS: Final = 2
PAUSE_S: Final = 0.25
"""On average between two commands of a buyer."""
TTL_S: Final = 60
"""Of a reservation for a cart: the policies have it expire."""
RECENT: Final = 50


@dataclass(slots=True)
class Item:
    sku: str
    product_id: str
    variant_id: str
    price_etag: str


@dataclass(frozen=True, slots=True)
class Seen:
    """An order, and the token of the answer that told of it."""

    order_id: str
    token: str


class Traffic:
    def __init__(self, client: Client, chance: random.Random) -> None:
        self.client = client
        self.items: dict[str, Item] = {}
        self._chance = chance
        self._recent: deque[Seen] = deque(maxlen=RECENT)

    async def open_shop(self) -> None:
        """Products on sale, and stock. RuntimeError if anything is refused."""
        body = {"location": LOCATION, "name": LOCATION, "country": "DE"}
        await self._must("warehouse", "/locations", body, Effect("location.registered.v1", LOCATION))
        skus = [f"WANTED-{n}" for n in range(CONTENDED)] + [f"PRICED-{n}" for n in range(PRICED)]
        for sku in (*skus, PROBE, POISONED):
            self.items[sku] = await self._on_sale(sku)
        await self.receive(PROBE, PLENTY)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """On leaving, everything that was sent is answered or given up."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(BUYERS):
                group.create_task(self._buy(stop))
            others = [group.create_task(self._read()) for _ in range(READERS)]
            others.append(group.create_task(self.client.balance()))
            yield
            stop.set()
            for task in others:
                await cancel(task)

    async def order(self, sku: str, qty: int) -> Answer:
        customer = str(uuid7())
        body = {
            "customer_id": customer,
            "lines": [{"sku": sku, "qty": qty, "location": LOCATION}],
            "currency": CURRENCY,
            "expected_total": {"amount_minor": qty * AMOUNT, "currency": CURRENCY},
        }
        return await self.client.send(
            Command("customer", "/orders", body, Effect("order.placed.v1", customer))
        )

    async def receive(self, sku: str, qty: int) -> Answer:
        reference = str(uuid7())
        body = {"qty": qty, "reference": {"type": "purchase", "id": reference}}
        path = f"/stock/{sku}@{LOCATION}/receive"
        return await self.client.send(
            Command("warehouse", path, body, Effect("stock.received.v1", reference))
        )

    async def _buy(self, stop: asyncio.Event) -> None:
        deeds = (self._order, self._restock, self._reprice, self._hold)
        while not stop.is_set():
            [deed] = self._chance.choices(deeds, (60, 20, 10, 10))
            await deed()
            await asyncio.sleep(self._chance.uniform(0, 2 * PAUSE_S))

    async def _order(self) -> None:
        """Half of them are confirmed, some are cancelled, the rest is left to expire."""
        answer = await self.order(self._one_of("WANTED", CONTENDED), self._chance.randint(1, 3))
        if answer.fate != "acknowledged":
            return
        order_id = answer.body["order_id"]
        self._recent.append(Seen(order_id, answer.token))
        if (lot := self._chance.random()) < 0.5:  # noqa: PLR2004 - half
            effect = Effect("order.confirmed.v1", order_id)
            path, body = f"/orders/{order_id}/confirm", {}
        elif lot < 0.8:  # noqa: PLR2004 - some
            effect = Effect("order.cancelled.v1", f"{order_id} customer")
            path, body = f"/orders/{order_id}/cancel", {"reason": "customer"}
        else:
            return
        await self.client.send(Command("support", path, body, effect, answer.etag))

    async def _restock(self) -> None:
        await self.receive(self._one_of("WANTED", CONTENDED), self._chance.randint(1, 8))

    async def _reprice(self) -> None:
        item, reason = self.items[self._one_of("PRICED", PRICED)], str(uuid7())
        body = {
            "product_id": item.product_id,
            "currency": CURRENCY,
            "amount_minor": self._chance.randint(100, 10_000),
            "reason": reason,
        }
        path, effect = f"/prices/{item.variant_id}/set", Effect("price.set.v1", reason)
        answer = await self.client.send(Command("catalogue", path, body, effect, item.price_etag))
        if answer.fate == "acknowledged":
            item.price_etag = answer.etag
        elif version := answer.body.get("current_version"):
            item.price_etag = f'"{version}"'

    async def _hold(self) -> None:
        """In a cart, for the shortest time; nobody releases it."""
        cart = str(uuid7())
        body = {
            "holder": {"type": "cart", "id": cart},
            "items": [{"sku": self._one_of("WANTED", CONTENDED), "qty": 1, "location": LOCATION}],
            "ttl_s": TTL_S,
        }
        await self.client.send(Command("customer", "/reservations", body, Effect("stock.reserved.v1", cart)))

    async def _read(self) -> None:
        while True:
            if self._recent:
                seen = self._chance.choice(self._recent)
                answer = await self.client.get("support", f"/orders/{seen.order_id}", seen.token, 2)
                if answer is not None and answer.json()["order_id"] != seen.order_id:
                    self.client.ledger.stale_reads += 1
            await asyncio.sleep(self._chance.uniform(0, PAUSE_S))

    def _one_of(self, kind: str, count: int) -> str:
        return f"{kind}-{self._chance.randrange(count)}"

    async def _on_sale(self, sku: str) -> Item:
        draft = {"slug": sku.lower(), "title": {"en": sku}, "tax_class": "standard"}
        drafted = await self._must("catalogue", "/products", draft, Effect("product.drafted.v1", sku.lower()))
        product = drafted.body["product_id"]
        variant = {"sku": sku, "options": {}, "weight_g": 100}
        effect = Effect("variant.added.v1", sku)
        path = f"/products/{product}"
        added = await self._must("catalogue", f"{path}/add-variant", variant, effect, drafted.etag)
        ident, reason = added.body["variant_id"], str(uuid7())
        price = {"product_id": product, "currency": CURRENCY, "amount_minor": AMOUNT, "reason": reason}
        effect = Effect("price.set.v1", reason)
        priced = await self._must("catalogue", f"/prices/{ident}/set", price, effect, '"0"')
        effect = Effect("product.published.v1", product)
        await self._must("catalogue", f"{path}/publish", {}, effect, added.etag)
        return Item(sku, product, ident, priced.etag)

    async def _must(
        self, role: str, path: str, body: Mapping[str, object], effect: Effect, if_match: str | None = None
    ) -> Answer:
        answer = await self.client.send(Command(role, path, body, effect, if_match))
        if answer.fate != "acknowledged":
            raise RuntimeError(f"{path}: {answer}")
        return answer
