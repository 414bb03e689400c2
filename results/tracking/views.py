"""Saved views of the MLflow page: which runs, columns and charts it shows, and in which order.

MLflow's page keeps a view as an experiment tag, `mlflow.sharedViewState.<key>`, and opens it if its address contains
`viewStateShareKey=<key>`; the menu "Views" of the page lists it, too. The format is that of the page's own code and may
change, so `views.json` states the version that it was made with, and another version gets no view.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from results.tracking.store import reason

TAG = "mlflow.sharedViewState."
PREFIX = "emotion-"  # of the keys, so that views of a user are not overwritten
TRIALS = 1000  # the newest trials, from which the axes of the parallel coordinates are chosen
AXES = 8
_LINE = {"useGlobalXaxisKey": False, "useGlobalLineSmoothing": False, "lineSmoothness": 0}


@dataclass(frozen=True)
class Page:
    """A page of an experiment.

    Attributes:
        address: Its address after that of the server.
        about: What it shows.
    """

    address: str
    about: str


def experiment_pages(client: MlflowClient, experiment_id: str) -> list[Page]:
    """Store the views of an experiment, and return its pages, the one to open first.

    With another version of MLflow than that of the views, or where nothing can be written, there is one page, without a
    view.

    Args:
        client: Client of the store.
        experiment_id: The experiment.
    """
    base = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    stored = _stored()
    if not mlflow.__version__.startswith(f"{stored['mlflow']}."):
        return [Page(base, "all runs, newest first")]
    trials = client.search_runs([experiment_id], "tags.kind = 'trial'", max_results=TRIALS)
    pages = []
    for key, view in stored["views"].items():
        if key == "trials" and not trials:
            continue
        content = _envelope(view, _state(stored, key, trials))
        try:
            client.set_experiment_tag(experiment_id, f"{TAG}{PREFIX}{key}", content)
        except MlflowException as error:  # a database that may only be read
            return [Page(base, f"all runs, newest first (views cannot be stored: {reason(error)})")]
        mode = "" if view["mode"] == "TABLE" else f"&compareRunsMode={view['mode']}"
        pages.append(Page(f"{base}&viewStateShareKey={PREFIX}{key}{mode}", view["about"]))
    return pages


def _stored() -> dict[str, Any]:
    content = files("results.tracking").joinpath("views.json").read_text(encoding="utf-8")
    return dict(json.loads(content))


def _state(stored: Mapping[str, Any], key: str, trials: list[Run]) -> dict[str, Any]:
    """Return the state of the page: filter, order, columns, charts and their sections."""
    view = stored["views"][key]
    axes = parallel_axes(trials)
    columns = {f"params.`{name}`": 130 for name in axes} if key == "trials" else {}
    columns = {**stored["trial_columns"], **columns} if key == "trials" else stored["columns"]
    charts = [
        {
            "uuid": f"{PREFIX}chart-{number}",
            "metricSectionId": f"{PREFIX}section",
            "runsCountToCompare": 100,
            "deleted": False,
            "isGenerated": False,
            **({"selectedParams": axes, "showAllRuns": True} if chart["type"] == "PARALLEL" else _LINE),
            **chart,
        }
        for number, chart in enumerate(stored["charts"])
        if chart["type"] != "PARALLEL" or axes
    ]
    if key == "trials":
        charts.reverse()
    sections: list[dict[str, Any]] = [{"uuid": f"{PREFIX}section", "name": "Training and search", "display": True}]
    sections += [{"uuid": f"{PREFIX}{name}", "name": name, "display": False} for name in stored["folded_sections"]]
    sections[0] |= {"columns": view["charts_a_row"], "cardHeight": 420}
    return {
        "searchFilter": view["filter"],
        "orderByKey": view["sort"],
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
        "isAccordionReordered": True,
        "compareRunCharts": charts,
        "compareRunSections": [
            {**one, "isReordered": True, "deleted": False, "isGenerated": False} for one in sections
        ],
    }


def parallel_axes(trials: list[Run]) -> list[str]:
    """Return the options that vary between the trials of the newest search and that all of them have, at most eight."""
    if not trials:
        return []
    newest = trials[0].data.tags.get("mlflow.parentRunId")
    options = [dict(run.data.params) for run in trials if run.data.tags.get("mlflow.parentRunId") == newest]
    common = set.intersection(*(set(each) for each in options))
    return sorted(name for name in common if len({each[name] for each in options}) > 1)[:AXES]


def _envelope(view: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Return the value of the tag; compressed, since some databases keep 5000 characters."""
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": view["name"], "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})
