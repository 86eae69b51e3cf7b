"""The protocols of other systems, each a router of its own."""

from __future__ import annotations

from fastapi import APIRouter

from prm.serve.dialects import classify, llama_factory, openrlhf, sglang, slime, vllm

ROUTERS: tuple[APIRouter, ...] = (
    openrlhf.router,
    classify.router,
    vllm.router,
    sglang.router,
    llama_factory.router,
    slime.router,
)
"""Routers that the app includes."""
