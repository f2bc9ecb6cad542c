"""Augment: the declared policy, tried on real images before anything trains with it."""

from __future__ import annotations

from labline.references import AugmentedRef, DatasetRef
from labline.usecase import ImageUseCase
from tasks.stage import stage
from tasks.workspace import Workspace

SHOWN = 16


@stage(sections=("augmentation",))
def augment(declaration: ImageUseCase, dataset: DatasetRef, *, workspace: Workspace) -> AugmentedRef:
    """Apply the policy to a few training images and log a sheet of before and after."""
    from labline.augmentation import before_after
    from labline.data.dataset import open_dataset
    from labline.plots import contact_sheet

    data = open_dataset(workspace.resolve(dataset.directory))
    rows = data.rows("train").sample(n=min(SHOWN, int((data.manifest["split"] == "train").sum())), random_state=0)
    policy = declaration.augmentation.policy
    sheet = before_after(data.images[rows["row"].to_numpy()], policy, declaration.augmentation.strength)
    workspace.figure("contact_sheet", contact_sheet(sheet.before, sheet.after))
    workspace.parameters({"augmentation.policy": ", ".join(policy) or "none"})
    return AugmentedRef(
        directory=workspace.name, digest=declaration.augmentation.model_dump_json(), figure=", ".join(policy) or "none"
    )
