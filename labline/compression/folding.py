"""Batch-norm folding: at inference a batch norm is a constant scale and shift, which the layer before it can carry."""

from __future__ import annotations

import copy
import logging
from collections import Counter

from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from labline.models.classifier import ImageClassifier

logger = logging.getLogger(__name__)


def fold_batch_norm(model: ImageClassifier) -> ImageClassifier:
    """A copy of the model in evaluation mode whose batch norms are folded into the convolution or linear layer before.

    Logits stay equal up to float32 rounding. A batch norm that does not directly follow such a layer stays as it is,
    and so does a backbone that torch.fx cannot trace (its forward branches on values): that is logged, not an error.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks", section 3.2, as `torch.fx` does it.
    """
    folded = copy.deepcopy(model).eval()
    try:
        traced = fx.symbolic_trace(folded.backbone)
        if not _shares_layers(traced):
            folded.backbone = fuse(traced, no_trace=True)
    # Tracing runs the user's own forward() on stand-ins for tensors: it may raise anything there.
    except Exception as error:
        logger.info("batch norm stays unfolded, torch.fx cannot trace %s: %s", type(model.backbone).__name__, error)
    return folded


def _shares_layers(traced: fx.GraphModule) -> bool:
    """Does one layer with weights serve in several places? Folding there would change the other place as well."""
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    layers: dict[str, nn.Module] = dict(traced.named_modules())
    return any(count > 1 and any(True for _ in layers[name].parameters()) for name, count in calls.items())
