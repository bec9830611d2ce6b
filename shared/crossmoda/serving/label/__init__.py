"""Our MONAI Label app; importable in the environment of requirements-label.txt only."""

import importlib.machinery
import sys
import types


def _stub_torchvision() -> None:
    """Put an empty torchvision in place where there is none that can be imported.

    MONAI Label imports two functions of it that bundles do not use, and there is no torchvision for the CPU build of
    this torch.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name, contents in {"torchvision": (), "torchvision.utils": ("make_grid", "save_image")}.items():
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            for content in contents:
                setattr(module, content, None)
            sys.modules[name] = module


_stub_torchvision()  # before anything of MONAI Label

from crossmoda.serving.label.app import LabelApp  # noqa: E402

__all__ = ["LabelApp"]
