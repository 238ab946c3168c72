"""The control plane: `/v1`, health, metrics and documentation over Starlette."""

from meshway.edges.rest.app import build_rest_app
from meshway.edges.rest.services import AgentUseCases, HubStatus, RestServices
from meshway.edges.rest.settings import RestSettings

__all__ = ["AgentUseCases", "HubStatus", "RestServices", "RestSettings", "build_rest_app"]
