"""vicc learns to understand video without labels: an RGB and an optical-flow encoder that teach each other.

The names below are the public interface; they are imported on first use, so that `import vicc`
costs nothing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vicc.main_guard import imports_main, refuse_without_guard
from vicc.public_names import lazy_names
from vicc.version import __version__

if TYPE_CHECKING:
    from vicc.backbones import create_backbone, list_backbones, register_backbone
    from vicc.data.store import Store
    from vicc.errors import ViccError
    from vicc.evaluation.classify_features import knn, probe
    from vicc.evaluation.configs import KnnConfig, ProbeConfig, RetrieveConfig
    from vicc.evaluation.result import read_result
    from vicc.evaluation.retrieve import retrieve
    from vicc.methods.encoder import Encoder
    from vicc.methods.features import extract_features
    from vicc.prepare.build import prepare_videos
    from vicc.prepare.check import check_videos
    from vicc.prepare.configs import CheckConfig, PrepareConfig
    from vicc.published.exporting import export_published
    from vicc.published.importing import import_published
    from vicc.recipes import create_recipe
    from vicc.results.configs import ReportConfig
    from vicc.results.page import write_report
    from vicc.training.beside_encoder import load_feature_mean, load_prototypes
    from vicc.training.checkpoint import load_encoder
    from vicc.training.configs import PretrainConfig
    from vicc.training.pretrain import pretrain
    from vicc.training.run import Run
    from vicc.training.stage import Recipe, Stage

_PLACES = {
    "CheckConfig": "vicc.prepare.configs",
    "Encoder": "vicc.methods.encoder",
    "KnnConfig": "vicc.evaluation.configs",
    "PrepareConfig": "vicc.prepare.configs",
    "PretrainConfig": "vicc.training.configs",
    "ProbeConfig": "vicc.evaluation.configs",
    "Recipe": "vicc.training.stage",
    "ReportConfig": "vicc.results.configs",
    "RetrieveConfig": "vicc.evaluation.configs",
    "Run": "vicc.training.run",
    "Stage": "vicc.training.stage",
    "Store": "vicc.data.store",
    "ViccError": "vicc.errors",
    "check_videos": "vicc.prepare.check",
    "create_backbone": "vicc.backbones",
    "create_recipe": "vicc.recipes",
    "export_published": "vicc.published.exporting",
    "extract_features": "vicc.methods.features",
    "import_published": "vicc.published.importing",
    "knn": "vicc.evaluation.classify_features",
    "list_backbones": "vicc.backbones",
    "load_encoder": "vicc.training.checkpoint",
    "load_feature_mean": "vicc.training.beside_encoder",
    "load_prototypes": "vicc.training.beside_encoder",
    "prepare_videos": "vicc.prepare.build",
    "pretrain": "vicc.training.pretrain",
    "probe": "vicc.evaluation.classify_features",
    "read_result": "vicc.evaluation.result",
    "register_backbone": "vicc.backbones",
    "retrieve": "vicc.evaluation.retrieve",
    "write_report": "vicc.results.page",
}

__all__ = [
    "CheckConfig",
    "Encoder",
    "KnnConfig",
    "PrepareConfig",
    "PretrainConfig",
    "ProbeConfig",
    "Recipe",
    "ReportConfig",
    "RetrieveConfig",
    "Run",
    "Stage",
    "Store",
    "ViccError",
    "__version__",
    "check_videos",
    "create_backbone",
    "create_recipe",
    "export_published",
    "extract_features",
    "import_published",
    "knn",
    "list_backbones",
    "load_encoder",
    "load_feature_mean",
    "load_prototypes",
    "prepare_videos",
    "pretrain",
    "probe",
    "read_result",
    "register_backbone",
    "retrieve",
    "write_report",
]


_WITH_WORKERS = frozenset(
    ("check_videos", "extract_features", "knn", "prepare_videos", "pretrain", "probe", "retrieve")
)


_public_name, __dir__ = lazy_names(__name__, _PLACES)


def __getattr__(name: str) -> Any:
    if name in _WITH_WORKERS and imports_main():
        return _not_yet(name)
    return _public_name(name)


def _not_yet(name: str) -> Callable[..., Any]:
    """A function for a worker that is still importing the script that started it: called by then,
    the script has no main guard and would run itself again. Refused here, before the import of
    torch takes its seconds.
    """

    def call(*arguments: Any, **options: Any) -> Any:
        refuse_without_guard()
        return _public_name(name)(*arguments, **options)

    return call
