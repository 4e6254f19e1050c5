"""The fleet's page, open in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploys.fleet.page import render

# What WebDriver (W3C, "Keyboard actions") calls the keys that have no character.
BACKSPACE, TAB, ENTER, SPACE = "\ue003", "\ue004", "\ue007", "\ue00d"

# Every visible text, with its colour and what is painted behind it, as the browser itself mixes them.
_CONTRASTS = """
const pixel = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const mixed = (colors) => {
  pixel.clearRect(0, 0, 1, 1);
  for (const color of colors) { pixel.fillStyle = color; pixel.fillRect(0, 0, 1, 1); }
  return [...pixel.getImageData(0, 0, 1, 1).data.slice(0, 3)];
};
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const found = new Map();
for (const element of document.body.querySelectorAll("*")) {
  const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
  if (!text || !element.checkVisibility() || element.matches(".spoken, script, noscript *")) continue;
  const behind = [];
  for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
  const color = getComputedStyle(element).color;
  found.set([color, ...behind].join("|"), {text, behind, color});
}
return [...found.values()].map(({text, behind, color}) => {
  const [a, b] = [luminance(mixed(behind)), luminance(mixed([...behind, color]))].sort((x, y) => y - x);
  return [(a + 0.05) / (b + 0.05), text, color];
});
"""


class Page:
    """The page of a document in the browser; `problems` is what the browser complained of or asked the network for."""

    def __init__(self, driver: Any, directory: Path) -> None:
        self.driver = driver
        self._directory = directory
        self._address = ""

    def open(
        self,
        document: dict[str, Any],
        fragment: str = "",
        width: int = 1400,
        media: str = "",
        height: int = 900,
        **features: str,
    ) -> None:
        """Show a document in a window of a size, by a medium and its features (`prefers_color_scheme="dark"`)."""
        file = self._directory / "fleet.html"
        file.write_text(render(document), encoding="utf-8")
        self._address = file.as_uri()
        emulated = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._command("Emulation.setEmulatedMedia", media=media, features=emulated)
        self._command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        # Another fragment alone would not load the page anew.
        self.driver.get("about:blank")
        self.driver.get(self._address + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function's body returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """The text of all elements that are not hidden, shown or spoken, with one blank for any white space."""
        return list(
            self.run(
                """return [...document.querySelectorAll(arguments[0])].filter((each) => each.checkVisibility())
                .map((each) => each.innerText.trim().replace(/\\s+/g, " "))""",
                selector,
            )
        )

    def attributes(self, selector: str, name: str) -> list[str | None]:
        """An attribute of all elements."""
        return list(
            self.run(
                "return [...document.querySelectorAll(arguments[0])].map(e => e.getAttribute(arguments[1]))",
                selector,
                name,
            )
        )

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return len(self.attributes(selector, "class"))

    def click(self, selector: str, text: str = "") -> None:
        """Click the first element that has the text in it."""
        self.run(
            "[...document.querySelectorAll(arguments[0])].find(e => e.textContent.includes(arguments[1])).click()",
            selector,
            text,
        )

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focus_by_tab(self, selector: str) -> None:
        """Press the tabulator until an element has the focus. Fails when none gets it."""
        for _ in range(60):
            self.press(TAB)
            if self.run("return document.activeElement.matches(arguments[0])", selector):
                return
        raise AssertionError(f"nothing like {selector} gets the focus by the tabulator")

    def hosts(self) -> list[str]:
        """The names of the hosts in the table, in its order."""
        return self.texts("tr.host > th")

    def cells(self, host: str) -> dict[str, str]:
        """The cells of a host's row by their columns' keys."""
        return dict(
            self.run(
                """const rows = [...document.querySelectorAll("tr.host")];
                const row = rows.find((each) => each.querySelector("button").textContent === arguments[0]);
                return [...row.cells].map((cell) => [cell.dataset.key, cell.innerText.trim()])""",
                host,
            )
        )

    def fragment(self) -> str:
        """The fragment of the page's address."""
        return str(self.run("return location.hash"))

    def contrasts(self) -> list[tuple[float, str, str]]:
        """The contrast (WCAG 2) of all visible text to what is behind it: ratio, text and colour."""
        return [(ratio, text, color) for ratio, text, color in self.run(_CONTRASTS)]

    def accessible_roles(self) -> list[str]:
        """The roles of all that a screen reader announces."""
        tree = self._command("Accessibility.getFullAXTree")
        return [node["role"]["value"] for node in tree["nodes"] if not node["ignored"]]

    def problems(self) -> list[str]:
        """What the console says, and each request but that for the page itself."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        foreign = [url for url in asked if not url.startswith((self._address, "data:", "about:"))]
        return [entry["message"] for entry in self.driver.get_log("browser")] + foreign

    def _command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)
