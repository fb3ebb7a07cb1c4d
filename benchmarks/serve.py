"""How much can the page take? A running ``vizsla serve`` and many clients, good and hostile ones.

python -m benchmarks.serve [--quick] [--part flood|speed] [--seconds 60] [--clients 200] [--megapixels 50] [--model FILE] [--json FILE]
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.measure import Command, answer, one_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

Hostile = dict[str, tuple[list[bytes], tuple[int, ...]]]
FAILURES = (OSError, EOFError, TimeoutError, ValueError)
NUM_IMAGES = 16
MOST_DIFFERENCE = 1e-4
HOST = "127.0.0.1"
HUGE = 100_000_000
GIVE_UP_SECONDS = 120.0
_CHUNK = b"x" * 65536
HOSTILE_CLIENTS = 3  # Every third client only attacks.
LIE_SIDE, TILE_SIDE = 10_000, 16_000
_ASK_HEALTH = """
import http.client, select, sys, time
while not select.select([sys.stdin], [], [], 0.25)[0]:
    began = time.perf_counter()
    client = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    client.request("GET", "/health")
    assert client.getresponse().status == 200
    print(time.perf_counter() - began)
    client.close()
"""


@dataclass(frozen=True, kw_only=True)
class Good:
    """An image and its right answer."""

    data: bytes
    probabilities: tuple[float, ...]


@dataclass(kw_only=True)
class Tally:
    """What clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    with_waits: list[float] = field(default_factory=list)
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    took: float = 0.0
    memory: list[tuple[float, int]] = field(default_factory=list)


def make_model(folder: Path) -> Path:
    """Write a model file of the default network at its default size, with a random head."""
    from vizsla import Resize
    from vizsla.model_file import save_bundle
    from vizsla.models import Classifier, ConcatPoolHead, build_backbone

    backbone = build_backbone("efficientnet_lite0")
    head = ConcatPoolHead(backbone.num_features, 10)
    classifier = Classifier(backbone, head, vocab=tuple("abcdefghij")).eval()
    file = folder / "lite0.safetensors"
    return save_bundle(file, classifier=classifier, resize=Resize(292), size=(224, 224))


def make_images(model: Path) -> list[Good]:
    """Return images with the predictor's own answers."""
    from vizsla import Predictor
    from vizsla.bench import made_up_photograph

    predictor = Predictor.load(model, device="cpu")
    found: list[Good] = []
    for number in range(NUM_IMAGES):
        buffer = io.BytesIO()
        made_up_photograph(number).save(buffer, format="JPEG", quality=90)
        prediction = predictor.predict(buffer.getvalue())
        probabilities = tuple(prediction.probabilities.tolist())
        found.append(Good(data=buffer.getvalue(), probabilities=probabilities))
    return found


@contextmanager
def serving(model: Path, *words: str) -> Generator[tuple[int, int]]:
    """Run a server; give its port and its process id."""
    command = [sys.executable, "-m", "vizsla", "serve", str(model), "--port", "0", "--max-rate", "0", *words]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r":(\d+)/", line)
            if found is None:
                raise SystemExit(f"The server did not start: {line}")
            yield int(found.group(1)), process.pid
        finally:
            process.terminate()
            if process.wait(60) != 0:
                print(f"The server ended with code {process.returncode}")


