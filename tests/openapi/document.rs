//! The whole document: OpenAPI 3.1, whose schemas are plain JSON Schema, so that a reference may have a description beside it.

use chat_service::transport::gateway::descriptors;
use chat_service::transport::gateway::routes::{Route, Routes};
use prost_reflect::FieldDescriptor;
use serde_json::{Map, Value, json};

use crate::schemas::{Place, Schemas};
use crate::{comments, examples, rules};

/// What may be answered beside 200: always, and where the request has a body.
const ALWAYS: [u16; 6] = [400, 401, 403, 429, 503, 504];
const WITH_BODY: [u16; 2] = [413, 415];
/// What more an RPC may answer; the proto's comments say it in words.
const MORE: [(&str, &[u16]); 8] = [
    ("CreateChat", &[404, 409]),
    ("GetChat", &[404]),
    ("ListChats", &[]),
    ("DeleteChat", &[404]),
    ("AddMembers", &[404]),
    ("RemoveMember", &[404]),
    ("SendMessage", &[404, 409]),
    ("ListMessages", &[404]),
];

/// HTTP code, the name of its component, what it means, and an example: gRPC's code, reason, and message.
const ERRORS: [(u16, &str, &str, i32, &str, &str); 10] = [
    (
        400,
        "Invalid",
        "The request is not valid (INVALID_ARGUMENT, with the fields in a BadRequest), not possible as things are (FAILED_PRECONDITION) or out of range (OUT_OF_RANGE).",
        3,
        "INVALID_FIELDS",
        "text: must not be blank",
    ),
    (
        401,
        "Unauthenticated",
        "There is no token, or none that is valid (UNAUTHENTICATED).",
        16,
        "TOKEN_EXPIRED",
        "the token has expired; get a new one",
    ),
    (403, "Denied", "The caller may not do this (PERMISSION_DENIED).", 7, "ROLE_TOO_LOW", "your role does not allow this"),
    (
        404,
        "NotFound",
        "There is no such chat or member, or the caller may not know of it (NOT_FOUND).",
        5,
        "CHAT_NOT_FOUND",
        "there is no such chat",
    ),
    (
        409,
        "AlreadyExists",
        "The id was used before, with other contents (ALREADY_EXISTS).",
        6,
        "CLIENT_MESSAGE_ID_TAKEN",
        "the id was used for another text",
    ),
    (
        413,
        "BodyTooLarge",
        "The body is larger than 256 KiB (OUT_OF_RANGE).",
        11,
        "BODY_TOO_LARGE",
        "the request's body is larger than 256 KiB",
    ),
    (
        415,
        "ContentType",
        "The body is not said to be JSON in UTF-8 (INVALID_ARGUMENT).",
        3,
        "CONTENT_TYPE",
        "this path takes another kind of body",
    ),
    (
        429,
        "Exhausted",
        "Too much at once (RESOURCE_EXHAUSTED). Try again after the stated time; of a message, with the same id.",
        8,
        "RATE_LIMITED",
        "too many requests; try again after the stated time",
    ),
    (
        503,
        "Unavailable",
        "The server stops, or something that it needs is away (UNAVAILABLE). Try again after the stated time; of a message, with the same id.",
        14,
        "GOING_AWAY",
        "the server is stopping",
    ),
    (
        504,
        "Late",
        "The request did not arrive, or was not done, in time (DEADLINE_EXCEEDED).",
        4,
        "REQUEST_LATE",
        "the request did not arrive in time",
    ),
];

const ABOUT: &str = "Every call needs a token: press *Authorize* and paste one (`chat-service token --sub alice`; `make run` prints two).\n\n\
    Numbers of 64 bits are strings, times are RFC 3339, unknown fields and parameters are refused. An error is a google.rpc.Status whose details hold an \
    ErrorInfo with a stable `reason`.\n\n\
    The same calls are there by gRPC, with `ConnectChat` beside them, the stream that delivers messages as they come.";

pub fn make() -> Value {
    let routes = Routes::of(&descriptors().unwrap()).unwrap();
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    let mut about = String::new();
    for route in routes.iter() {
        about = comments::of_service(&route.rpc);
        let path = paths.entry(path(route)).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation(route, &mut schemas);
    }
    let mut schemas = schemas.into_value();
    schemas["Status"] = status();
    let responses: Map<String, Value> = ERRORS.iter().map(|error| (error.1.to_owned(), response(error))).collect();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "chat-service", "version": "v1", "description": format!("{about}\n\n{ABOUT}"), "license": { "name": "MIT", "identifier": "MIT" } },
        "servers": [{ "url": "/" }],
        "security": [{ "bearerAuth": [] }],
        "tags": [{ "name": "ChatService", "description": about }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "securitySchemes": {
                "bearerAuth": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A token that the server's authority vouches for." },
            },
        },
    })
}

