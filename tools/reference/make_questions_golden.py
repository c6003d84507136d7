"""Makes tests/golden/data/questions.jsonl with the original's own generator, playground/eval_jsonl.py of FakeShield.

    make_questions_golden.py EVAL_JSONL.PY [--check] [OUT_DIR]

Its function is taken from the file (what follows it reads folders of the authors' machine); os.listdir, whose order the
original leaves to the file system, is sorted by the names' bytes. The folder is the one tests/cli/test_dataset.sh makes.
"""
import os
import sys
import tempfile
from pathlib import Path

source = Path(sys.argv[1]).read_text(encoding="utf-8")
check = "--check" in sys.argv
rest = [a for a in sys.argv[2:] if a != "--check"]
out_dir = Path(rest[0] if rest else Path(__file__).parent / "../../tests/golden/data").resolve()

scope = {}
exec(source[: source.index("folders = [")], scope)
NAMES = ["b.jpg", "a.PNG", "with space.jpeg", 'quo"te.bmp', "back\\slash.png", "ünïcode.webp", "😀.tif", "tab\there.jpg"]

listdir = os.listdir
os.listdir = lambda folder: sorted(listdir(folder), key=os.fsencode)
with tempfile.TemporaryDirectory() as where:
    os.chdir(where)
    os.makedirs("pics/sub")
    os.makedirs("more")
    os.rmdir("pics/sub")
    for name in NAMES:
        Path("pics", name).touch()
    for name in ["1.jpg", "2.jpg", "3.jpg"]:
        Path("more", name).touch()
    scope["generate_json"](["pics", "more/"], "all.jsonl", 99999)
    scope["generate_json"](["pics", "more/"], "two.jsonl", 2)
    bad = 0
    for made, kept in (("all.jsonl", "questions.jsonl"), ("two.jsonl", "questions_limit2.jsonl")):
        data = Path(made).read_bytes()
        if check:
            same = (out_dir / kept).read_bytes() == data
            print(kept, "is the same" if same else "DIFFERS")
            bad += not same
        else:
            out_dir.mkdir(parents=True, exist_ok=True)
            (out_dir / kept).write_bytes(data)
sys.exit(bool(bad))
