"""What the other packages use of vizsla.bench."""

from .elsewhere import MEASURED as MEASURED
from .elsewhere import Elsewhere as Elsewhere
from .elsewhere import Extrapolation as Extrapolation
from .made_up import HEIGHT as HEIGHT
from .made_up import WIDTH as WIDTH
from .made_up import made_up_photograph as made_up_photograph
from .made_up import make_photographs as make_photographs
from .results import Estimate as Estimate
from .results import Measured as Measured
from .results import PartTime as PartTime
from .results import advice_of as advice_of
from .results import estimates_of as estimates_of
from .results import lines_of as lines_of
from .results import shown_seconds as shown_seconds
from .run import run_bench as run_bench
from .timing import Budget as Budget
from .timing import seconds_of as seconds_of
