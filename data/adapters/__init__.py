"""Adapters: from a dataset as it is downloaded to the samples of its shards, one module each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.adapters.cityscapes import CityscapesConfig, CityscapesSource
from data.adapters.folder import FolderConfig, FolderSource
from data.adapters.gta5 import Gta5Config, Gta5Source
from data.adapters.gtsdb import GtsdbConfig, GtsdbSource
from data.adapters.synthia import SynthiaConfig, SynthiaSource
from data.adapters.vistas import VistasConfig, VistasSource
from data.adapters.voc import VocConfig, VocSource
from data.errors import InputError
from data.sources import Source
from data.streets.source import StreetsConfig, StreetsSource

DatasetConfig = CityscapesConfig | FolderConfig | Gta5Config | GtsdbConfig | StreetsConfig | SynthiaConfig | VistasConfig | VocConfig
"""What `dataset=` chooses, by its `name`."""

ADAPTERS: dict[str, Callable[[Path, Any], Source]] = {
    "cityscapes": CityscapesSource,
    "folder": FolderSource,
    "gta5": Gta5Source,
    "gtsdb": GtsdbSource,
    "synthia": SynthiaSource,
    "vistas": VistasSource,
    "voc": VocSource,
}
"""Adapters of datasets that are one folder, given it and their config."""


def open_sources(dataset: DatasetConfig, source: Path | None) -> dict[str, Source]:
    """Dataset name -> its adapter; `source` is the folder of the download. The drawn streets are several datasets and need none."""
    if isinstance(dataset, StreetsConfig):
        return {name: StreetsSource(name, dataset) for name in dataset.names}
    if source is None:
        raise InputError("source: missing, expected the folder of the dataset; give source=DIR")
    opened = ADAPTERS[dataset.name](source.absolute(), dataset)
    return {opened.label_space.name: opened}
