"""Where a backbone's pretrained weights come from: a file, or a name that is downloaded on request.

Nothing is fetched unless a name is given.
"""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

from hardmine.errors import ConfigError, DataError
from hardmine.model.backbone import BackboneConfig, TapsConfig
from hardmine.model.torchvision_network import TorchvisionConfig

DEFAULT_NAME = "imagenet"
"""The name that stands for torchvision's best ImageNet weights of the backbone."""


def find_weights(
    weights: Path | str | None, backbone: BackboneConfig | TorchvisionConfig
) -> Path | None:
    """Return the weights file to start a backbone from; ``None`` for random weights.

    Args:
        weights: a file; "none" (or ``None``); "imagenet"; or the name of a set of torchvision weights
            such as "IMAGENET1K_V1". A name is downloaded once into torch's hub folder and checked
            against the hash in its file name.
        backbone: what the weights are for; one of torchvision's detectors has names of its own, such
            as "COCO_V1", the best of which "imagenet" gives.

    Raises:
        ConfigError: neither a file nor a known name.
        DataError: the download failed.
    """
    if weights is None or str(weights) == "none":
        return None
    path = Path(weights)
    if path.is_file():
        return path.resolve()
    if path.suffix or len(path.parts) > 1:
        raise ConfigError(f"weights: no file {weights}; give a path, a name, or none")
    if not isinstance(backbone, TapsConfig | TorchvisionConfig):
        raise ConfigError(
            f"weights: got {weights}, but a {backbone.kind!r} backbone has no named ones"
        )
    return _download(_url(str(weights), backbone.name))


def _url(name: str, network: str) -> str:
    from torchvision.models import get_model_weights

    known = get_model_weights(network)
    if name == DEFAULT_NAME:
        return str(known.DEFAULT.url)
    names = [member.name for member in known]
    if name not in names:
        wanted = ", ".join([DEFAULT_NAME, *names, "none"])
        raise ConfigError(
            f"weights of {network}: got {name!r}, no such file; wanted one of {wanted}"
        )
    return str(known[name].url)


def _download(url: str) -> Path:
    from torch import hub

    target = Path(hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    expected = hub.HASH_REGEX.search(target.name)
    prefix = expected.group(1) if expected else None
    try:
        hub.download_url_to_file(url, str(target), prefix, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"{url}: download failed ({error}); without a network give --weights PATH or none"
        ) from None
    return target
