"""What the other packages use of vizsla.data.storage."""

from .shards import Shard as Shard
from .shards import index_folder as index_folder
from .shards import open_shard as open_shard
from .storage import Facts as Facts
from .storage import absolute as absolute
from .storage import facts_of as facts_of
from .storage import is_there as is_there
from .storage import read_bytes as read_bytes
