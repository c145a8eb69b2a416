"""Pascal VOC: image sets and xml."""

from __future__ import annotations

from .damage import damage, edit_text


@damage("voc", "unreadable-annotations", "p0.xml")
def xml_cut_off(root):
    path = root / "Annotations" / "p0.xml"
    path.write_text(path.read_text()[:-30])


@damage("voc", "unreadable-annotations", "DTDForbidden")
def xml_that_reads_a_file(root):
    path = root / "Annotations" / "p0.xml"
    entity = '<!DOCTYPE annotation [<!ENTITY secret SYSTEM "file:///etc/hostname">]>'
    path.write_text(entity + path.read_text().replace("<name>bird", "<name>&secret;"))


@damage("voc", "unreadable-annotations", "DTDForbidden")
def xml_that_multiplies(root):
    path = root / "Annotations" / "p0.xml"
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    path.write_text(f"<!DOCTYPE annotation [{entities}]>" + path.read_text().replace("<name>bird", "<name>&a9;"))


@damage("voc", "missing-annotations", "train.txt:7")
def image_set_names_an_absent_xml(root):
    with open(root / "ImageSets" / "Main" / "train.txt", "a") as f:
        f.write("p99\n")


@damage("voc", "outside-root", "train.txt:7")
def image_set_leaves_the_folder(root):
    with open(root / "ImageSets" / "Main" / "train.txt", "a") as f:
        f.write("../../../secret\n")


@damage("voc", "missing-image", "p0.xml")
def voc_image_deleted(root):
    (root / "JPEGImages" / "p0.png").unlink()


@damage("voc", "outside-root", "p0.xml")
def xml_names_a_file_outside(root):
    (root / "JPEGImages" / "p0.png").unlink()
    edit_text(root / "Annotations" / "p0.xml", "p0.png", "../../../secret.png")


@damage("voc", "name-mismatch", "p0.xml")
def xml_names_another_image(root):
    edit_text(root / "Annotations" / "p0.xml", "p0.png", "p1.png")


@damage("voc_roboflow", "repeated-file", "belongs to")
def two_xmls_of_one_image(root):
    path = root / "train" / "p0.xml"
    (root / "train" / "q.xml").write_text(path.read_text())


@damage("voc", "wrong-size", "its annotation says 160 x 60")
def xml_with_a_wrong_size(root):
    edit_text(root / "Annotations" / "p0.xml", "<width>80", "<width>160")


@damage("voc", "malformed-box", "p0.xml object 1")
def xml_without_bndbox(root):
    edit_text(root / "Annotations" / "p0.xml", "<xmin>", "<left>")  # and broken nesting is another damage
    edit_text(root / "Annotations" / "p0.xml", "</xmin>", "</left>")


@damage("voc", "malformed-box", "p0.xml object 1")
def xml_with_a_coordinate_in_words(root):
    edit_text(root / "Annotations" / "p0.xml", "<xmin>", "<xmin>about ")


@damage("voc", "unknown-class", "the object has no name")
def xml_object_without_name(root):
    edit_text(root / "Annotations" / "p0.xml", "<name>bird</name>", "")


@damage("voc", "box-without-area", "p0.xml object 1")
def xml_with_corners_swapped(root):
    edit_text(root / "Annotations" / "p0.xml", "<xmin>", "<xmin>7")


@damage("voc_roboflow", "unlisted-file", "an image without an xml file")
def voc_xml_deleted(root):
    (root / "train" / "p0.xml").unlink()


@damage("voc", "similar-classes", "'Bird' and 'bird'")
def xml_class_spelt_otherwise(root):
    edit_text(root / "Annotations" / "p0.xml", "<name>bird", "<name>Bird")
