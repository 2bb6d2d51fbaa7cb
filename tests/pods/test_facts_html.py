"""What containers share, as a notebook shows it."""

import xml.etree.ElementTree as ET
from pathlib import Path

from podipc.pod import up
from podipc.pod.facts import Facts

MANIFEST = """
kind: Pod
apiVersion: v1
metadata: {name: html}
spec:
  volumes: [{name: v, emptyDir: {}}]
  containers:
    - name: a
      image: x
      command: [sh, -c, "exec sleep 60 # <script>"]
      volumeMounts: [{name: v, mountPath: /one}]
    - name: b
      image: x
      command: [sleep, "60"]
      volumeMounts: [{name: v, mountPath: /two}]
    - {name: c, image: x, command: [sleep, "60"]}
"""


def test_a_row_a_namespace(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(MANIFEST)
    with up(path, "local", grace=1) as pod:
        facts = pod.facts()
    # Well-formed, whatever the containers say of themselves.
    page = ET.fromstring(f"<div>{facts._repr_html_()}</div>")
    rows = {}
    for row in page.iter("tr"):
        name, *fields = ("".join(cell.itertext()) for cell in row)
        rows[name] = fields
    assert rows[""] == ["", "a", "b", "c", ""]
    assert rows["net"][1:] == ["A", "A", "A", "shared"]
    assert rows["pid"][1:] == ["A", "B", "C", "private"]
    assert rows["/dev/shm"][1:] == ["A", "A", "A", "shared"]
    assert rows["volume"][1:] == ["/one", "/two", "not mounted", ""]
    ids = [cell.get("title") for row in page.iter("tr") for cell in row if cell.get("title")]
    assert str(facts.containers["b"].namespaces["pid"]) in ids
    tints = {cell.get("style") for row in page.iter("tr") for cell in row if cell.text == "B"}
    other = {cell.get("style") for row in page.iter("tr") for cell in row if cell.text == "A"}
    assert tints
    assert not tints & other
    assert "addresses 127.0.0.1" in "".join(page.itertext())
    assert not list(page.iter("script"))


def test_no_container() -> None:
    assert Facts("over", {}, {})._repr_html_() == "<p>Pod over: no container runs</p>"
