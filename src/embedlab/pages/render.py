"""Self-contained HTML pages: each is one file that needs no other file and no network.

In: values for a template of `templates/`. Out: the text of a page. MLflow's artifact viewer shows a
page in a sandboxed frame, where its scripts run, but `localStorage` is blocked.
"""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

FOLDER = Path(__file__).parent


def render_page(template: str, **values: object) -> str:
    """The page of a template, with `values` escaped as HTML.

    Raises jinja2.UndefinedError for a value that the template needs and does not get.
    """
    loader = FileSystemLoader([FOLDER / "templates", FOLDER / "vendor"])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.globals["file"] = lambda name: Markup(loader.get_source(environment, name)[0])
    return environment.get_template(template).render(values)


def webp_data_url(image: Image.Image, quality: int) -> str:
    """The image as a data URL, `data:image/webp;…`, to be embedded in a page."""
    file = io.BytesIO()
    image.save(file, "webp", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
