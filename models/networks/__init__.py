"""The networks, by the name that `model.name` has in a config."""

from models.networks.base import Network
from models.networks.deeplab import DeepLabV2, DeepLabV2Config
from models.networks.dilated_resnet import DilatedResNet50, DilatedResNet50Config
from models.networks.edanet import EDANet, EDANetConfig
from models.networks.enet import ENet, ENetConfig
from models.networks.erfnet import ERFNet, ERFNetConfig
from models.networks.espnet import ESPNet, ESPNetConfig
from models.networks.gunet import GUNet, GUNetConfig
from models.networks.igumnet import IGUMNet, IGUMNetConfig
from models.networks.swiftnet import SwiftNet, SwiftNetConfig

NetworkConfig = (
    SwiftNetConfig
    | DeepLabV2Config
    | DilatedResNet50Config
    | ENetConfig
    | ERFNetConfig
    | ESPNetConfig
    | EDANetConfig
    | GUNetConfig
    | IGUMNetConfig
)


def build_network(config: NetworkConfig) -> Network:
    """The network of a config, initialised from torch's global generator."""
    match config:
        case SwiftNetConfig():
            return SwiftNet(config)
        case DeepLabV2Config():
            return DeepLabV2(config)
        case DilatedResNet50Config():
            return DilatedResNet50(config)
        case ENetConfig():
            return ENet(config)
        case ERFNetConfig():
            return ERFNet(config)
        case ESPNetConfig():
            return ESPNet(config)
        case EDANetConfig():
            return EDANet(config)
        case GUNetConfig():
            return GUNet(config)
        case IGUMNetConfig():
            return IGUMNet(config)
