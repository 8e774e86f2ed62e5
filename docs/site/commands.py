"""Write the reference of the command line, from the commands themselves."""

import html

import mkdocs_gen_files
import typer.cli
import typer.main

from jaxinv.cli import app

app.rich_markup_mode = None  # brackets are text
command = typer.main.get_command(app)
with command.make_context("jaxinv", [], resilient_parsing=True) as context:
    text = typer.cli.get_docs_for_click(
        obj=command, ctx=context, name="jaxinv", title="Commands"
    )
with mkdocs_gen_files.open("commands.md", "w") as file:
    file.write(html.unescape(text))
