"""A sound model file and a range of numbers in, damaged copies opened one by one, what came of each on standard output.

Run as a program by ``test_bundle.py``, so that memory, time and what the process does can be held to limits:
``python model_file_fuzzer.py MODEL SEED FIRST LAST``. Damage number N is the same on every machine.
"""

from __future__ import annotations

import copy
import faulthandler
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vizsla import Predictor, VizslaError
from vizsla.model_file import load_bundle
from vizsla.text import printable

LENGTH = 8
# Of addresses, beyond what the process has; most of that is the libraries' own reserve.
MEMORY = 1 << 30
SECONDS_FOR_ONE = 60
FORBIDDEN = {
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "os.remove", "os.rename"),
    *("pickle.find_class", "socket.connect", "ctypes.dlopen"),
}  # fmt: skip
DEEP = "\0deep"
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egpj.exe\r\u2028\ud800"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -1e300, 1e999, float("nan"), "", "x", "\ud800", "\0",
    "../../etc/passwd", "x" * 20_000, "1" * 5_000, [], [[]], [1], [1, 2], ["a"], [None], list(range(3_000)), {}, {"a": 1},
    [1e999, 1], [-5, 3], [16384, 16384], [0, 0], ["224", "224"], DEEP, "timm", "torchvision", "bicubic", "pad", "regression",
    "multi_category", "x" * 1_000_000, HOSTILE, [HOSTILE, "b", "c"], [4096, 4096], [1, 100_000],
)  # fmt: skip
NAMES = (
    "resnet18", "test_vit", "test_resnet", "vgg11", "mobilenet_v2", "hf-hub:timm/resnet18", "hf_hub:timm/resnet18",
    "local-dir:/tmp", "torchvision:resnet18", "torchvision:resnet18[:3]", "resnet18[:4]", "os.system", "__class__", "nope",
    "test_efficientnet.r160_in1k", "squeezenet1_0", "vit_b_16", "eval(1)", "regnet_y_128gf", "mvitv2_huge_cls", "nfnet_f7",
    "sequencer2d_l", HOSTILE, "x" * 1_000_000,
)  # fmt: skip

Header = dict[str, Any]


def split(content: bytes) -> tuple[Header, bytes]:
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    return json.loads(content[LENGTH:end]), content[end:]


def joined(header: Header | str, body: bytes) -> bytes:
    text = (header if isinstance(header, str) else dumps(header)).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH, "little") + text + body


def dumps(value: Any) -> str:
    """JSON, also of what JSON cannot say: the deep value becomes brackets in brackets."""
    return json.dumps(value).replace(json.dumps(DEEP), "[" * 3_000 + "]" * 3_000)


def with_manifest(header: Header, manifest: dict[str, Any] | str, body: bytes) -> bytes:
    """Return a file whose digests fit, as somebody would make it on purpose."""
    text = manifest if isinstance(manifest, str) else dumps(manifest)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    metadata = {"vizsla.manifest": text, "vizsla.sha256": digest}
    return joined({**header, "__metadata__": metadata}, body)


def tensors_digest(header: Header, body: bytes) -> str:
    digest = hashlib.sha256()
    for name in sorted(set(header) - {"__metadata__"}):
        entry = header[name]
        start, end = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        digest.update(body[start:end])
    return digest.hexdigest()


