"""The stages of training, by the `kind` a recipe names."""

from pauserec.runs.folder import StepFunction
from pauserec.stages.continual_pretrain import continual_pretrain
from pauserec.stages.implicit_sft import implicit_sft
from pauserec.stages.pause_pretrain import pause_pretrain
from pauserec.stages.sft import sft

STAGES: dict[str, StepFunction] = {
    "cpt": continual_pretrain,
    "sft": sft,
    "pause_pretrain": pause_pretrain,
    "implicit_sft": implicit_sft,
}
