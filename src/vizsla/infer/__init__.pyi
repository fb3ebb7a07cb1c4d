"""What the other packages use of vizsla.infer."""

from .grad_cam import overlay as overlay
from .mistakes import MOST_TRAINING as MOST_TRAINING
from .mistakes import Evidence as Evidence
from .mistakes import KnownImages as KnownImages
from .mistakes import Neighbour as Neighbour
from .mistakes import collect_evidence as collect_evidence
from .mistakes import explained_positions as explained_positions
from .neighbours import evenly_spread as evenly_spread
from .neighbours import nearest as nearest
from .neighbours import pooled_features as pooled_features
from .neighbours import standardised as standardised
from .run import Features as Features
from .run import NumberFormat as NumberFormat
from .run import Outputs as Outputs
from .run import augmented_probabilities as augmented_probabilities
from .run import autocast as autocast
from .run import compute_logits as compute_logits
from .run import compute_outputs as compute_outputs
from .run import evaluation_mode as evaluation_mode
from .run import extract_features as extract_features
from .run import mix_with_plain as mix_with_plain
from .run import predict_batches as predict_batches
from .run import table_predictions as table_predictions
from .run import usable_device as usable_device
from .streamline import PointwiseConvolution as PointwiseConvolution
from .streamline import streamlined as streamlined