class Damage:
    """Makes one damaged file of a sound one."""

    def __init__(self, content: bytes, *, seed: int, number: int) -> None:
        self.content = content
        self.draw = np.random.default_rng([seed, number])
        self.header, self.body = split(content)
        self.manifest: dict[str, Any] = json.loads(self.header["__metadata__"]["vizsla.manifest"])
        kinds = (
            *(self.bytes, self.length, self.size, self.tensors, self.text),
            *(self.fields, self.fields, self.leaf, self.names, self.weights),
        )
        self.kind = kinds[number % len(kinds)]

    def choose(self, things: Any) -> Any:
        return copy.deepcopy(things[int(self.draw.integers(len(things)))])

    def bytes(self) -> bytes:
        damaged = np.frombuffer(self.content, dtype=np.uint8).copy()
        header_end = len(self.content) - len(self.body)
        end = self.choose((24, 400, header_end, header_end, len(self.content)))
        for position in self.draw.integers(0, end, size=int(self.draw.integers(1, 9))):
            damaged[position] = self.draw.integers(0, 256)
        return damaged.tobytes()

    def length(self) -> bytes:
        right = int.from_bytes(self.content[:LENGTH], "little")
        wrong = (
            *(0, 1, 2, right - 1, right + 1, right - 8, right + 8, len(self.content)),
            *(10**8, 10**8 + 1, 2**31, 2**63, 2**64 - 1),
        )
        chosen = self.choose((*wrong, int(self.draw.integers(0, 2 * right))))
        return chosen.to_bytes(LENGTH, "little") + self.content[LENGTH:]

    def size(self) -> bytes:
        place = int(self.draw.integers(0, len(self.content)))
        return self.choose(
            (
                self.content[:place],
                self.content[: int(self.draw.integers(0, 64))],
                self.content + bytes(int(self.draw.integers(1, 5_000))),
                self.content[:place] + bytes(16) + self.content[place:],
                self.content[: place // 2] + self.content[place // 2 + 8 :],
            )
        )

    def tensors(self) -> bytes:
        header = dict(self.header)
        name = self.choose([name for name in header if name != "__metadata__"])
        entry = dict(header[name])
        field = self.choose(("dtype", "shape", "data_offsets", "name", "gone", "twice", "all"))
        wrong = {
            "dtype": ("F64", "F16", "BF16", "I8", "U64", "BOOL", "F8_E4M3", "C64", "X", "", 3, None),
            "shape": ([], [0], [1], [2**40, 2**40], [-1], [1.5], ["1"], None, {}, [2**64], [1] * 5_000),
            "data_offsets": ([0, 0], [0, 2**63], [2**64, 1], [-8, 8], [8, 0], [0], "ab", None, [0, len(self.body)]),
        }  # fmt: skip
        if field in wrong:
            entry[field] = self.choose(wrong[field])
        elif field == "all":
            entry = self.choose(VALUES)
        header[name] = entry
        if field == "gone":
            del header[name]
        elif field == "name":
            other = self.choose(("", "x" * 5_000, "\ud800", "__metadata__", "head", "../a"))
            header[other] = header.pop(name)
        elif field == "twice":
            return joined("{" + dumps({name: entry})[1:-1] + "," + dumps(header)[1:], self.body)
        return joined(header, self.body)

    def text(self) -> bytes:
        text = json.dumps(self.manifest)
        place = int(self.draw.integers(0, len(text)))
        wrong = (
            "", "null", "[]", "3", "{}", "{", '"text"', "[" * 100_000, '{"a":' * 50_000, "9" * 10_000, text[:place], text + "x",
            text[:place] + self.choose('{}[]",:0-e\\') + text[place + 1 :], "{" + text[1:-1] + "," + text[1:],
            text.replace('"vocab"', '"vocab": ["a"], "vocab"'), text.replace(":", ": NaN,", 1), " " * 1_000_000 + text,
            text.replace("0.5", "0." + "5" * 100_000), text.replace("\"vizsla-model\"", DEEP),
        )  # fmt: skip
        if self.draw.random() < 0.1:
            return joined({**self.header, "__metadata__": self.choose((None, {}, {"vizsla.manifest": 3}, [], {"a": {"b": "c"}}, "x"))}, self.body)  # fmt: skip
        return with_manifest(self.header, self.choose(wrong), self.body)

    def fields(self) -> bytes:
        for _ in range(int(self.draw.integers(1, 4))):
            self.edit_one()
        return with_manifest(self.header, self.manifest, self.body)

    def edit_one(self) -> None:
        place: Any = self.manifest
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                return
            key = self.choose(keys)
            if isinstance(place[key], dict | list) and place[key] and self.draw.random() < 0.8:
                place = place[key]
                continue
            what = self.draw.random()
            if what < 0.1:
                del place[key]
            elif what < 0.2 and isinstance(place, dict):
                place["more"] = self.choose(VALUES)
            else:
                place[key] = self.choose(VALUES)
            return

    def leaf(self) -> bytes:
        """Change one number or text of the manifest, each in its turn, to one that is of the right type and hostile."""
        leaves = list(leaves_of(self.manifest))
        place, key = self.choose_place(leaves)
        if isinstance(place[key], str):
            place[key] = self.choose((HOSTILE, place[key] + HOSTILE, "x" * 1_000_000, ""))
        elif not isinstance(place[key], bool):
            place[key] = self.choose(
                (0, -1, 2**31, 2**62, 2**63, 10**400, 1e29, -1e29, 1e-300, float("nan"), 1e999)
            )
        return with_manifest(self.header, self.manifest, self.body)

    def choose_place(self, leaves: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        return leaves[int(self.draw.integers(len(leaves)))]  # Not a copy: it is changed.

    def names(self) -> bytes:
        self.manifest["backbone"]["name"] = self.choose(NAMES)
        if self.draw.random() < 0.5:
            self.manifest["backbone"]["source"] = self.choose(("timm", "torchvision"))
        if self.draw.random() < 0.5:
            setting = self.choose(("lin_ftrs", "ps", "kind", "num_landmarks", "stages", "y_range"))
            self.manifest["head"][setting] = self.choose(
                ([10**9], [10**9] * 50, [10**12], [1] * 2_000, "features", 10**12, [0, 1], [-1], [99], 1e308, [1e308], [[1]], "12")
            )  # fmt: skip
        if self.draw.random() < 0.2:
            self.manifest["head"] = {"kind": "features", "stages": [self.choose((0, 1, 2, 9, 10**30))], "statistics": self.choose((["mean"], ["mean"] * 1_000, [], ["eval"])), "num_landmarks": self.choose((0, 5, 10**9, 10**18)), "bandwidth": self.choose((1, 0, "nan", 1e308))}  # fmt: skip
        return with_manifest(self.header, self.manifest, self.body)

    def weights(self) -> bytes:
        body = np.frombuffer(self.body, dtype=np.uint8).copy()
        numbers = body[: len(body) // 4 * 4].view(np.float32)
        fraction = self.choose((1, 0.5, 0.001))
        where = self.draw.random(len(numbers)) < fraction
        numbers[where] = self.choose((np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0))
        content = body.tobytes()
        if self.draw.random() < 0.9:
            self.manifest["tensors_sha256"] = tensors_digest(self.header, content)
        return with_manifest(self.header, self.manifest, content)


def leaves_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield where each number and text of a manifest is: what holds it, and its key there."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        if isinstance(value[key], dict | list):
            yield from leaves_of(value[key])
        elif value[key] is not None:
            yield value, key


def opened(path: Path) -> str:
    """Open a file and use it; return "refused" or "loaded", or raise what is neither."""
    try:
        bundle = load_bundle(path)
        predictor = Predictor.of_bundle(bundle)
    except VizslaError as error:
        message = str(error)
        if str(path) not in message or len(message) > 5_000 or printable(message) != message:
            raise RuntimeError(f"an unclear message: {message[:300]}") from error
        return "refused"
    sizes = (bundle.manifest.size, bundle.manifest.resize and bundle.manifest.resize.size)
    if all(size is None or max(size) <= 256 for size in sizes):
        try:
            found = predictor.predict(np.zeros((20, 30, 3), dtype=np.uint8))
        except VizslaError:
            return "loaded, and refused to predict"
        if not torch.isfinite(found.probabilities).all():
            raise RuntimeError("a probability that is not finite")
    return "loaded"


def main() -> None:
    model, seed, first, last = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    torch.set_num_threads(1)
    content = model.read_bytes()
    opened(model)  # What is imported late is here now.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done: list[str] = []
    sys.addaudithook(lambda event, _: done.append(event) if event in FORBIDDEN else None)
    path = model.with_name("damaged.safetensors")
    outcomes: dict[str, dict[str, int]] = {}
    problems: list[str] = []
    slowest = (0.0, -1)
    for number in range(first, last):
        faulthandler.dump_traceback_later(SECONDS_FOR_ONE, exit=True)
        damage = Damage(content, seed=seed, number=number)
        path.write_bytes(damage.kind())
        start = time.process_time()
        try:
            outcome = opened(path)
        except Exception as error:  # noqa: BLE001 (anything else that comes out is what is looked for)
            outcome = "failed"
            problems.append(
                f"{number} {damage.kind.__name__}: {type(error).__name__}: {str(error)[:300]}"
            )
        slowest = max(slowest, (time.process_time() - start, number))
        kind = outcomes.setdefault(damage.kind.__name__, {})
        kind[outcome] = kind.get(outcome, 0) + 1
    faulthandler.cancel_dump_traceback_later()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.stdout.write(json.dumps({
        "outcomes": outcomes, "problems": problems, "forbidden": done, "slowest": slowest, "grown_kilobytes": grown,
    }) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
