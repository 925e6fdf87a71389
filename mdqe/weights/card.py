"""The model card: the README.md of a model's folder and of its repository on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from mdqe.config import MDQEConfig
from mdqe.errors import printable
from mdqe.files import whole_file
from mdqe.weights.folder import MOST_SOURCE

CARD_FILE = "README.md"
PAPER_TITLE = "{{MDQE}: Mining Discriminative Query Embeddings to Segment Occluded Instances on Challenging Videos}"
PAPER = "https://arxiv.org/abs/2303.14395"
TAGS = ("mdqe", "video-instance-segmentation", "video-segmentation", "object-tracking")
CARD = """---
{{ card_data }}
---

# {{ title }}

Video instance segmentation with MDQE ([paper]({{ paper }})): a mask in each frame for every object of a video, and
one identity throughout the video.

| | |
|---|---|
| backbone | `{{ config.backbone }}` |
| parameters | {{ "{:,}".format(parameters) }} |
| categories | {{ config.num_classes }} |
| frames of a clip in training and at test | {{ config.clip_length }}, {{ config.test_clip_length }} |
| shorter edge at test | {{ config.test_shorter_edge or "that of the video" }} |
{% if source %}| weights | {{ source }} |
{% endif %}{% for name, value in facts.items() %}| {{ name }} | {{ value }} |
{% endfor %}
```bash
mdqe segment video.mp4 -o results --model {{ model_id }}
```

```python
from mdqe import MDQE

result = MDQE.from_pretrained("{{ model_id }}").segment("video.mp4")
```
{% if config.categories %}
Categories: {{ config.categories | join(", ") }}.
{% endif %}
## Citation

```bibtex
@inproceedings{li2023mdqe,
  title     = {{ paper_title }},
  author    = {Li, Minghan and Li, Shuai and Xiang, Wangmeng and Zhang, Lei},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {10524--10533},
  year      = {2023}
}
```
"""


def model_card(
    config: MDQEConfig,
    model_id: str,
    *,
    parameters: int,
    source: str | None = None,
    facts: dict[str, str] | None = None,
    license: str | None = None,
) -> ModelCard:
    """A description of a model, its categories and its use.

    Args:
        config: of the model.
        model_id: the name with which a user loads it.
        parameters: their number.
        source: where the weights come from.
        facts: further rows of the table, by name.
        license: the identifier of the licence of the weights, such as "apache-2.0".
    """
    model_id = printable(model_id, MOST_SOURCE)  # the name of a folder may have bytes that are not UTF-8
    data: dict[str, Any] = {"library_name": "mdqe", "pipeline_tag": "image-segmentation", "tags": sorted(TAGS)}
    return ModelCard.from_template(
        card_data=ModelCardData(license=license, **data),
        template_str=CARD,
        title=Path(model_id).name,
        model_id=model_id,
        config=config,
        parameters=parameters,
        source=printable(source, MOST_SOURCE) if source else None,
        facts=facts or {},
        paper=PAPER,
        paper_title=PAPER_TITLE,
    )


def write_card(folder: Path, card: ModelCard) -> None:
    """Write the card of a folder atomically, unless the folder has one.

    Raises:
        OSError: the file cannot be written.
    """
    if not (folder / CARD_FILE).exists():
        with whole_file(folder / CARD_FILE) as partial:
            card.save(partial)
