"""What the other packages use of vizsla.report."""

from .build import ReportContent as ReportContent
from .build import render_report as render_report
from .build import write_report as write_report
from .cards import NO_ROOM as NO_ROOM
from .cards import Album as Album
from .cards import Thumbnail as Thumbnail
from .charts import PANEL_HEIGHT as PANEL_HEIGHT
from .charts import PANEL_WIDTH as PANEL_WIDTH
from .charts import accuracy_scale as accuracy_scale
from .charts import calibration_of as calibration_of
from .charts import learning_curves as learning_curves
from .charts import nice_values as nice_values
from .slices import Slice as Slice
from .slices import hypergeometric_tail as hypergeometric_tail
from .slices import slice_findings as slice_findings
from .slices import with_p_values as with_p_values
from .tables import interval_methods as interval_methods
from .tables import metric_row as metric_row
