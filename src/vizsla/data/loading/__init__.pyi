"""What the other packages use of vizsla.data.loading."""

from .dataloaders import BatchTransforms as BatchTransforms
from .dataloaders import DataLoader as DataLoader
from .dataloaders import DataLoaders as DataLoaders
from .dataloaders import LoaderOptions as LoaderOptions
from .dataloaders import check_loader_options as check_loader_options
from .dataloaders import default_device as default_device
from .loader import ImageLoader as ImageLoader
from .loader import Shipping as Shipping
from .loader import map_rows as map_rows
from .loader import read_ahead as read_ahead
from .loader import reading_meanwhile as reading_meanwhile
from .order import balancing_weights as balancing_weights
from .order import check_balance as check_balance
from .order import check_rows as check_rows
from .order import check_share as check_share
from .order import check_weights as check_weights
from .order import draw_rows as draw_rows
from .order import rows_of as rows_of
from .order import shuffle_rows as shuffle_rows
from .order import take_share as take_share
from .order import turns_of as turns_of
