# SPDX-License-Identifier: GPL-3.0-or-later
"""The bill of materials of a wheel (CycloneDX 1.6, PEP 770): what its METADATA cannot tell.

That is the C inside the module: pjproject with every substitution, and OpenSSL beside it.  It
follows from the source and the build folder alone, so that two builds of one source have the same.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

UPSTREAM = "https://github.com/pjsip/pjproject"


def pjproject(version: str, bundled: Mapping[str, Any] | None) -> dict[str, Any]:
    """The component; *bundled*: ``sha256``, ``urls`` and ``patches`` of the one compiled in."""
    purl = f"pkg:github/pjsip/pjproject@{version}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "supplier": {"name": "Teluu Ltd.", "url": ["https://www.pjsip.org"]},
        "name": "pjproject",
        "version": version,
        "description": "pjlib, pjlib-util, the core of pjsip and its registration client",
        "licenses": [{"license": {"id": "GPL-2.0-or-later"}}],
        "cpe": f"cpe:2.3:a:pjsip:pjsip:{version}:*:*:*:*:*:*:*",
        "purl": purl,
        "externalReferences": [{"type": "vcs", "url": UPSTREAM}],
    }
    if bundled is None:
        return component | {"properties": [{"name": "pjsip-py:linkage", "value": "installed"}]}
    return component | {
        "hashes": [{"alg": "SHA-256", "content": bundled["sha256"]}],
        "externalReferences": [
            {"type": "vcs", "url": UPSTREAM},
            *({"type": "distribution", "url": url} for url in bundled["urls"]),
        ],
        "pedigree": {"patches": [patch(each) for each in bundled["patches"]]},
        "properties": [
            {"name": "pjsip-py:linkage", "value": "static"},
            {
                "name": "pjsip-py:hash",
                "value": 'of the sorted lines "<SHA-256>  <path>" of the files in '
                "vendor/pjproject.toml, before the patches",
            },
        ],
    }


def patch(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One substitution of ``vendor/patches.toml``."""
    resolved: dict[str, Any] = {
        "type": "defect",
        "id": entry["id"],
        "description": " ".join(entry["reason"].split()),
    }
    if "upstream" in entry:
        resolved["references"] = [f"{UPSTREAM}/commit/{entry['upstream']}"]
    kind = "backport" if "upstream" in entry else "unofficial"
    return {"type": kind, "resolves": [resolved]}


def openssl(version: str, dynamic: bool) -> dict[str, Any]:
    """The component; a dynamic one is whatever the machine has at run time."""
    purl = f"pkg:generic/openssl@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": "openssl",
        "version": version,
        "description": "libssl and libcrypto, in the version that the module was built with",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "cpe": f"cpe:2.3:a:openssl:openssl:{version}:*:*:*:*:*:*:*",
        "purl": purl,
        "properties": [{"name": "pjsip-py:linkage", "value": "dynamic" if dynamic else "static"}],
    }


def dependencies(folder: Path) -> dict[str, tuple[str, bool]]:
    """What Meson linked in a build folder: version, and whether from shared libraries."""
    known = json.loads((folder / "meson-info" / "intro-dependencies.json").read_text())
    return {
        each["name"]: (
            each["version"],
            not any(argument.endswith(".a") for argument in each["link_args"]),
        )
        for each in known
    }


def document(name: str, version: str, licence: str, components: Sequence[Mapping[str, Any]]) -> str:
    """The whole, as JSON."""
    purl = f"pkg:pypi/{name}@{version}"
    bom: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "licenses": [{"expression": licence}],
                "purl": purl,
            }
        },
        "components": list(components),
        "dependencies": [
            {"ref": purl, "dependsOn": [each["bom-ref"] for each in components]},
            *({"ref": each["bom-ref"]} for each in components),
        ],
    }
    content = json.dumps(bom, sort_keys=True)
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    return json.dumps(bom, indent=2) + "\n"
