"""Decode the images of strangers in processes of their own (Linux), each bounded in memory and processor time.

What a file says of its size is checked before, but decoders are large C libraries, and some file will make one of them take more
than was counted. Such a process is ended by the system, its image is refused, and another takes its place.

One process, the nursery, imports what decoding needs; it has one thread and no locks, and each worker is a fork of it. So a new
worker is there in milliseconds, and all share the memory of the imports. A worker gets the bytes of a file over a socket and gives
back pixels at the size that the network sees, 0.3 MB for 292 pixels.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vizsla.errors import ConfigError, PictureError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vizsla.data.images.reader import ImageReader
    from vizsla.data.images.sizing import Resize

IS_AVAILABLE = sys.platform == "linux"

MOST_SECONDS = 10.0
"""Processor time for one image; 50 million pixels take 2 as PNG and 4 as lossless WebP."""

_BYTES_PER_PIXEL = 24
"""Most that decoding was seen to take: WebP 16, JPEG 2000 20; with room for the bytes of the file."""

_BYTES_BESIDES = 128_000_000
_KEPT_BYTES = 64_000_000  # Giving back what each image took costs half a millisecond in new pages.
_START_SECONDS = 300.0
_READY = b"r"
_HEAD = struct.Struct(">QQ")
_TOO_COSTLY = "decoding it takes more memory or time than is allowed here"


class DecodingProcesses:
    """Processes that decode; a context manager, whose end is theirs. Safe in any number of threads.

    Args:
        resize: What brings images to size; None leaves them at their own.
        bit_depth: That of 16-bit images, as the model file says.
        seconds: Processor time for one image.
    """

    def __init__(
        self, resize: Resize | None, *, bit_depth: int | None = None, seconds: float
    ) -> None:
        self._seconds = seconds
        self._is_ready = False
        self._idle: dict[int, LifoQueue[socket.socket]] = {}
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno())]
            paths = os.pathsep.join(path for path in sys.path if path)
            self._nursery = subprocess.Popen(
                [*command, str(seconds), msgspec.json.encode((resize, bit_depth)).decode()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the server.
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip

    def __enter__(self) -> DecodingProcesses:
        return self

    def wait_until_ready(self) -> None:
        """Wait for the nursery, which takes as long as importing torch; raise a ConfigError if it ended instead."""
        if self._is_ready:
            return
        self._control.settimeout(_START_SECONDS)
        try:
            self._is_ready = self._control.recv(1) == _READY
        except OSError:
            self._is_ready = False
        if not self._is_ready:
            raise _ended()

    def __exit__(self, *_error: object) -> None:
        """End all processes; each ends when its socket is closed."""
        for idle in self._idle.values():
            with suppress(Empty):
                while True:
                    idle.get_nowait().close()
        self._control.close()
        self._nursery.kill()  # It may still be importing.
        self._nursery.wait()

    def decode(self, data: bytes, *, most_pixels: int) -> NDArray[np.uint8] | str:
        """Return the pixels of an image file, uint8 ``(H, W, 3)``, or why there are none.

        ``most_pixels`` bounds the memory of the worker; there are as many workers for each bound as threads call at once.

        Raises:
            ConfigError: The nursery has ended.
        """
        idle = self._idle.setdefault(most_pixels, LifoQueue())
        try:
            worker = idle.get_nowait()
        except Empty:
            worker = self._new_worker(most_pixels)
        try:
            worker.sendall(_HEAD.pack(len(data), 0))
            worker.sendall(data)
            height, width = _HEAD.unpack(_received(worker, _HEAD.size))
            content = _received(worker, width if height == 0 else 3 * height * width)
        except OSError:
            worker.close()
            return _TOO_COSTLY
        idle.put(worker)
        if height == 0:
            return content.decode()
        return np.frombuffer(content, np.uint8).reshape(height, width, 3)

    def _new_worker(self, most_pixels: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [_HEAD.pack(most_pixels, 0)], [theirs.fileno()])
            except OSError as error:
                raise _ended() from error
        # The system counts processor time; a worker that waits for a busy machine is not ended.
        ours.settimeout(max(60.0, 20 * self._seconds))
        return ours


def _ended() -> ConfigError:
    return ConfigError(
        "The process that decodes images has ended, maybe for want of memory. Start the server again."
    )


def _received(connection: socket.socket, count: int) -> bytearray:
    """Return that many bytes; an OSError if the other end is closed before."""
    content = bytearray(count)
    view, at = memoryview(content), 0
    while at < count:
        got = connection.recv_into(view[at:])
        if not got:
            raise ConnectionError
        at += got
    return content


# Tests of this part run it in processes of its own, where coverage is not measured.
# ── the nursery and its workers ───────────────────────────────────────────────────────────────────────────────────────


def _be_nursery(
    control: socket.socket, *, seconds: float, resize: Resize | None, bit_depth: int | None
) -> None:  # pragma: no cover
    """Fork a worker for each socket that comes, until the server ends."""
    from vizsla.data.cache.cache import ImageCache
    from vizsla.data.images.reader import ImageReader
    from vizsla.machine import share_heaps, use_threads

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # The server says when to end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Ended workers leave nothing behind.
    share_heaps(1)
    use_threads(1)
    with suppress(ImportError):  # Before Pillow 11.3 there is none.
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    reader = ImageReader(resize=resize, cache=ImageCache(mode="off"), bit_depth=bit_depth)
    _warm_up(reader)
    gc.collect()
    gc.freeze()
    control.sendall(_READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _HEAD.size, 1)
        if not message:
            return
        try:
            process = os.fork()
        except OSError:  # No memory, or too many processes: the image is refused.
            process = -1
        if process == 0:
            control.close()
            most_pixels, _ = _HEAD.unpack(message)
            _limit_memory(_BYTES_PER_PIXEL * most_pixels + _BYTES_BESIDES)
            with suppress(OSError):
                _be_worker(reader, socket.socket(fileno=descriptors[0]), seconds=seconds)
            os._exit(0)
        os.close(descriptors[0])


def _be_worker(
    reader: ImageReader, connection: socket.socket, *, seconds: float
) -> None:  # pragma: no cover
    """Decode what comes until the server closes the connection; SIGPROF ends the process when an image takes too long."""
    from vizsla.data.images.decode import cause_of
    from vizsla.machine import give_back_freed_memory

    usual = _memory_bytes(resident=True)
    while True:
        length, _ = _HEAD.unpack(_received(connection, _HEAD.size))
        data = bytes(_received(connection, length))
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            pixels = np.ascontiguousarray(reader.read(data))
        except PictureError as error:
            cause = cause_of(error).encode(errors="replace")
            answer = _HEAD.pack(0, len(cause)) + cause
        else:
            answer = _HEAD.pack(*pixels.shape[:2]) + pixels.tobytes()
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.sendall(answer)
        del data, answer
        if _memory_bytes(resident=True) > usual + _KEPT_BYTES:
            give_back_freed_memory()


def _warm_up(reader: ImageReader) -> None:  # pragma: no cover
    """Decode one image of each kind, so that workers share what that imports."""
    from io import BytesIO

    from PIL import Image

    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        buffer = BytesIO()
        Image.new("RGB", (640, 480)).save(buffer, kind)
        reader.read(buffer.getvalue())


def _limit_memory(num_bytes: int) -> None:  # pragma: no cover
    """Let this process take so much more memory, and write no file."""
    import resource

    limit = _memory_bytes(resident=False) + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _memory_bytes(*, resident: bool) -> int:  # pragma: no cover
    pages = Path("/proc/self/statm").read_text().split()[resident]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    from vizsla.data.images.sizing import Resize as _Resize

    _resize, _depth = msgspec.json.decode(sys.argv[3], type=tuple[_Resize | None, int | None])
    _nursery_end = socket.socket(fileno=int(sys.argv[1]))
    _be_nursery(_nursery_end, seconds=float(sys.argv[2]), resize=_resize, bit_depth=_depth)
