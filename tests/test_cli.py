import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest

import ovparts_lib
from ovparts_lib import cli
from ovparts_lib.runs import RunFolder
from ovparts_lib.runs.parameters import MINIATURE_ROOT, StartHereParameters
from ovparts_lib.runs.project import package_parent

READ = """from ovparts_lib.runs import RunFolder, read_parameters
params = read_parameters("00_start_here")
folder = RunFolder.open(params)
if params.data_root == "sleep":
    import os, time
    (folder.path / "kernel").write_text(str(os.getpid()))
    time.sleep(300)
if params.data_root == "fail":
    raise ValueError("as asked")
if params.data_root == "talk":
    import time
    for number in range(20):
        print(number, flush=True)
        time.sleep(0.02)
row = {"label": "after training", "mode": "oracle_obj", "protocol": "recommended"}
folder.finish({"headline": [row | {"seen": 40.0, "unseen": 10.0, "harmonic": 16.0}]})
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with one notebook and one parameter file; the working directory is elsewhere."""
    project = tmp_path / "project"
    for folder in (project / "notebooks", project / "params" / "miniature", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("OVPARTS_ROOT", str(project))
    monkeypatch.chdir(tmp_path / "elsewhere")
    parameters = nbformat.v4.new_code_cell(
        f'setting = "miniature"\nrun = "start"\ndata_root = "{MINIATURE_ROOT}"', metadata={"tags": ["parameters"]}
    )
    cells = [parameters, nbformat.v4.new_code_cell(READ)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), project / "notebooks" / "00_start_here.ipynb")
    (project / "params" / "miniature" / "start.yaml").write_text(
        "notebook: 00_start_here\nsetting: miniature\nrun: start\n"
    )
    return project


START = "params/miniature/start.yaml"
LONG = "é" * 140


def ovparts(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "ovparts_lib.cli", *arguments],
        env=os.environ | {"PYTHONPATH": str(package_parent())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_help_is_quick_and_shows_examples():
    code = (
        "import sys; from ovparts_lib import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: print('heavy:', {'torch', 'pandas', 'papermill', 'pydantic', 'IPython'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package_parent(), capture_output=True, text=True, check=True
    )
    assert "heavy: set()" in done.stdout
    for word in ("ovparts demo", "ovparts run params/", "exit codes:", "resum"):
        assert word in done.stdout + cli._run.__doc__


@pytest.mark.parametrize("command", ["run", "demo", "verify", "runs", "report", "submit"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    assert "--traceback" in capsys.readouterr().out


def test_version_and_wrong_usage(capsys):
    for arguments, code in ((["--version"], 0), ([], 2), (["fly"], 2), (["run"], 2)):
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        assert exit_.value.code == code
    assert f"ovparts {ovparts_lib.__version__}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["run", "nowhere.yaml"], 2, "nowhere.yaml: there is no such parameter file"),
        (["run", START, "--set", "sample=3"], 2, "sample: unknown parameter; did you mean `samples`?"),
        (["run", START, "--set", "samples=few"], 2, "samples = 'few': expected a whole number"),
        (["demo", "nowhere.yaml"], 2, "nowhere.yaml: there is no such parameter file"),
        (["report"], 1, "there are no runs in "),
        (["submit", START, "--set", "sample=3"], 2, "did you mean `samples`?"),
        (["run", "params"], 2, "params: is a folder; name a parameter file"),
        (["params", "params/empty.yaml"], 2, "empty.yaml: the file is empty"),
        (["submit", "params/binary.yaml"], 2, "binary.yaml: cannot be read"),
        (["verify", "https://example.org/data"], 1, "https://example.org/data is an address"),
        (["prepare", "ade20k_150", "https://example.org/data", "."], 1, "https://example.org/data is an address"),
        (["train-miniclip", "nowhere/miniclip.safetensors"], 1, "nowhere"),
        (["train-miniclip", "miniclip.json"], 1, "expected the name of a .safetensors file"),
        (["train-miniclip", f"{'n' * 240}.safetensors"], 2, "shorten it"),
        (["run", LONG], 2, f"{LONG}: File name too long; shorten it (file systems take 255 bytes for a name)"),
        (["run", START, "--set", f"outputs={LONG}"], 2, f"{LONG}/miniature/start: File name too long; shorten it"),
        (["report", "--outputs", LONG], 2, f"{LONG}: File name too long; shorten it"),
        (["verify", LONG], 2, f"{LONG}: File name too long; shorten it"),
    ],
)
def test_one_clear_line_for_an_error(root, capsys, arguments, code, expected):
    (root / "params" / "empty.yaml").touch()
    (root / "params" / "binary.yaml").write_bytes(bytes(range(128, 256)))
    assert cli.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("ovparts: ")
    assert expected in error
    assert error.count("\n") == 1


def test_a_name_of_our_own_that_is_too_long_is_no_wrong_use(root, capsys, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENAMETOOLONG, "File name too long", "/deep/figures/overlay_a.png")

    monkeypatch.setattr("ovparts_lib.runs.listing.find_runs", refuse)
    assert cli.main(["runs"]) == 1
    assert "overlay_a.png: File name too long; work in a folder with a shorter path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demo", "--jobs", "0"], "--jobs: expected a whole number of at least 1, not '0'"),
        (["submit", START, "--gpus", "-1"], "--gpus: expected a whole number of at least 0, not '-1'"),
        (["submit", START, "--memory", "1.5"], "--memory: expected a whole number of at least 1, not '1.5'"),
        (["submit", START, "--hours", "nan"], "--hours: expected a number of at least 0, not 'nan'"),
        (["train-miniclip", "x", "--iterations", "1e3"], "--iterations: expected a whole number of at least 1"),
        (["prepare", "pascal_part_116", ".", "."], "invalid choice: 'pascal_part_116'"),
    ],
)
def test_wrong_numbers_and_names_are_refused_by_their_option(capsys, arguments, expected):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2 and expected in capsys.readouterr().err


