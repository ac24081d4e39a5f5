"""XML label files, read without what makes XML dangerous."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from hardmine.data.formats.label_validation import LabelError
from hardmine.finding_kinds import FindingKind
from hardmine.text import decode_xml


def parse_xml(path: Path, tag: str) -> Element:
    """Return the root element of an XML file, which must have that tag.

    Raises:
        OSError: it cannot be read.
        TextError: it is in another encoding than it says.
        LabelError: no XML, another tag, or XML that defines entities.
    """
    text = decode_xml(path.read_bytes())
    try:
        root: Element | None = fromstring(text)
    except DefusedXmlException as error:
        kind = FindingKind.LABEL_ENTITIES
        raise LabelError(kind, f"XML with entities is refused ({error})") from None
    except (ParseError, ValueError, LookupError) as error:
        raise LabelError(FindingKind.LABEL_BROKEN, f"not readable as XML ({error})") from None
    if root is None or root.tag != tag:
        found = "nothing" if root is None else f"<{root.tag}>"
        raise LabelError(FindingKind.LABEL_BROKEN, f"holds {found}, wanted <{tag}>")
    return root
