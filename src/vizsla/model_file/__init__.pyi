"""What the other packages use of vizsla.model_file."""

from .bundle import Bundle as Bundle
from .bundle import check_is_safetensors as check_is_safetensors
from .bundle import check_sha256 as check_sha256
from .bundle import load_bundle as load_bundle
from .bundle import read_manifest as read_manifest
from .bundle import save_bundle as save_bundle
from .final_resize import FinalResize as FinalResize
from .final_resize import storable as storable
from .manifest import FORMAT_VERSION as FORMAT_VERSION
from .manifest import Manifest as Manifest
from .manifest import manifest_digest as manifest_digest
from .manifest import manifest_from_json as manifest_from_json
from .manifest import manifest_to_json as manifest_to_json
from .rebuild import expected_forms as expected_forms
from .rebuild import rebuild_classifier as rebuild_classifier
