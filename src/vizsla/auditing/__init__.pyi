"""What the other packages use of vizsla.auditing."""

from .audit import Audit as Audit
from .audit import Finding as Finding
from .audit import Item as Item
from .audit import MoreData as MoreData
from .audit import audit as audit
from .audit import shortcut_findings as shortcut_findings
from .labelling import ConflictError as ConflictError
from .labelling import Labelling as Labelling
from .labelling import instructive_order as instructive_order
from .labelling import open_labelling as open_labelling
from .quick import quick_audit as quick_audit
from .shortcuts import Cue as Cue
from .shortcuts import Grouping as Grouping
from .shortcuts import find_grouping as find_grouping
from .shortcuts import probe as probe
from .shortcuts import probe_cues as probe_cues
from .traits import Traits as Traits
from .traits import read_traits as read_traits
