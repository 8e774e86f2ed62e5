"""Manifests: what they mean, and what is wrong with them, by line."""

import json

import pytest

from jaxinv.scale.jobs.manifest import Row, read_manifest


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_jsonl_and_csv_of_the_same_rows_are_the_same_manifest(tmp_path):
    jsonl = write(
        tmp_path / "a.jsonl",
        '{"path": "a.png", "prompt": "red, \\"big\\" heart", "guidance": 2}',
        "",
        '{"path": "sub/b.png", "negative_prompt": "blue", "prompt": null}',
    )
    table = write(
        tmp_path / "a.csv",
        "path,prompt,negative_prompt,guidance",
        'a.png,"red, ""big"" heart",,2',
        "sub/b.png,,blue,",
    )
    defaults = {"prompt": "cat", "guidance": 3.0}
    first, second = (read_manifest(path, **defaults) for path in (jsonl, table))
    assert first == second
    assert first.root == tmp_path
    assert first.rows == [
        Row("a.png", 'red, "big" heart', "", 2.0),
        Row("sub/b.png", "cat", "blue", 3.0),
    ]
    assert first.fingerprint() == second.fingerprint()


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufeffpath\na.png\n".encode())
    assert read_manifest(tmp_path / "a.csv").rows[0].path == "a.png"


def test_unknown_columns_are_kept_and_explain_the_row_for_ever(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"path": "a.png", "label": 7, "by": "me"}')
    manifest = read_manifest(path, extra_columns=True)
    (line,) = manifest.lines()
    assert json.loads(line)["extra"] == {"label": 7, "by": "me"}
    assert json.loads(line)["index"] == 0


def test_the_fingerprint_is_that_of_rows_and_defaults_and_not_of_the_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.jsonl", '{"path": "a.png"}')
    here, there = (tmp_path / name / "a.jsonl" for name in ("one", "two"))
    same = read_manifest(here).fingerprint()
    assert read_manifest(there).fingerprint() == same
    assert read_manifest(here, prompt="cat").fingerprint() != same
    assert read_manifest(here, guidance=2.0).fingerprint() != same


def test_a_path_may_occur_twice(tmp_path):
    path = write(tmp_path / "a.csv", "path,prompt", "a.png,red", "a.png,blue")
    assert [row.prompt for row in read_manifest(path).rows] == ["red", "blue"]


def test_a_folder_is_its_images_sorted_and_nothing_else(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    names = ("b/2.JPG", "b/1.png", "a.webp", "notes.txt", ".x.png", ".hidden/3.png")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    manifest = read_manifest(tmp_path, prompt="cat")
    assert [row.path for row in manifest.rows] == ["a.webp", "b/1.png", "b/2.JPG"]
    assert {row.prompt for row in manifest.rows} == {"cat"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"prompt": "red"}', "path is missing"),
        ('{"path": ""}', "path must name a file"),
        ('{"path": "a\\u0000.png"}', "path must name a file"),
        ('{"path": 3}', "path must name a file, got 3"),
        ('{"path": "a.png", "prompt": ["red"]}', "prompt: expected text"),
        ('{"path": "a.png", "guidance": NaN}', "finite number, got nan"),
        ('{"path": "a.png", "guidance": 1e999}', "finite number, got inf"),
        ('{"path": "a.png", "guidance": "3"}', "finite number, got '3'"),
        ('{"path": "a.png", "guidance": true}', "finite number, got True"),
        ('{"path": "a.png", "guidance": 1' + "0" * 400 + "}", "finite number"),
    ],
)
def test_a_wrong_line_of_jsonl_is_named(tmp_path, line, reason):
    path = write(tmp_path / "a.jsonl", '{"path": "a.png"}', line)
    with pytest.raises(ValueError, match="line 2: ") as error:
        read_manifest(path)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["prompt", "red"], "path among them; it starts with prompt"),
        (["path,path", "a,b"], "each once"),
        (["path,prompt", "a.png,red", "b.png"], "line 3: expected 2 cells"),
        (["path,prompt", "a.png,red,5"], "line 2: expected 2 cells"),
        (["path,guidance", "a.png,much"], "line 2: guidance: expected a finite number"),
        (["path,guidance", "a.png,nan"], "line 2: guidance: expected a finite number"),
        (["path,prompt", 'a.png,"red'], "line 2: unexpected end"),
        (["path,prompt", ",red"], "line 2: path is missing"),
        (["path"], "has no rows"),
        ([], "it starts with nothing"),
    ],
)
def test_a_wrong_csv_is_explained(tmp_path, lines, reason):
    with pytest.raises(ValueError, match=r"a\.csv") as error:
        read_manifest(write(tmp_path / "a.csv", *lines))
    assert reason in str(error.value)


def test_a_default_prompt_is_checked_as_those_of_rows(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"path": "a.png"}')
    for name in ("prompt", "negative_prompt"):
        with pytest.raises(ValueError, match=f"{name}: expected text"):
            read_manifest(path, **{name: "half a character: \ud83d"})


def test_of_many_wrong_lines_the_first_are_named_and_the_others_counted(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: .*line 5: .*; and 7 more"):
        read_manifest(write(tmp_path / "a.jsonl", *["{"] * 12))


def test_what_is_no_manifest_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        read_manifest(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"expected a \.jsonl or \.csv file"):
        read_manifest(write(tmp_path / "a.txt", "a.png"))
    with pytest.raises(ValueError, match="has no rows"):
        read_manifest(write(tmp_path / "a.jsonl", ""))
    with pytest.raises(ValueError, match="holds no images"):
        read_manifest(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(b'{"path": "\xff.png"}')
    with pytest.raises(ValueError, match="not UTF-8"):
        read_manifest(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("promt", "prompt"), ("Prompt", "prompt"),
        ("negative-prompt", "negative_prompt"),
        ("guidence", "guidance"), ("guidance_scale", "guidance"), ("pth", "path"),
        ("label", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_misspelt_column_is_an_error_that_names_the_right_one(
    tmp_path, kind, name, meant
):
    lines = {
        "jsonl": json.dumps({"path": "a.png", name: "1"}),
        "csv": f"path,{name}\na.png,1",
    }
    path = write(tmp_path / f"a.{kind}", lines[kind])
    with pytest.raises(ValueError, match=f"unknown column '{name}'") as caught:
        read_manifest(path)
    assert (f"did you mean '{meant}'?" in str(caught.value)) == (meant is not None)
    assert "--extra-columns" in str(caught.value)
    assert read_manifest(path, extra_columns=True).rows[0].path == "a.png"
