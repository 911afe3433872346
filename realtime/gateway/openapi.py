"""The API's description of itself: OpenAPI 3.1, made from the Structs that the API answers with.

Law: what stands here is what the routes do; a test holds the two equal, path by path and status by status. What
publishers send is described by Structs of this file, which only describe: the judge is `realtime.updates`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from realtime.config import Config
from realtime.gateway.answers import Explained, Ready, Sessions
from realtime.gateway.body import JSON_TYPES, STREAM_TYPES
from realtime.gateway.problem import CutShort, Problem
from realtime.node import Result
from realtime.updates import ACCESS_PRINCIPALS_MAX, MIN_ZOOM_MAX, TTL_MAX_S
from realtime.values import ID_BYTES_MAX, VERSION_MAX

API_VERSION = "1"

Id = Annotated[str, Meta(min_length=1, max_length=ID_BYTES_MAX, description="1 to 128 bytes of UTF-8 without control characters.")]
Version = Annotated[int, Meta(ge=1, le=VERSION_MAX, description="Above every version that the entity had; absent: the node gives one.")]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Position = Annotated[list[float], Meta(min_length=2, max_length=3, description="Longitude, latitude, and if need be a third number.")]
Line = Annotated[list[Position], Meta(min_length=2)]
Ring = Annotated[list[Position], Meta(min_length=4, description="The last position is the first.")]
Kind = Annotated[str, Meta(min_length=1, max_length=ID_BYTES_MAX)]
MinZoom = Annotated[float, Meta(ge=0, le=MIN_ZOOM_MAX, description="Smallest zoom of a view that shows the entity.")]
Rank = Annotated[float, Meta(ge=0, le=1, description="Who is shown where a view is too full; lower is more important.")]
Access = Annotated[list[str], Meta(max_length=ACCESS_PRINCIPALS_MAX, description="Who may see it: public, user:ID or group:NAME.")]
Ttl = Annotated[float, Meta(gt=0, le=TTL_MAX_S, description="Seconds without an update after which it expires.")]


# Geometries


class Point(Struct, tag="Point"):
    coordinates: Position


class MultiPoint(Struct, tag="MultiPoint"):
    coordinates: Annotated[list[Position], Meta(min_length=1)]


class LineString(Struct, tag="LineString"):
    coordinates: Line


class MultiLineString(Struct, tag="MultiLineString"):
    coordinates: Annotated[list[Line], Meta(min_length=1)]


class Polygon(Struct, tag="Polygon"):
    coordinates: Annotated[list[Ring], Meta(min_length=1)]


class MultiPolygon(Struct, tag="MultiPolygon"):
    coordinates: Annotated[list[Annotated[list[Ring], Meta(min_length=1)]], Meta(min_length=1)]


Geometry = Point | MultiPoint | LineString | MultiLineString | Polygon | MultiPolygon


# What publishers send


class Upsert(Struct, tag="Feature"):
    """The whole entity, as a GeoJSON Feature; what it does not name takes its default."""

    id: Id
    geometry: Geometry
    properties: dict[str, Any] | None = None
    version: Version | None = None
    kind: Kind | None = None
    min_zoom: MinZoom | None = None
    rank: Rank | None = None
    access: Access | None = None
    ttl: Ttl | None = None


class Patch(Struct, tag="patch", tag_field="op"):
    """Sets what it names: each property whole, null removes it; null elsewhere is the default."""

    id: Id
    geometry: Geometry | UnsetType = UNSET
    properties: dict[str, Any] | UnsetType | None = UNSET
    version: Version | None = None
    kind: Kind | UnsetType | None = UNSET
    min_zoom: MinZoom | UnsetType | None = UNSET
    rank: Rank | UnsetType | None = UNSET
    access: Access | UnsetType | None = UNSET
    ttl: Ttl | UnsetType | None = UNSET


class Move(Struct, tag="move", tag_field="op"):
    """Makes the entity's geometry this Point."""

    id: Id
    lon: Longitude
    lat: Latitude
    version: Version | None = None


class Delete(Struct, tag="delete", tag_field="op"):
    """Deletes the entity, known or not."""

    id: Id
    version: Version | None = None


# What is there


class Feature(Struct, tag="Feature"):
    """An entity as clients see it."""

    id: str
    version: int
    geometry: Geometry
    properties: dict[str, Any]
    kind: str | UnsetType = UNSET


class FeatureCollection(Struct, tag="FeatureCollection"):
    """Entities, ordered by id."""

    features: list[Feature]


