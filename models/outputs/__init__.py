"""The output spaces, by the name that `outputs.name` has in a config."""

from collections.abc import Mapping

from data.labels import View
from models.networks.base import Network
from models.outputs.base import OutputSpace
from models.outputs.multihead import MultiHead, MultiHeadConfig

OutputsConfig = MultiHeadConfig


def build_outputs(config: OutputsConfig, views: Mapping[str, View], network: Network) -> OutputSpace:
    """The output space of a config with its decoders and classifiers, initialised from torch's global generator."""
    match config:
        case MultiHeadConfig():
            return MultiHead(views, network)
