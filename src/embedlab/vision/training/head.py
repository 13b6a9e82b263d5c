"""Linear probing before fine-tuning: the linear probe's weights are the head's start.

Fine-tuning from a random head distorts pretrained features before the head has learnt to use them
(LP-FT; A. Kumar et al., ICLR 2022).
"""

from dataclasses import replace

from torch import nn

from embedlab.distributed.collectives import broadcast
from embedlab.progress import OnProgress, no_progress
from embedlab.vision.backbone import Backbone
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.features import extract_features
from embedlab.vision.inference import Classifier
from embedlab.vision.options import LinearProbeOptions
from embedlab.vision.training.linear_probe import LinearProbe


def probe_head(
    backbone: Backbone,
    classifier: Classifier,
    images: ImageDataset,
    split: Split,
    on_progress: OnProgress = no_progress,
) -> tuple[nn.Linear, float]:
    """The head of a linear probe on the backbone's frozen features, and the seconds that it took.

    classifier  of the backbone without its last layer. The features are those that
                `extract_features` computes and caches by default, without test-time augmentation.
    """
    extractor = replace(classifier, tta_flip=False)
    features = extract_features(backbone.digest, extractor, images, split, on_progress)

    def fit() -> tuple[nn.Linear, float]:
        assert features is not None, "rank 0 has the features"
        train, val = (
            (features.parts[part], images.labels[rows])
            for part, rows in (("train", split.train), ("val", split.val))
        )
        options = LinearProbeOptions()
        probe = LinearProbe(train, val, len(images.classes), options, 0, classifier.device)
        for _ in probe.train():
            pass
        return probe.layer(), features.seconds + probe.seconds

    return broadcast(fit)
