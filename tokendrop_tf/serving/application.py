"""The HTTP interface: what TF Serving's REST interface takes and answers."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import re
import urllib.parse
import zlib
from collections.abc import Sequence

from starlette import applications, requests, responses, routing

from tokendrop_tf.serving import batching, json_tensors, served_model, status

# As TF Serving reads paths (model_servers/http_rest_api_util.cc).
_MODEL = (
  r'(?i:/v1/models/(?P<model>[^/:]+))(?:/(?i:versions)/(?P<version>\d{1,19}))?'
)
_PREDICT_PATH = re.compile(_MODEL + r':(?i:predict)')
_STATUS_PATH = re.compile(_MODEL + r'(?P<metadata>/(?i:metadata))?')
_ALL_MODELS_PATH = re.compile(r'(?i:/v1/models)')
_API_PATH = re.compile(r'(?i:/v1/.*)')
_METHODS = ('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS')

# Of an oversized body, so much is read and forgotten: many clients only look at
# the response when they have sent all they have.
_DRAINED_BYTES = 2**28

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of a request.

  Attributes:
    max_request_bytes: of a body, as sent and uncompressed.
    max_instances: rows of one request.
    timeout_seconds: after which a request is given up.
  """

  max_request_bytes: int = 4 * 2**20
  max_instances: int = 1024
  timeout_seconds: float = 120.0


class RestInterface:
  """Answers the paths under /v1/models.

  POST NAME[/versions/V]:predict runs a model, GET NAME[/versions/V] tells its
  status, GET .../metadata its signatures; GET /v1/models lists the models (not
  so TF Serving). Whatever goes wrong is answered with `{"error": "..."}` and TF
  Serving's status.

  Args:
    models: what is served.
    limits: of a request.
    batching_settings: how concurrent requests are put together.
  """

  def __init__(
    self,
    models: Sequence[served_model.ServedModel],
    limits: Limits,
    batching_settings: batching.BatchingSettings,
  ):
    self._models = {model.name: model for model in models}
    self._limits = limits
    self._batchers = {
      model.name: batching.Batcher(model, batching_settings) for model in models
    }

  async def answer(self, request: requests.Request) -> responses.Response:
    """Answers one HTTP request."""
    try:
      return _json_response(await self._dispatch(request))
    except status.RequestError as error:
      return _error_response(str(error), error.http_status)
    except requests.ClientDisconnect:
      return _error_response('The client has gone.', 499)
    except Exception as error:
      _logger.exception('A request failed.')
      return _error_response(f'{type(error).__name__}: {error}', 500)

  async def _dispatch(self, request) -> bytes:
    path = _path_of(request)
    if request.method == 'POST':
      body = await self._read_body(request)
      match = _PREDICT_PATH.fullmatch(path)
      if match:
        return await self._predict(match, body)
    elif request.method == 'GET':
      match = _STATUS_PATH.fullmatch(path)
      if match:
        return self._describe(match)
      if _ALL_MODELS_PATH.fullmatch(path):
        return _dump({'models': [_listed(m) for m in self._models.values()]})
    raise status.RequestError(
      f'Malformed request: {request.method} {path}',
      400 if _API_PATH.fullmatch(path) else 404,
    )

  async def _predict(self, match, body) -> bytes:
    document = json_tensors.parse_document(body)
    signature = json_tensors.signature_name(document)
    model = self._model(match)
    form, inputs = json_tensors.read_tensors(
      document, model.input_specs(signature)
    )
    self._check_rows(inputs)
    try:
      outputs = await asyncio.wait_for(
        self._batchers[model.name].submit(signature, inputs),
        self._limits.timeout_seconds,
      )
    except asyncio.TimeoutError as error:
      raise status.RequestError(
        'Timed out waiting for notification', 504
      ) from error
    return json_tensors.write_tensors(outputs, form)

  def _check_rows(self, inputs):
    num_rows = len(next(iter(inputs.values())))
    if num_rows > self._limits.max_instances:
      raise status.RequestError(
        f'Task size {num_rows} is larger than maximum input batch size '
        f'{self._limits.max_instances}'
      )

  def _model(self, match) -> served_model.ServedModel:
    name, version = urllib.parse.unquote(match['model']), match['version']
    model = self._models.get(name)
    if model is None or version and int(version) != model.version:
      raise status.RequestError(
        f'A model must be among those served: {", ".join(self._models)}. '
        f'Received: {name}{f", version {version}" if version else ""}',
        404,
      )
    return model

  def _describe(self, match) -> bytes:
    model = self._model(match)
    if match['metadata']:
      return _dump(model.metadata)
    version_status = {
      'version': str(model.version),
      'state': 'AVAILABLE',
      'status': {'error_code': 'OK', 'error_message': ''},
    }
    return _dump({'model_version_status': [version_status]})

  async def _read_body(self, request) -> bytes:
    limit = self._limits.max_request_bytes
    encoding = request.headers.get('content-encoding', '').lower()
    body, num_bytes = bytearray(), 0
    async for chunk in request.stream():
      num_bytes += len(chunk)
      if num_bytes <= limit:
        body += chunk
      elif num_bytes > limit + _DRAINED_BYTES:
        break
    if num_bytes > limit:
      raise self._too_large()
    return self._unzip(body) if 'gzip' in encoding else bytes(body)

  def _unzip(self, body) -> bytes:
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
      text = unzip.decompress(body, self._limits.max_request_bytes + 1)
    except zlib.error as error:
      raise status.RequestError(
        f'Failed to uncompress the gzipped body: {error}'
      ) from error
    if len(text) > self._limits.max_request_bytes:
      raise self._too_large()
    return text

  def _too_large(self) -> status.RequestError:
    return status.RequestError(
      'Request body is larger than the maximum of '
      f'{self._limits.max_request_bytes} bytes',
      413,
    )

  async def close(self):
    """Ends what is in progress."""
    for batcher in self._batchers.values():
      await batcher.close()


def _listed(model) -> dict:
  return {'name': model.name, 'version': str(model.version)}


def _path_of(request) -> str:
  """Returns path and query as sent, which TF Serving takes together."""
  path = request.scope.get('raw_path', b'').decode('ascii', errors='replace')
  path = path.split('?')[0]
  query = request.scope.get('query_string', b'').decode('ascii', 'replace')
  return f'{path}?{query}' if query else path


def _dump(value) -> bytes:
  return json.dumps(value, indent=1).encode('utf-8')


def _json_response(body: bytes) -> responses.Response:
  return responses.Response(body, media_type='application/json')


def _error_response(message: str, http_status: int) -> responses.Response:
  # Cut-off bytes of a model's message could be no text.
  body = json.dumps({'error': message}).encode('utf-8')
  return responses.Response(
    body, status_code=http_status, media_type='application/json'
  )


def build_application(
  models: Sequence[served_model.ServedModel],
  limits: Limits | None = None,
  batching_settings: batching.BatchingSettings | None = None,
) -> applications.Starlette:
  """Returns the ASGI application that serves `models`.

  Example:
    models = [ServedModel(folder) for folder in find_models('exports/base')]
    uvicorn.run(build_application(models), host='127.0.0.1', port=8501)
  """
  interface = RestInterface(
    models,
    limits or Limits(),
    batching_settings or batching.BatchingSettings(),
  )

  @contextlib.asynccontextmanager
  async def lifespan(_):
    yield
    await interface.close()

  route = routing.Route(
    '/{path:path}', interface.answer, methods=list(_METHODS)
  )
  return applications.Starlette(routes=[route], lifespan=lifespan)