async def connect(port: int, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect from an address of the client's own; Linux has 16 million of them for this machine."""
    own = (f"127.0.1.{1 + number % 250}", 0) if sys.platform == "linux" else None
    return await asyncio.open_connection(HOST, port, local_addr=own)


async def ask(port: int, parts: list[bytes], *, number: int = 0, seconds: float = 60) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
    """Send a request while reading; return status, headers and body. Sending stops when an answer is there."""
    async with asyncio.timeout(seconds):
        reader, writer = await connect(port, number)
        answering = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        try:
            with suppress(ConnectionError):
                for part in parts:
                    if answering.done():
                        break
                    writer.write(part)
                    await writer.drain()
            head = (await answering).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value
                for name, _, value in (line.partition(": ") for line in head[1:])
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            return int(head[0].split()[1]), headers, body
        finally:
            answering.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await answering
            writer.close()


def post(body: bytes, kind: str = "image/jpeg", *, length: int | None = None) -> list[bytes]:
    """Return a request in two parts, head and body."""
    said = len(body) if length is None else length
    head = f"POST /api/predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nContent-Length: {said}\r\n\r\n"
    return [head.encode(), body]


def right(body: bytes, good: Good) -> bool:
    """Return whether an answer is that of the predictor."""
    answers = json.loads(body)["pictures"]
    found = list(answers[0].get("probabilities", {}).values())
    return len(found) == len(good.probabilities) and all(
        abs(one - other) <= MOST_DIFFERENCE
        for one, other in zip(found, good.probabilities, strict=True)
    )


async def ask_well(port: int, good: Good, tally: Tally, number: int) -> None:
    """Send a good image, try again when told to, and note the outcome."""
    began = time.perf_counter()
    while time.perf_counter() - began < GIVE_UP_SECONDS:
        started = time.perf_counter()
        try:
            status, headers, body = await ask(port, post(good.data), number=number)
        except FAILURES as error:
            tally.lost.append(f"{type(error).__name__} {error}")
            return
        now = time.perf_counter()
        if status == 200 and right(body, good):
            tally.answers["good, right answer"] += 1
            tally.seconds.append(now - started)
            tally.with_waits.append(now - began)
            return
        if status not in (429, 503) or "retry-after" not in headers:
            tally.lost.append(f"status {status}: {body[:200]!r}")
            return
        tally.refused += 1
        share = (hash((started, port)) % 1000) / 1000
        await asyncio.sleep(float(headers["retry-after"]) * (0.5 + share))
    tally.lost.append("never a place")


def tile_bomb() -> bytes:
    """Return a TIFF of 8 x 8 pixels with one tile of 256 million."""
    row = bytes(3 * TILE_SIDE)
    packer = zlib.compressobj(1)
    tile = b"".join(packer.compress(row) for _ in range(TILE_SIDE)) + packer.flush()
    tags = [
        (256, 8),
        (257, 8),
        (258, 8 + len(tile)),
        (259, 8),
        (262, 2),
        (277, 3),
        (284, 1),
        (322, TILE_SIDE),
        (323, TILE_SIDE),
        (324, 8),
        (325, len(tile)),
    ]
    rows = [
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, value)
        for tag, value in tags
    ]
    head = b"II*\0" + struct.pack("<I", 8 + len(tile) + 6)
    return head + tile + struct.pack("<HHHH", 8, 8, 8, len(tags)) + b"".join(rows) + bytes(4)


def lying_avif() -> bytes:
    """Return an AVIF of 100 million pixels whose header says 64 x 64."""
    buffer = io.BytesIO()
    Image.new("RGB", (LIE_SIDE, LIE_SIDE)).save(buffer, "AVIF", speed=10, quality=10, max_threads=1)
    data = buffer.getvalue()
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", 64, 64) + data[at + 8 :]


