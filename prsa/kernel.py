"""How the Jupyter kernel `prsa` (``kernel.json``) comes into an environment: with the package, editable or not.

Used by setuptools only, see pyproject.toml. Jupyter puts the Python of its own environment in the place of "python".
"""

from setuptools.command.editable_wheel import editable_wheel


class EditableWheel(editable_wheel):
    """An editable install that brings its data files: setuptools asks for ``has_data``, which nothing defines."""

    def initialize_options(self):
        super().initialize_options()
        self.distribution.has_data = self.distribution.has_data_files
