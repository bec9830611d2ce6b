"""Recipes: the papers' preprocessings, each a config that declares its transforms and numbers."""

from __future__ import annotations

import copy
import difflib
import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from monai.transforms import Compose, Transform

from crossmoda.data import write_text
from crossmoda.errors import InputError, exit_on_input_error

logger = logging.getLogger(__name__)

RECIPES = Path(__file__).with_name("recipes")
STATE_FILE = "preparation.json"
KEYS = ("image", "label", "parcellation")
MODALITIES = ("ceT1", "hrT2")
# What the program sets for each scan; a user has other ways to say it.
SET_BY_PROGRAM = ("modality", "section", "keys", "registrations", "learn", "imports")
# What each kind of learning fills in, and the option that switches it off by its absence.
LEARNED = {"roi": ("roi_start",), "references": ("reference_ceT1", "reference_hrT2", "atlas")}
FILES = LEARNED["references"]


@dataclass(frozen=True)
class Recipe:
    """One preprocessing with all its numbers.

    Attributes:
        name: e.g. `li2021`.
        config: the content of its YAML file, with the user's changes and what was learned from the data.
    """

    name: str
    config: Mapping[str, Any]

    @classmethod
    def load(cls, name: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
        """Read a recipe of this package, or a YAML file of the user's own.

        Args:
            name: one of `recipe_names()`, or the path of a YAML file.
            changes: values that replace those of the file, by name.

        Raises:
            InputError: if there is no such recipe, the file can't be read, or a change names nothing that is there.
        """
        path = Path(name) if Path(name).suffix in (".yaml", ".yml") else RECIPES / f"{name}.yaml"
        if not path.is_file():
            raise InputError(f"{name} is no recipe: take one of {', '.join(recipe_names())}, or name a YAML file")
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a YAML file ({_one_line(error)}): correct it") from None
        if not isinstance(config, dict) or "preprocessing" not in config or "range" not in config:
            raise InputError(f"{path} has no 'preprocessing' or no 'range': start from a recipe in {RECIPES}")
        recipe = cls(path.stem, config)
        return recipe.changed(changes or {})

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read the recipe that `prepare.py` wrote, with what it had learned.

        Args:
            path: the folder of prepared volumes, or the `preparation.json` in it.

        Raises:
            InputError: if it is missing or not such a file.
        """
        path = Path(path).absolute()
        path = path / STATE_FILE if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"{path} is missing: make it with scripts/prepare.py")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            recipe = cls(content["recipe"], content["config"])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise InputError(f"{path} is not what scripts/prepare.py writes: run that again") from None
        files = {key: str(path.parent / recipe.config[key]) for key in FILES if recipe.config.get(key)}
        for file in files.values():
            if not Path(file).is_file():
                raise InputError(f"{file} is missing, {path} needs it: copy the folder whole, or run prepare.py again")
        return recipe._with(files)

    def write(self, folder: str | Path) -> None:
        """Write `preparation.json`, from which `read` makes this recipe again; reference files are named relatively."""
        folder = Path(folder).absolute()
        config = dict(self.config)
        for key in FILES:
            if config.get(key):
                config[key] = Path(config[key]).relative_to(folder).as_posix()
        write_text(json.dumps({"recipe": self.name, "config": config}, indent=1) + "\n", folder / STATE_FILE)

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """A copy with other values.

        Raises:
            InputError: if a name is not one of the recipe's settings, with the nearest one that is.
        """
        settings = self.settings
        for name in changes:
            if name not in settings:
                near = difflib.get_close_matches(name, settings, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(settings)}"
                raise InputError(f"recipe {self.name} has no setting '{name}': {hint}")
        return self._with(changes)

    @property
    def settings(self) -> dict[str, Any]:
        """The plain values: numbers, names, lists of them. Not transforms, expressions and what the program sets."""
        return {
            name: value
            for name, value in self.config.items()
            if name not in SET_BY_PROGRAM
            and not isinstance(value, dict)
            and not (isinstance(value, str) and value.startswith(("@", "$")))
        }

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest intensity of prepared images."""
        low, high = self.config["range"]
        return float(low), float(high)

    @property
    def lacks(self) -> str | None:
        """What must still be learned from the data: `roi`, `references` or None."""
        learn = self.config.get("learn")
        if learn is None or (learn == "roi" and self.config.get("roi_size") is None):
            return None
        return learn if any(self.config.get(name) is None for name in LEARNED[learn]) else None

    def pipeline(
        self,
        modality: str,
        section: str | None = None,
        keys: Sequence[str] = KEYS,
        registrations: str | Path | None = None,
        part: str = "preprocessing",
    ) -> Compose:
        """The transforms for one scan.

        Args:
            modality: `ceT1` or `hrT2`.
            section: section of the data list the scan is in; None for a scan that is not in one.
            keys: of `image`, `label`, `parcellation`, in this order; items may lack all but the image.
            registrations: folder where found registrations are kept and looked up; None keeps none.
            part: which of the config's pipelines.

        Returns:
            An invertible transform of a dict with paths under `keys`.

        Raises:
            InputError: if the recipe needs what must be learned from the data first, or a value can't be used.
        """
        if part == "preprocessing" and self.lacks:
            raise InputError(
                f"recipe {self.name} learns its {self.lacks} from the data:"
                " name the folder that scripts/prepare.py wrote"
            )
        values = {"modality": modality, "section": section, "keys": list(keys)}
        values["registrations"] = str(registrations) if registrations is not None else None
        # A copy, because the parser writes into what it is given.
        parser = ConfigParser(copy.deepcopy(dict(self._with(values).config)))
        try:
            return parser.get_parsed_content(part)
        except Exception as error:
            cause = root_cause(error)
            raise InputError(
                f"recipe {self.name} can't be used ({type(cause).__name__}: {_one_line(cause)})"
            ) from error

    def _with(self, values: Mapping[str, Any]) -> Recipe:
        return Recipe(self.name, {**self.config, **values})


class TakeOutRegistration(Transform):
    """Takes the record of a registration out of an item, because MONAI can't collate it; warns of a failed one."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Hand the item on without the record."""
        out = dict(data)
        record = out.pop("registration", None)
        if record and record.get("failure"):
            scan = out["image"].meta.get("filename_or_obj", "a scan")
            logger.warning("%s: registration failed (%s), the scan is left where it is", scan, record["failure"])
        return out


def recipe_names() -> list[str]:
    """Names of the recipes of this package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def preprocessing(preparation: str | Path, modality: str, keys: Sequence[str] = ("image",)) -> Compose:
    """The preprocessing of a recipe for a bundle's inference on raw scans.

    Args:
        preparation: a folder that `prepare.py` wrote (or its `preparation.json`), or the name of a recipe that
            learns nothing from the data.
        modality: `ceT1` or `hrT2`.
        keys: see `Recipe.pipeline`.

    Raises:
        InputError: see `Recipe`.
    """
    if not preparation:
        raise InputError("give --preparation: the folder that scripts/prepare.py wrote, or a recipe's name")
    known = str(preparation) in recipe_names()
    recipe = Recipe.load(str(preparation)) if known else Recipe.read(preparation)
    return Compose([recipe.pipeline(modality, keys=keys), TakeOutRegistration()])


def root_cause(error: BaseException) -> BaseException:
    """The error that began it: MONAI wraps what a transform raises in several others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


preprocessing_or_exit = exit_on_input_error(preprocessing)