_SCHEMAS = (Problem, CutShort, Result, Sessions, Explained, Ready, Upsert, Patch, Move, Delete, Feature, FeatureCollection)
_UPDATE = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Upsert", "Patch", "Move", "Delete")]}
_BATCH = {
    "anyOf": [
        *_UPDATE["anyOf"],
        {
            "type": "object",
            "required": ["type", "features"],
            "properties": {"type": {"const": "FeatureCollection"}, "features": {"type": "array", "items": _UPDATE}},
        },
        {"type": "object", "required": ["updates"], "properties": {"updates": {"type": "array", "items": _UPDATE}}},
    ]
}
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": ID_BYTES_MAX}}
_BBOX = {
    "name": "bbox",
    "in": "query",
    "description": "west,south,east,north in degrees; absent: everywhere. Across the antimeridian, east is above 180.",
    "schema": {"type": "string"},
    "example": "-97.9,30.1,-97.5,30.5",
}
_ZOOM = {"name": "zoom", "in": "query", "schema": {"type": "number", "minimum": -64, "maximum": 64, "default": 24}}
_DURABLE = {
    "name": "durable",
    "in": "query",
    "description": "1: answer only once a store has what was accepted.",
    "schema": {"type": "string", "enum": ["0", "1"], "default": "0"},
}
_FILTER = {
    "name": "filter",
    "in": "query",
    "description": "A filter expression, as JSON.",
    "content": {"application/json": {"schema": {}, "example": ["==", ["kind"], "bus"]}},
}


def _query(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": True, "description": description, "schema": {"type": "string"}}


def _content(name: str, *kinds: str) -> dict[str, Any]:
    return {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}} for kind in kinds or ("application/json",)}


def _either(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"anyOf": [{"$ref": f"#/components/schemas/{name}"}, {"$ref": "#/components/schemas/Problem"}]}}}


# What every route may answer; see `realtime.gateway.guard`.
_ALWAYS = {
    400: "The request is malformed, or a part of it is out of its range.",
    403: "Host is not a name of this server, or the page at Origin may not call it.",
    431: "The head has too many headers or bytes.",
    503: "As many requests as `http.requests` are being served.",
}


def _operation(summary: str, answers: dict[int, Any], also: dict[int, str] | None = None, **more: Any) -> dict[str, Any]:
    """Return an operation: `answers` are its contents by status, `also` the problems that it may answer with."""
    responses = {str(status): {"description": "Done.", "content": content} for status, content in answers.items()}
    for status, meaning in (_ALWAYS | (also or {})).items():
        responses[str(status)] = {"description": meaning, "content": _content("Problem")}
    return {"summary": summary, "responses": responses, **more}


def _paths(config: Config) -> dict[str, Any]:
    unknown = {404: "There is no such entity."}
    text: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "/v1/updates": {"post": _publish(config)},
        "/v1/entities": {
            "get": _operation(
                "What is in a box",
                {200: _content("FeatureCollection", "application/geo+json")},
                parameters=[_BBOX, _ZOOM, _FILTER],
            )
        },
        "/v1/entities/{id}": {
            "get": _operation("One entity", {200: _content("Feature", "application/geo+json")}, unknown, parameters=[_ID]),
            "delete": _operation("Delete an entity", {200: _content("Result")}, unknown, parameters=[_ID]),
        },
        "/v1/sessions": {"get": _operation("Who is looking", {200: _content("Sessions")})},
        "/v1/explain": {
            "get": _operation(
                "Why a session sees an entity or does not",
                {200: _content("Explained")},
                {404: "There is no such session."},
                parameters=[_query("session", "A session's name."), _query("entity", "An entity's id.")],
            )
        },
        "/v1/openapi.json": {"get": _operation("This document", {200: {"application/json": {"schema": {"type": "object"}}}})},
        "/healthz": {"get": _operation("The process answers", {200: text})},
        "/readyz": {"get": _ready()},
        "/metrics": {"get": _operation("Metrics in Prometheus' text format", {200: text})},
    }


def _ready() -> dict[str, Any]:
    operation = _operation("The node takes updates and viewers", {200: _content("Ready")})
    operation["responses"]["503"] = {
        "description": "The world is not whole yet, or as many requests as `http.requests` are being served.",
        "content": _either("Ready"),
    }
    return operation


def _publish(config: Config) -> dict[str, Any]:
    http = config.http
    body: dict[str, Any] = {kind: {"schema": _BATCH} for kind in JSON_TYPES}
    body |= {kind: {"schema": {"type": "string", "minLength": 1}} for kind in STREAM_TYPES}
    operation = _operation(
        "Publish updates",
        {200: _content("Result")},
        {411: "The body has no length and is not chunked.", 415: "Content-Type or Content-Encoding is not supported."},
        description=f"JSON of at most {http.body_bytes} bytes is applied once it is all there; "
        f"a stream of one update per line, of at most {http.ndjson_bytes} bytes, as it arrives.",
        parameters=[_DURABLE],
        requestBody={"required": True, "content": body},
    )
    for status, meaning in (
        (400, "The body is empty, no JSON, of another form, or broke off."),
        (408, f"Nothing came for {http.body_timeout_s:g} seconds; what of a stream came before is applied."),
        (413, "The body is too long; what of a stream came before is applied."),
        (503, "As many requests as `http.requests` are being served, or what was to be durable is applied here and in no store."),
    ):
        operation["responses"][str(status)] = {"description": meaning, "content": _either("CutShort")}
    return operation


def document(config: Config) -> dict[str, Any]:
    """Return the document for a configuration."""
    _, schemas = msgspec.json.schema_components(_SCHEMAS, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "realtime", "version": API_VERSION, "description": _ABOUT},
        "paths": _paths(config),
        "components": {"schemas": schemas},
    }


_ABOUT = "The operator's API of a server for live maps: publishing, looking things up, metrics. It has no authentication of its own."