/// The route's path, its parameters under the names that JSON has.
fn path(route: &Route) -> String {
    route
        .path_fields()
        .fold(route.path.clone(), |path, field| path.replace(&format!("{{{}}}", field.name()), &format!("{{{}}}", field.json_name())))
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let (input, output, name) = (route.rpc.input(), route.rpc.output(), route.rpc.name());
    let path_fields: Vec<FieldDescriptor> = route.path_fields().cloned().collect();
    let mut parameters: Vec<Value> = path_fields.iter().map(|field| parameter(field, "path", schemas)).collect();
    if !route.has_body {
        parameters.extend(input.fields().filter(|field| !path_fields.contains(field)).map(|field| parameter(&field, "query", schemas)));
    }
    let mut responses = Map::new();
    let answer = schemas.message(&output, output.name(), Place::Answer, &[]);
    let content = json!({ "application/json": { "schema": answer, "example": examples::of_message(&output, &[]) } });
    responses.insert("200".into(), json!({ "description": "Done.", "content": content }));
    let more =
        MORE.iter().find(|(rpc, _)| *rpc == name).unwrap_or_else(|| panic!("tests/openapi/document.rs doesn't say how {name} fails")).1;
    let with_body: &[u16] = if route.has_body { &WITH_BODY } else { &[] };
    for code in ALWAYS.iter().chain(with_body).chain(more) {
        let component = ERRORS.iter().find(|error| error.0 == *code).unwrap().1;
        responses.insert(code.to_string(), json!({ "$ref": format!("#/components/responses/{component}") }));
    }
    let description = comments::of_rpc(&route.rpc);
    let mut operation = json!({
        "operationId": name,
        "tags": ["ChatService"],
        "summary": comments::first_sentence(&description),
        "description": description,
        "responses": responses,
    });
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if route.has_body {
        // Fields of the path aren't in the body.
        let schema_name = if path_fields.is_empty() { input.name().to_owned() } else { format!("{name}Body") };
        let schema = schemas.message(&input, &schema_name, Place::Request, &path_fields);
        let content = json!({ "application/json": { "schema": schema, "example": examples::of_message(&input, &path_fields) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn parameter(field: &FieldDescriptor, place: &str, schemas: &mut Schemas) -> Value {
    let Value::Object(mut schema) = schemas.field(field, Place::Parameter) else { unreachable!() };
    // Described once, and filled in where a page offers to try it.
    let (description, examples) = (schema.remove("description"), schema.remove("examples"));
    if place == "path" {
        // An empty segment is no segment.
        schema.entry("minLength").or_insert(json!(1));
    }
    let required = place == "path" || rules::of(field).required;
    let mut parameter = json!({ "name": field.json_name(), "in": place, "required": required, "schema": schema });
    if let Some(description) = description {
        parameter["description"] = description;
    }
    if let Some(example) = examples.and_then(|examples| examples.get(0).cloned()) {
        parameter["example"] = example;
    }
    parameter
}

/// google.rpc.Status, as errors show it.
fn status() -> Value {
    json!({
        "type": "object",
        "description": "An error, as google.rpc.Status.",
        "required": ["code", "message", "details"],
        "properties": {
            "code": { "type": "integer", "format": "int32", "description": "gRPC's code of the error.", "minimum": 1, "maximum": 16 },
            "message": { "type": "string", "description": "For people; it may change." },
            "details": {
                "type": "array",
                "description": "An ErrorInfo with a stable `reason`; with 400 a BadRequest with `fieldViolations`; where trying again helps a RetryInfo with `retryDelay`.",
                "items": {
                    "type": "object",
                    "required": ["@type"],
                    "properties": { "@type": { "type": "string", "description": "The kind of detail: `type.googleapis.com/google.rpc.ErrorInfo`, …" } },
                },
            },
        },
    })
}

fn response((code, _, description, number, reason, message): &(u16, &str, &str, i32, &str, &str)) -> Value {
    let info = json!({ "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "chat.v1", "metadata": {} });
    let mut details = vec![info];
    let mut headers = Map::new();
    if [429, 503].contains(code) {
        details.push(json!({ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.500s" }));
        let schema = json!({ "type": "integer", "minimum": 0 });
        headers.insert("Retry-After".into(), json!({ "description": "Seconds to wait, rounded up.", "schema": schema }));
    }
    if *code == 401 {
        headers.insert("WWW-Authenticate".into(), json!({ "description": "`Bearer`, and why.", "schema": { "type": "string" } }));
    }
    let example = json!({ "code": number, "message": message, "details": details });
    let schema = json!({ "$ref": "#/components/schemas/Status" });
    let mut response = json!({ "description": description, "content": { "application/json": { "schema": schema, "example": example } } });
    if !headers.is_empty() {
        response["headers"] = Value::Object(headers);
    }
    response
}
