"""What the other packages use of vizsla.data."""

from .demo_data import SOLAR_CELLS as SOLAR_CELLS
from .demo_data import solar_cells as solar_cells
from .download import Patience as Patience
from .download import URLs as URLs
from .download import download_file as download_file
from .download import extract_archive as extract_archive
from .download import fetch as fetch
from .download import untar_data as untar_data
from .pack import Packed as Packed
from .pack import PackedFormat as PackedFormat
from .pack import pack as pack
