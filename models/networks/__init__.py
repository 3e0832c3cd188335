"""The networks, by the name that `model.name` has in a config."""

from models.networks.base import Network
from models.networks.swiftnet import SwiftNet, SwiftNetConfig

NetworkConfig = SwiftNetConfig


def build_network(config: NetworkConfig) -> Network:
    """The network of a config, initialised from torch's global generator."""
    match config:
        case SwiftNetConfig():
            return SwiftNet(config)
