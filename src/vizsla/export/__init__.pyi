"""What the other packages use of vizsla.export."""

from .graph import Presize as Presize
from .graph import inference_graph as inference_graph
from .graph import separable_resize as separable_resize
from .hub import from_hub as from_hub
from .hub import model_card as model_card
from .hub import push_to_hub as push_to_hub
from .measure import CheckImages as CheckImages
from .measure import Measured as Measured
from .measure import measured_lines as measured_lines
from .runtime import OnnxPredictor as OnnxPredictor
from .runtime import prepared as prepared
from .verify import LARGEST_DIFFERENCE as LARGEST_DIFFERENCE
from .verify import TOLERANCES as TOLERANCES
from .verify import Golden as Golden
from .verify import OnnxAnswers as OnnxAnswers
from .verify import Parity as Parity
from .verify import Reference as Reference
from .verify import Tolerance as Tolerance
from .verify import compare as compare
from .verify import golden_path as golden_path
from .verify import read_golden as read_golden
from .verify import verify_onnx as verify_onnx
from .verify import write_golden as write_golden
from .write import ExportedModel as ExportedModel
from .write import export_model as export_model
