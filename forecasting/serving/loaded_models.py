"""The champion and the challengers of one market, loaded from the registry."""

import logging
from collections.abc import Mapping

from forecasting.registry.versions import Loaded, Registry, model_of
from forecasting.serving.threads import in_thread
from marketdata.errors import ForecastError, StorageError

log = logging.getLogger(__name__)


class LoadedModels:
    """Loaded versions of one market. A version that cannot be loaded is logged once and not tried again."""

    def __init__(self, symbol: str, registry: Registry) -> None:
        self._symbol = symbol
        self._registry = registry
        self._champion: Loaded | None = None
        self._challengers: dict[str, Loaded] = {}
        self._unusable: set[str] = set()

    @property
    def champion(self) -> Loaded | None:
        return self._champion

    @property
    def challengers(self) -> Mapping[str, Loaded]:
        """Newest version of each other model, by model name."""
        return self._challengers

    def newest(self, model: str) -> Loaded | None:
        """The loaded version of a model, whatever its role."""
        if self._champion is not None and model_of(self._champion.version.name) == model:
            return self._champion
        return self._challengers.get(model)

    async def follow_champion(self) -> bool:
        """Load the newest promoted version that can be used; return whether another one was loaded.

        Raises:
            StorageError: the registry cannot be read.
        """
        found = await in_thread(lambda: self._registry.load_champion(self._unusable, self._champion))
        if found is None or found[0] is self._champion:
            return False
        self._champion, pointer = loaded, _ = found
        log.info("symbol=%s champion=%s provisional=%s", self._symbol, loaded.version.name, pointer.get("provisional"))
        return True

    async def follow_challengers(self) -> None:
        """Load the newest versions of the other models. If one cannot be read, the loaded one is kept.

        Raises:
            StorageError: the registry cannot be read.
        """
        champion = None if self._champion is None else self._champion.version.name
        names = await in_thread(lambda: self._registry.challengers(champion))
        found = {}
        for model, name in names.items():
            current = self._challengers.get(model)
            try:
                loaded = await self._load(name, current)
            except StorageError as error:  # a challenger must not delay the champion
                log.warning("symbol=%s challenger=%s: %s", self._symbol, name, error)
                loaded = current
            if loaded is not None:
                found[model] = loaded
        self._challengers = found

    async def _load(self, name: str, current: Loaded | None) -> Loaded | None:
        """Load a version unless it is the current one; None if it cannot be used."""
        if current is not None and current.version.name == name:
            return current
        if name in self._unusable:
            return None
        try:
            return await in_thread(lambda: self._registry.load(name))
        except ForecastError as error:
            self._unusable.add(name)
            log.error("symbol=%s version=%s cannot be used: %s", self._symbol, name, error)  # noqa: TRY400
            return None
