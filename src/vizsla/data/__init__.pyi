"""What the other packages use of vizsla.data."""

from .download import URLs as URLs
from .download import download_file as download_file
from .download import extract_archive as extract_archive
from .download import untar_data as untar_data
