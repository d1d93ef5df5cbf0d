"""The routes, a file a subject. Each has `router = APIRouter(prefix="/v1")`; `app.py` names them all."""
