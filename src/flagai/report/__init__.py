"""The HTML report and the model card of a run, made from one plain dict. It knows no model, no torch and no network."""

from __future__ import annotations

from flagai.report.card import model_card
from flagai.report.page import render, save
from flagai.report.schema import REPORT_VERSION, Report

__all__ = ["REPORT_VERSION", "Report", "model_card", "render", "save"]
