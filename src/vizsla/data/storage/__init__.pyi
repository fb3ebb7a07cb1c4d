"""What the other packages use of vizsla.data.storage."""

from .addresses import BLOCK_BYTES as BLOCK_BYTES
from .addresses import block_folder as block_folder
from .addresses import list_files as list_files
from .patterns import expand_pattern as expand_pattern
from .patterns import names_shards as names_shards
from .rows import Rows as Rows
from .rows import is_on_hub as is_on_hub
from .rows import names_rows as names_rows
from .rows import open_rows as open_rows
from .rows import open_splits as open_splits
from .shards import Shard as Shard
from .shards import index_folder as index_folder
from .shards import open_shard as open_shard
from .storage import Facts as Facts
from .storage import absolute as absolute
from .storage import facts_of as facts_of
from .storage import is_there as is_there
from .storage import read_bytes as read_bytes