def test_traceback_for_developers(root, capsys):
    assert cli.main(["run", "nowhere.yaml", "--traceback"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_conflicts_and_locks_have_exit_codes_of_their_own(root, capsys):
    params = StartHereParameters(setting="miniature", run="start")
    folder = RunFolder.open(params)
    holding = ovparts("run", START)
    _, error = holding.communicate(timeout=60)
    assert holding.returncode == 3
    assert f"process {os.getpid()} on" in error
    (folder.checkpoints / "step_1.pt").write_text("hours of work")
    folder.close()
    assert cli.main(["run", START, "--set", "samples=9"]) == 2
    assert "samples: 8 there, 9 now" in capsys.readouterr().err


def test_demo_runs_reports_and_is_reused(root, capfd, monkeypatch):
    assert cli.main(["demo"]) == 0
    printed = capfd.readouterr().out
    assert "1 of 1: 00_start_here (params/miniature/start.yaml)" in printed
    assert "Protocol recommended, mIoU in percent" in printed
    assert "after training oracle_obj 40.0 10.0 16.0" in " ".join(printed.split())
    page = root / "outputs" / "report.html"
    assert printed.rstrip().endswith(f"Report: {page.as_uri()}")
    assert "start" in page.read_text()

    assert cli.main(["demo"]) == 0
    assert "complete after" in capfd.readouterr().out  # it collects what there is, so it is done again
    monkeypatch.setattr(StartHereParameters, "reuse", True)
    assert cli.main(["demo"]) == 0
    assert "is complete already" in capfd.readouterr().out
    assert cli.main(["runs"]) == 0
    assert "miniature  start  00_start_here  complete" in capfd.readouterr().out
    assert cli.main(["report", "--setting", "miniature", "--to", "here.html"]) == 0
    assert (root.parent / "elsewhere" / "here.html").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_shuts_the_kernel_down(root, number, code):
    process = ovparts("run", START, "--set", "data_root=sleep", start_new_session=True)
    kernel = root / "outputs" / "miniature" / "start" / "kernel"
    deadline = time.monotonic() + 60
    while not (kernel.exists() and kernel.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "00_start_here was stopped after" in error
    assert "run it again with: ovparts run params/miniature/start.yaml --set data_root=sleep" in error
    assert "[IPKernelApp]" not in error
    with pytest.raises(ProcessLookupError):
        os.kill(int(kernel.read_text()), 0)
    assert (kernel.parent / "notebook.failed.ipynb").is_file()


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_prepare_prints_the_report(root, monkeypatch, capsys, ok, code):
    def prepare(name, source, target, *, progress):
        assert (name, source, target) == ("ade20k_part_234", root / "release", root / "datasets")
        return SimpleNamespace(ok=ok, to_markdown=lambda: "230 of 234 parts found")

    module = ModuleType("ovparts_lib.data.prepare")
    module.prepare_dataset = prepare
    monkeypatch.setitem(sys.modules, "ovparts_lib.data", ModuleType("ovparts_lib.data"))
    monkeypatch.setitem(sys.modules, "ovparts_lib.data.prepare", module)
    assert cli.main(["prepare", "ade20k_part_234", "release", "datasets"]) == code
    assert "230 of 234 parts found" in capsys.readouterr().out


@pytest.mark.parametrize(("ok", "code", "terminal"), [(True, 0, True), (False, 1, False)])
def test_verify_prints_the_report(root, monkeypatch, capsys, ok, code, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)

    def verify(dataset, folder, progress):
        assert (dataset, folder) == ("pascal_part_116", root / "datasets")
        assert progress is terminal
        return SimpleNamespace(ok=ok, to_markdown=lambda: "| file | what |")

    module = ModuleType("ovparts_lib.data.registry")
    module.verify_dataset = verify
    monkeypatch.setitem(sys.modules, "ovparts_lib.data", ModuleType("ovparts_lib.data"))
    monkeypatch.setitem(sys.modules, "ovparts_lib.data.registry", module)
    assert cli.main(["verify", "datasets"]) == code
    assert "| file | what |" in capsys.readouterr().out


@pytest.mark.parametrize("talks", [True, False])
def test_a_run_whose_reader_leaves_goes_on_and_its_exit_code_is_true(root, talks):
    """``ovparts run … | head -1``"""
    process = ovparts("run", START, *(["--set", "data_root=talk"] if talks else []))
    process.stdout.readline()
    process.stdout.close()
    code = process.wait(120)
    complete = (root / "outputs" / "miniature" / "start" / "results.json").exists()
    assert (code, complete) == (0, True)
    process.stderr.close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["run", START], 0), (["run", START, "--set", "data_root=fail"], 1), (["run", "nowhere.yaml"], 2)],
)
def test_the_exit_code_is_true_where_nobody_reads_what_went_wrong(root, arguments, code):
    """``ovparts run … 2>&1 | head -0``"""
    process = ovparts(*arguments)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(120) == code


