"""The output spaces, by the name that `outputs.name` has in a config."""

from collections.abc import Mapping

from data.labels import View
from models.networks.base import Network
from models.outputs.base import OutputSpace
from models.outputs.concat import Concat, ConcatConfig
from models.outputs.hierarchy import HierarchyConfig, HierarchySpace
from models.outputs.learned import Learned, LearnedConfig
from models.outputs.multihead import MultiHead, MultiHeadConfig
from models.outputs.universal import Universal, UniversalConfig

OutputsConfig = MultiHeadConfig | ConcatConfig | UniversalConfig | HierarchyConfig | LearnedConfig


def build_outputs(config: OutputsConfig, views: Mapping[str, View], network: Network) -> OutputSpace:
    """The output space of a config with its decoders and classifiers, initialised from torch's global generator.

    Raises InputError where its file does not know the classes of a view.
    """
    match config:
        case MultiHeadConfig():
            return MultiHead(config, views, network)
        case ConcatConfig():
            return Concat(config, views, network)
        case UniversalConfig():
            return Universal(config, views, network)
        case HierarchyConfig():
            return HierarchySpace(config, views, network)
        case LearnedConfig():
            return Learned(config, views, network)
