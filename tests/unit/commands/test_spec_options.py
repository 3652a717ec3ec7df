"""A figure's settings are said once: the command has an option for each."""

import typer
import typer.main

from rlhf_theory.cli import application
from rlhf_theory.commands.spec_options import PlotCommand
from rlhf_theory.studies.plot_specs import PlotSpec


def test_every_setting_of_a_figure_is_an_option_with_a_word_about_it():
    group = typer.main.get_command(application())
    command = group.commands["plot"]
    assert isinstance(command, PlotCommand)
    options = {p.name: p for p in command.get_params(typer.Context(command))}
    assert set(PlotSpec.model_fields) <= set(options)
    for name in PlotSpec.model_fields:
        assert options[name].help, name
    assert "relative" in options
    assert options["window"].nargs == 2
    assert "simultaneous" in options["band"].metavar
    assert "frontier" in options["kind"].metavar
