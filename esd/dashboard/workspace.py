"""The workspace's definition: which panels read which keys of a run."""

from __future__ import annotations

from esd import UserError

# Every key that a panel reads: what a run logs (erasure.py, callbacks.py, verdict.py), and of its configuration
# (loggers.flat). The tests hold them against an offline run.
SCATTER = ("erased/seen", "kept/objects", "kept/distance")
CURVES = {
    "Loss": ["train/loss"],
    "Loss by quarter of the schedule": [f"train/loss_t{t}-{t + 250}" for t in (0, 250, 500, 750)],
    "Gradient norm": ["train/gradient_norm"],
}
CHOICES = ("eta", "layers", "trajectories", "lr", "steps")
OUTCOMES = ("erased/seen", "erased/seen_styled", "kept/lookalikes", "kept/objects", "kept/styles", "kept/distance")
GRID = "grid/before_after"
STEP = "trainer/global_step"  # of the optimiser, as Lightning logs it; W&B's own counts what was logged
COLUMNS = [
    "run:displayName", *(f"config:{key}" for key in ("concept", *CHOICES)),
    *(f"summary:{key}" for key in (*OUTCOMES, "lost", "score", "train/seconds")),
]  # fmt: skip


def workspace(entity: str, project: str):
    """The workspace, unsaved. Raises UserError where wandb-workspaces is missing."""
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(f"wandb-workspaces is not installed ({error}): pip install 'erased-diffusion[dashboard]'") from error

    def explained(name: str, text: str, *shown) -> ws.Section:
        return ws.Section(name=name, panels=[panels.MarkdownPanel(markdown=text), *shown], is_open=True)

    seen, kept, moved = (panels.SummaryMetric(key) for key in SCATTER)
    layers = panels.Config("layers")
    columns = [panels.ParallelCoordinatesPlotColumn(metric=panels.Config(key), log=key == "lr") for key in CHOICES]
    columns += [panels.ParallelCoordinatesPlotColumn(metric=panels.SummaryMetric(key)) for key in OUTCOMES]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Erasures",
        sections=[
            explained(
                "Erased and kept",
                "Each dot is a run: how often the judge still sees the concept (left is better) against how often the other "
                "objects are still right (up is better). The table of runs is at the left, with the same figures.",
                panels.ScatterPlot(title="Still seen against kept", x=seen, y=kept),
                panels.ScatterPlot(title="Still seen against how far the rest moved", x=seen, y=moved),
            ),
            explained(
                "What made the difference",
                "Follow a line from the settings of a run to its figures; drag along an axis to keep some of the runs. "
                "Importance says which setting tells most about the score, kept − seen.",
                panels.ParallelCoordinatesPlot(title="Settings and figures", columns=columns),
                panels.ParameterImportancePlot(with_respect_to="score"),
                panels.RunComparer(diff_only="split"),
            ),
            explained(
                "Before and after",
                "The same prompts and the same noise, the base model above the edit. Move the slider to see it happen.",
                panels.MediaBrowser(title="Before over after", media_keys=[GRID], num_columns=1),
            ),
            explained(
                "Training",
                "The loss falls as the student learns what it is to say in place of the concept. A rising loss or a growing "
                "gradient asks for a smaller lr. By quarter: time step 1000 is noise, 0 the picture.",
                *(panels.LinePlot(title=title, x=STEP, y=keys, groupby=layers) for title, keys in CURVES.items()),
            ),
        ],
        runset_settings=ws.RunsetSettings(
            order=[ws.Ordering(ws.Summary("score"), ascending=False)],
            pinned_columns=COLUMNS,
        ),
        settings=ws.WorkspaceSettings(x_axis=STEP),
    )  # fmt: skip