def test_a_list_whose_reader_leaves_is_no_failure(root, monkeypatch, capsys):
    def gone(*arguments, **options):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "silence", lambda stream: None)
    monkeypatch.setattr("ovparts_lib.runs.listing.find_runs", gone)
    monkeypatch.setattr("ovparts_lib.data.registry.verify_dataset", gone)
    assert cli.main(["runs"]) == cli.COMPLETE
    assert cli.main(["verify", "."]) == cli.FAILED


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_demos_runs_end_with_it(root, tmp_path, number):
    """Sent to the demo alone, as a scheduler does; it passes the signal on, and what it started does not outlive it."""
    folders = []
    for name in ("first", "second"):
        file = root / "params" / "miniature" / f"{name}.yaml"
        file.write_text(f"notebook: 00_start_here\nsetting: miniature\nrun: {name}\ndata_root: sleep\n")
        folders.append(root / "outputs" / "miniature" / name)
    files = [str(file) for file in (root / "params" / "miniature").glob("*nd.yaml")] + [
        str(file) for file in (root / "params" / "miniature").glob("first.yaml")
    ]
    code = (
        "import sys; from pathlib import Path; from ovparts_lib import cli; from ovparts_lib.runs import batch\n"
        "batch.plan = lambda runs: [list(runs)]\nsys.exit(cli.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--jobs", "2", *files],
        env=os.environ | {"PYTHONPATH": str(package_parent())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not all((folder / "kernel").exists() for folder in folders):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    expected = {signal.SIGTERM: cli.TERMINATED, signal.SIGINT: cli.INTERRUPTED, signal.SIGKILL: -signal.SIGKILL}
    assert process.wait(120) == expected[number]
    for folder in folders:
        while Path(f"/proc/{(folder / 'kernel').read_text()}/stat").exists():
            assert time.monotonic() < deadline + 60, "a kernel lives on"
            time.sleep(0.1)


@pytest.mark.parametrize("module", ["ovparts_lib.cli", "ovparts_lib.data.registry", "ovparts_lib.runs"])
def test_what_the_command_line_reads_first_imports_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=package_parent(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
