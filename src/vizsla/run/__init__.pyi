"""What the other packages use of vizsla.run."""

from .folder import RunFolder as RunFolder
from .folder import config_text as config_text
from .folder import locate_data as locate_data
from .folder import make_run_folder as make_run_folder
from .folder import noted_on_stop as noted_on_stop
from .folder import place_to_write as place_to_write
from .report import rebuild_report as rebuild_report
from .train import FinishedRun as FinishedRun
from .train import RunPlan as RunPlan
from .train import read_all as read_all
from .train import run_training as run_training
from .train import write_run as write_run