def hostile_bodies(good: Good) -> dict[str, tuple[list[bytes], tuple[int, ...]]]:
    """Return requests that must be refused, by name, with the right status codes."""
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, format="PNG")
    webp = io.BytesIO()  # 34 bytes that claim 16384 x 16384 pixels
    Image.new("RGB", (1, 1)).save(webp, format="WEBP", lossless=True)
    claimed = webp.getvalue()[:21] + (0xFFFFFFF).to_bytes(4, "little") + webp.getvalue()[25:]
    large = io.BytesIO()  # allowed, and costs much memory to decode
    Image.new("L", (6900, 7000)).save(large, format="PNG")
    form = b'--a\r\nContent-Disposition: form-data; name="p"; filename="x"\r\n\r\n' + good.data
    chunked = f"POST /api/predict HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n" % len(_CHUNK) + _CHUNK + b"\r\n"] * (HUGE // len(_CHUNK))
    head, _ = post(b"", length=HUGE)
    return {
        "bomb": (post(bomb.getvalue()), (422, 503)),
        "TIFF of one huge tile": (post(tile_bomb()), (422, 503)),
        "AVIF that lies": (post(lying_avif()), (422, 503)),
        "chunks of one byte": ([chunked.encode(), *[b"1\r\nx\r\n" * 10_000] * 200], (413, 503)),
        "WebP bomb": (post(claimed), (422, 503)),
        "48 million pixels": (post(large.getvalue()), (200, 422, 503)),  # 422 below --max-megapixels 48
        "cut-off image": (post(good.data[: len(good.data) // 2]), (422, 503)),
        "damaged image": (post(good.data[:200] + bytes(5000)), (422, 503)),
        "text": (post(b"no image at all"), (422, 503)),
        "wrong type": (post(b"{}", "application/json"), (415,)),
        "cut-off form": (post(form, "multipart/form-data; boundary=a"), (400, 503)),
        "damaged form": (post(good.data, "multipart/form-data; boundary=a"), (400, 503)),
        "100 MB": ([head, *[_CHUNK] * (HUGE // len(_CHUNK))], (413,)),
        "100 MB, no length": ([chunked.encode(), *chunks], (413, 503)),
        "no HTTP": ([b"\x16\x03\x01\x02\x00 hello \r\n\r\n"], (400,)),
        "foreign host": ([b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"], (421,)),
        "host's file": ([b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"], (404,)),
    }  # fmt: skip


async def leave_early(port: int, good: Good, number: int) -> None:
    """Send half a request and go."""
    _, writer = await connect(port, number)
    head, body = post(good.data)
    writer.write(head + body[: len(body) // 2])
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()


async def drip_headers(port: int, number: int) -> None:
    """Send a header byte by byte over ten connections until the server closes them."""
    opened = [await connect(port, number) for _ in range(10)]
    try:
        async with asyncio.timeout(15):
            for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000:
                if any(reader.at_eof() or writer.is_closing() for reader, writer in opened):
                    return
                for _, writer in opened:
                    writer.write(bytes([byte]))
                await asyncio.sleep(0.5)
    finally:
        for _, writer in opened:
            writer.close()


async def be_a_client(number: int, *, port: int, goods: list[Good], until: float, tally: Tally, hostile: Hostile) -> None:  # fmt: skip
    """Send requests until the time is up, and wait for the last one."""
    names = [*hostile, "left early", "slow headers"]
    turn = number
    while time.perf_counter() < until:
        turn += 1
        if not hostile or number % HOSTILE_CLIENTS:
            await ask_well(port, goods[turn % len(goods)], tally, number)
            continue
        name = names[(turn * 31 + number) % len(names)]
        try:
            if name == "left early":
                await leave_early(port, goods[0], number)
                tally.answers[name] += 1
                continue
            if name == "slow headers":
                await drip_headers(port, number)
                tally.answers[name] += 1
                continue
            parts, expected = hostile[name]
            status, _, _ = await ask(port, parts, number=number)
        except FAILURES as error:
            tally.answers[f"{name}: {type(error).__name__}"] += 1
            continue
        tally.answers[f"{name}: {status}"] += 1
        if status not in expected:
            tally.lost.append(f"{name} got status {status}")


@contextmanager
def watching_health(port: int, tally: Tally) -> Generator[None]:
    """Note how long the server takes to say that it is well; a process of its own asks, which the clients do not hold up."""
    with subprocess.Popen([sys.executable, "-c", _ASK_HEALTH, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        yield
        out, _ = process.communicate("")
    tally.health = [float(line) for line in out.split()]
    if process.returncode:
        tally.lost.append("the server did not say that it is well")


def processes_of(pid: int) -> list[int]:
    """Return a process and all that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in processes_of(int(child)))]


def memory_of(pid: int) -> int:
    """Return the memory of a process and all that it started; what they share counts once. 0 if the system does not tell."""
    total = 0
    for process in processes_of(pid):
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total


async def watch_memory(pid: int, tally: Tally) -> None:
    """Note the server's memory twice a second, Linux only."""
    started = time.perf_counter()
    while True:
        size = await asyncio.to_thread(memory_of, pid)
        tally.memory.append((time.perf_counter() - started, size))
        await asyncio.sleep(0.5)


def run_clients(
    server: tuple[int, int],
    *,
    goods: list[Good],
    clients: int,
    seconds: float,
    hostile: Hostile | None = None,
) -> Tally:
    """Run clients side by side against a server, its port and process, and return what they saw."""
    port, pid = server
    tally = Tally()
    asked = {"port": port, "goods": goods, "tally": tally, "hostile": hostile or {}}

    async def run() -> None:
        watching = asyncio.create_task(watch_memory(pid, tally))
        until = time.perf_counter() + seconds
        await asyncio.gather(*(be_a_client(each, until=until, **asked) for each in range(clients)))
        tally.took = time.perf_counter() - until + seconds
        await asyncio.sleep(1)
        watching.cancel()

    with watching_health(port, tally):
        asyncio.run(run())
    return tally


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a server, Linux only: other work on the machine hardly changes it."""
    ticks = 0
    for process in processes_of(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") or float("nan")


def timed(tally: Tally) -> dict[str, float]:
    """Return rate and times of the good answers."""

    def percentile(values: list[float], share: float) -> float:
        place = min(len(values) - 1, int(share * len(values)))
        return sorted(values)[place] if values else float("nan")

    return {
        "images_per_second": len(tally.seconds) / tally.took,
        **{f"p{int(100 * share)}_seconds": percentile(tally.seconds, share) for share in (0.5, 0.95, 0.99)},
        "p99_with_waits_seconds": percentile(tally.with_waits, 0.99),
    }  # fmt: skip


def flood(model: Path, goods: list[Good], *, clients: int, seconds: float, megapixels: float) -> dict[str, Any]:  # fmt: skip
    """First part: good and hostile requests mixed."""
    hostile = hostile_bodies(goods[0])
    with serving(model, "--formats", "tiff,avif", "--max-megapixels", f"{megapixels:g}") as server:
        warm = run_clients(server, goods=goods, clients=8, seconds=2)
        tally = run_clients(server, goods=goods, clients=clients, seconds=seconds, hostile=hostile)
    memory = [size for _, size in tally.memory] or [0]
    figures: dict[str, Any] = {
        **timed(tally),
        "good": tally.answers["good, right answer"],
        "told_to_come_again": tally.refused,
        "lost": len(tally.lost),
        "health_seconds": {"median": statistics.median(tally.health), "longest": max(tally.health)},
        "memory_mb": {
            "warm": (warm.memory[-1][1] if warm.memory else 0) / 1e6,
            "a quarter in": memory[len(memory) // 4] / 1e6,
            "half-way": memory[len(memory) // 2] / 1e6,
            "end": memory[-1] / 1e6,
            "peak": max(memory) / 1e6,
        },
        "answers": dict(sorted(tally.answers.items())),
        "losses": tally.lost[:10],
    }
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(
        f"\n{clients} clients, one in {HOSTILE_CLIENTS} hostile, {seconds:g} s, --max-megapixels {megapixels:g}, load {load}"
    )
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"  {name}")
            for key, one in value.items():
                print(
                    f"    {key:32} {one:,.3f}"
                    if name == "health_seconds"
                    else f"    {key:32} {one:,.0f}"
                )
        else:
            print(f"  {name:34} {value if isinstance(value, list) else format(value, ',.3f')}")
    return figures


def compare(model: Path, goods: list[Good], *, seconds: float) -> dict[str, Any]:
    """Second part: batches against one by one."""
    rows: dict[str, dict[str, float]] = {}
    for name, words, clients in (
        ("in batches, 64 clients", (), 64),
        ("one by one, 64 clients", ("--max-batch", "1"), 64),
        ("one client, one after another", ("--max-batch", "1"), 1),
    ):
        with serving(model, *words) as server:
            run_clients(server, goods=goods, clients=clients, seconds=2)
            cpu = cpu_seconds(server[1])
            tally = run_clients(server, goods=goods, clients=clients, seconds=seconds)
            cpu = cpu_seconds(server[1]) - cpu
        rows[name] = timed(tally)
        rows[name] |= {"cpu_ms": 1000 * cpu / max(1, len(tally.seconds)), "lost": len(tally.lost)}
    print(f"\ngood images only, {seconds:g} s each")
    first = next(iter(rows.values()))["images_per_second"]
    for name, row in rows.items():
        rate = row["images_per_second"]
        print(f"  {name:32} {rate:7.1f} images/s, {row['cpu_ms']:5.1f} ms of processor each   p50 {row['p50_seconds']:.3f} s   batches are {first / rate:.2f}x")  # fmt: skip
    return rows


def serve(options: argparse.Namespace) -> int:
    """Ask a running `vizsla serve` from many clients; show its answers, its speed, and its memory.

    First part: every third client only attacks: bombs, tiles and streams larger than their headers claim, chunks of one byte, slow
    headers, cut-off images and forms, wrong types, 100 MB with and without a stated length, half a request, no HTTP at all. A good request must get its right answer (the probabilities of
    Predictor.predict); a 503 or 429 with Retry-After counts as an answer if trying again helps. Anything else is lost, and the
    exit code is 1.

    Second part: good images only, in batches against one by one (--max-batch 1), from many clients and from a single one.
    """
    seconds = 10.0 if options.quick else options.seconds
    model = options.model or make_model(options.made_in)
    goods = make_images(model)
    figures: dict[str, Any] = {"lost": 0}
    if options.part != "speed":
        figures = flood(model, goods, clients=options.clients, seconds=seconds, megapixels=options.megapixels)  # fmt: skip
    if options.part != "flood":
        figures["throughput"] = compare(model, goods, seconds=seconds / 2)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(figures["lost"] > 0)


COMMANDS = {
    "serve": Command(
        asks="How much can the page take?",
        run=serve,
        packages=("vizsla", "torch", "starlette", "uvicorn", "pillow"),
        options={
            "part": one_of("all", "flood", "speed"),
            "seconds": 60.0,
            "clients": 200,
            "megapixels": 50.0,
            "model": {"type": Path},
            "json": {"type": Path},
        },
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
