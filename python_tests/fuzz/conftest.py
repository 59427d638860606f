def pytest_addoption(parser):
    group = parser.getgroup("sdgan_ext")
    group.addoption("--mutations", type=int, default=2000, help="of each file format that are read (python_tests/fuzz)")
    group.addoption("--examples", type=int, default=20, help="of each operator that are run (python_tests/fuzz)")
