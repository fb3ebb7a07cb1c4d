"""What the other packages use of vizsla.data.cache."""

from .cache import CacheMode as CacheMode
from .cache import ImageCache as ImageCache
from .cache import ImageKey as ImageKey
from .cache import expected_bytes as expected_bytes
from .device import DeviceDecoder as DeviceDecoder
from .device import DeviceStore as DeviceStore
from .device import Place as Place
from .device import load_decoder as load_decoder
from .device import upright as upright
from .device import write_presized as write_presized
from .disk import DiskStore as DiskStore
from .disk import cache_folder as cache_folder
from .disk import clear_disk_cache as clear_disk_cache
from .disk import disk_use as disk_use
