"""The stages of training, by the `kind` a recipe names."""

from pauserec.stages.continual_pretrain import continual_pretrain, cpt_tokens
from pauserec.stages.implicit_sft import implicit_sft
from pauserec.stages.kind import StageKind
from pauserec.stages.next_item import next_item_tokens
from pauserec.stages.pause_pretrain import pause_pretrain, pause_tokens
from pauserec.stages.sft import sft

STAGES: dict[str, StageKind] = {
    "cpt": StageKind(continual_pretrain, cpt_tokens),
    "sft": StageKind(sft, next_item_tokens),
    "pause_pretrain": StageKind(pause_pretrain, pause_tokens),
    "implicit_sft": StageKind(implicit_sft, next_item_tokens),
}
