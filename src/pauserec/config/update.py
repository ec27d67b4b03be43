"""Settings of a run that goes on from a finished one with what happened since."""

from pydantic import Field

from pauserec.config.settings import BOOKKEEPING, EmbedderConfig, Settings


class Update(Settings):
    """The finished run that this one goes on from; its settings of IDs, backbone and prompts are those of this one."""

    run: str | None = None
    """Its folder; null where a run begins anew."""
    stage: str = "sft"
    """The stage of it whose weights are trained further."""


class UpdateJob(Settings):
    """What the IDs and the first weights of an update depend on, besides the files of the earlier run."""

    run: str = Field(default="", json_schema_extra=BOOKKEEPING)
    """The earlier run's folder; what stands in it counts, not where it is."""
    stage: str
    """See Update.stage."""
    embedder: EmbedderConfig
    """What new items' vectors are made of."""
