"""The layout: what is public cannot be confused with where it is defined."""

import importlib
import pkgutil
from types import ModuleType

import pytest

import llm_bridge
import rlhf_theory

PACKAGES = [
    module.name
    for root in (rlhf_theory, llm_bridge)
    for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")
    if module.ispkg
]


@pytest.mark.parametrize("name", PACKAGES)
def test_no_public_name_of_a_package_is_that_of_one_of_its_modules(name):
    """Whoever imports the module, such as a test runner, would put it in the place of the thing."""
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    public = set(getattr(package, "__all__", ()))
    taken = {n for n in public & modules if not isinstance(getattr(package, n), ModuleType)}
    assert taken == set()
