"""Render the emoji art that ships, from the four pinned npm packages. Done once; run again only to change the art.

    mkdir tarballs && cd tarballs
    npm pack @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 @iconify-json/openmoji@1.2.29 \
             @iconify-json/fluent-emoji-flat@1.2.6
    cd .. && pip install "erased-diffusion[art]" && python -m esd.emoji.render tarballs

Each tarball's SHA-256 is checked before it is opened. The result is one sheet of transparent pictures a style:
`art/<style>.webp` (the objects, 128 px, in the order of `words.OBJECTS`) and `art/<style>-others.webp` (emoji that are
none of the objects, 64 px: what the judge calls "something else"), with `art/others.json` naming the latter.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import tarfile
from pathlib import Path

from PIL import Image

from esd.emoji.words import OBJECTS, STYLES

SHA256 = {
    "noto": "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "twemoji": "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "openmoji": "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
    "fluent": "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
}
ART = Path(__file__).parent / "art"
COLUMNS = 16  # pictures in a row of a sheet
OBJECT_PX, OTHER_PX = 128, 64
# Emoji whose name shares a word with an object's may show that object ("clinking-beer-mugs", "flower-playing-cards"),
# and these show one under another name: they are neither the object nor something else.
LOOK_ALIKES = re.compile(
    r"automobile|taxi|minibus|trolleybus|motorcycle|motorway|kick-scooter|sport-utility|racing|pickup|delivery|articulated"
    r"|hibiscus|rose$|rosette|blossom|sandwich|bagel|peach|lemon|tangerine|mango|melon|plum|candy|shortcake|birthday-cake"
    r"|fishing|blowfish|shark|dolphin|wolf|bear|raccoon|tiger|lion|hamster|mouse|rabbit|lizard|crocodile|dodo|goose|swan"
    r"|peacock|parrot|dove|eagle|bird|chick|beetle|bug|squid|lobster|shrimp|beaver|mammoth|rhino|hippo|bat$|ship|ferry|boat"
    r"|hut|houses|home|japanese-castle|camping|circus|department|pick$|wrench|locked|old-key|violin|banjo|saxophone|horn"
    r"|pager|printer|fax|briefcase|bag|luggage|prince|princess|wedding|ball$|softball|bowling|world|globe|snow|shower|bathtub"
    r"|woman|man-|person|sword|kitchen-knife|razor|firecracker|steam|spiral|shell|maple|olive|deciduous|evergreen|tree|herb"
    r"|wine|drink|cocktail|teacup|hot-beverage|glass|coat|label|megaphone|long-drum|maracas|gun|reminder|ribbon|envelope"
)


def icons(tarballs: Path, style: str) -> dict:
    """The package's icons.json, after its SHA-256 was checked. Raises SystemExit on any other content."""
    package, version = STYLES[style]
    path = tarballs / f"{package[1:].replace('/', '-')}-{version}.tgz"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: npm pack {package}@{version}")
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != SHA256[style]:
        raise SystemExit(f"{path} is not the pinned file: SHA-256 {found}, expected {SHA256[style]}")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return json.load(tar.extractfile("package/icons.json"))


def draw(package: dict, emoji: str, size: int) -> Image.Image:
    """One emoji as an RGBA picture of size×size."""
    import resvg_py

    icon = package["icons"][emoji]
    width, height = icon.get("width", package["width"]), icon.get("height", package["height"])
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg {spaces} viewBox="{box}">{icon["body"]}</svg>'
    big = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * size, height=4 * size)))).convert("RGBA")
    return big.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")  # RGBa: premultiplied


def sheet(pictures: list[Image.Image], size: int) -> Image.Image:
    rows = -(-len(pictures) // COLUMNS)
    page = Image.new("RGBA", (COLUMNS * size, rows * size))
    for i, picture in enumerate(pictures):
        page.paste(picture, (i % COLUMNS * size, i // COLUMNS * size))
    return page


def main(tarballs: Path) -> None:
    packages = {style: icons(tarballs, style) for style in STYLES}
    taken = {part for emoji in OBJECTS.values() for part in emoji.split("-")} - {"face", "red", "light", "top", "open", "in"}
    common = set.intersection(*(set(package["icons"]) for package in packages.values()))
    others = sorted(
        name for name in common
        if not taken & set(name.split("-")) and not LOOK_ALIKES.search(name) and "skin-tone" not in name
    )  # fmt: skip
    ART.mkdir(exist_ok=True)
    for style, package in packages.items():
        sheet([draw(package, emoji, OBJECT_PX) for emoji in OBJECTS.values()], OBJECT_PX).save(
            ART / f"{style}.webp", lossless=True, quality=100, method=6
        )
        sheet([draw(package, name, OTHER_PX) for name in others], OTHER_PX).save(
            ART / f"{style}-others.webp", quality=85, method=6
        )
    (ART / "others.json").write_text(json.dumps(others, indent=0) + "\n")
    print(f"{len(OBJECTS)} objects and {len(others)} other emoji in {len(STYLES)} styles, in {ART}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m esd.emoji.render FOLDER_OF_TARBALLS")
    main(Path(sys.argv[1]))
