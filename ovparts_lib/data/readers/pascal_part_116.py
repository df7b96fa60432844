"""Pascal-Part-116 (OV-PARTS, NeurIPS 2023 datasets track), read from the folders as they are released."""

from ovparts_lib.data.readers.base import Reader
from ovparts_lib.data.scan import LabelCounts


class PascalPart116(Reader):
    """Reader of the released layout.

    ::

        root/images/{train,val}/<id>.jpg
        root/annotations_detectron2_obj/{train,val}/<id>.png     8-bit, object ids, 255 without label
        root/annotations_detectron2_part/{train,val}/<id>.png    8-bit, part ids, 255 without label
        root/train_16shot.json                                   for train_few_shot only, unless a list is drawn

    Files are paired by base name; hidden files (``._*`` of macOS archives) are ignored. Which objects an image holds is
    counted from the label files, so the generated ``*_obj_label_count.json`` files are not needed. Unseen classes are
    labelled in the training files as released: the training vocabulary's remap takes them out.
    """

    name = "pascal_part_116"
    shots_released = True

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Samples and (image, object) records, and how many have no part."""
        parts = range(len(self.vocabulary.parts))
        conditions = [(i, o) for i in labels.image_ids for o in labels.objects_in(i, self.vocabulary.ignore_label)]
        return super().count_records(name, labels) | {
            "(image, object) records": len(conditions),
            "records without part pixels": sum(not labels.has_part(i, parts, o) for i, o in conditions),
        }
