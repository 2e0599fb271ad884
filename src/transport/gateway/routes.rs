//! The REST routes: read from the proto's google.api.http annotations, so that nothing is kept twice.

use std::sync::Arc;

use http::{Method, Uri};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};

use super::json::{self, Direction};

/// An annotation, or a message, that this gateway doesn't know: it says so when the server starts.
#[derive(Debug, thiserror::Error)]
#[error("{rpc}: {why}")]
pub struct Unsupported {
    pub rpc: String,
    pub why: String,
}

/// A unary RPC's place in REST.
#[derive(Debug)]
pub struct Route {
    pub method: Method,
    /// As annotated: `/v1/chats/{chat_id}`.
    pub path: String,
    pub rpc: MethodDescriptor,
    /// The body holds the message's fields, all but those of the path. Without: they are the query's parameters.
    pub has_body: bool,
    /// The RPC's own path.
    pub uri: Uri,
    segments: Vec<Segment>,
}

#[derive(Debug)]
enum Segment {
    Literal(String),
    Field(FieldDescriptor),
}

impl Route {
    /// The fields that the path gives, in its order.
    pub fn path_fields(&self) -> impl Iterator<Item = &FieldDescriptor> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Field(field) => Some(field),
        })
    }

    /// What the path gives for [`Route::path_fields`], still encoded. A field is one segment, and not an empty one.
    fn variables(&self, segments: &[&str]) -> Option<Vec<String>> {
        if segments.len() != self.segments.len() {
            return None;
        }
        let mut variables = Vec::new();
        for (expected, found) in self.segments.iter().zip(segments) {
            match expected {
                Segment::Literal(literal) if literal == found => {}
                Segment::Field(_) if !found.is_empty() => variables.push((*found).to_owned()),
                _ => return None,
            }
        }
        Some(variables)
    }
}

/// What is at a path.
#[derive(Debug)]
pub enum Lookup {
    /// With the values of its path's fields, still encoded.
    Found(Arc<Route>, Vec<String>),
    /// Only these methods.
    OtherMethods(Vec<Method>),
    Nothing,
}

#[derive(Debug)]
pub struct Routes {
    routes: Vec<Arc<Route>>,
    /// `/chat.v1.ChatService/`
    rpc_prefixes: Vec<String>,
}

impl Routes {
    /// The routes of every service in the pool.
    pub fn of(pool: &DescriptorPool) -> Result<Self, Unsupported> {
        let (mut routes, mut rpc_prefixes) = (Vec::new(), Vec::new());
        for service in pool.services() {
            rpc_prefixes.push(format!("/{}/", service.full_name()));
            for rpc in service.methods() {
                let name = rpc.full_name().to_owned();
                if let Some(route) = route(pool, rpc).map_err(|why| Unsupported { rpc: name, why })? {
                    routes.push(Arc::new(route));
                }
            }
        }
        Ok(Self { routes, rpc_prefixes })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(Arc::as_ref)
    }

    pub fn find(&self, method: &Method, path: &str) -> Lookup {
        let Some(path) = path.strip_prefix('/') else { return Lookup::Nothing };
        let segments: Vec<&str> = path.split('/').collect();
        let mut others = Vec::new();
        for route in &self.routes {
            match route.variables(&segments) {
                Some(variables) if route.method == method => return Lookup::Found(Arc::clone(route), variables),
                Some(_) => others.push(route.method.clone()),
                None => {}
            }
        }
        if others.is_empty() { Lookup::Nothing } else { Lookup::OtherMethods(others) }
    }

    /// Whether this is the path of an RPC, which takes gRPC.
    pub fn is_rpc(&self, path: &str) -> bool {
        self.rpc_prefixes.iter().any(|prefix| path.starts_with(prefix.as_str()))
    }
}

/// The route of an RPC; a stream has none.
fn route(pool: &DescriptorPool, rpc: MethodDescriptor) -> Result<Option<Route>, String> {
    let Some(rule) = rule_of(pool, &rpc)? else {
        let streams = rpc.is_client_streaming() || rpc.is_server_streaming();
        return if streams { Ok(None) } else { Err("a unary RPC needs a google.api.http annotation".to_owned()) };
    };
    let (mut place, mut has_body) = (None, false);
    for (field, value) in rule.fields() {
        match (field.name(), value) {
            ("get", Value::String(path)) => place = Some((Method::GET, path.clone())),
            ("put", Value::String(path)) => place = Some((Method::PUT, path.clone())),
            ("post", Value::String(path)) => place = Some((Method::POST, path.clone())),
            ("delete", Value::String(path)) => place = Some((Method::DELETE, path.clone())),
            ("patch", Value::String(path)) => place = Some((Method::PATCH, path.clone())),
            ("body", Value::String(body)) if body == "*" => has_body = true,
            (name, _) => return Err(format!("`{name}` of its google.api.http annotation is not supported as it is used")),
        }
    }
    let (method, path) = place.ok_or("its google.api.http annotation names no path")?;
    let input = rpc.input();
    let segments = segments(&path, &input)?;
    json::supports(&input, Direction::In)?;
    json::supports(&rpc.output(), Direction::Out)?;
    let uri = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
    let uri = uri.parse::<Uri>().map_err(|_| format!("{uri} is no path"))?;
    Ok(Some(Route { method, path, rpc, has_body, uri, segments }))
}

fn rule_of(pool: &DescriptorPool, rpc: &MethodDescriptor) -> Result<Option<DynamicMessage>, String> {
    let extension = pool.get_extension_by_name("google.api.http").ok_or("google.api.http is not among the descriptors")?;
    let options = rpc.options();
    if !options.has_extension(&extension) {
        return Ok(None);
    }
    match options.get_extension(&extension).as_ref() {
        Value::Message(rule) => Ok(Some(rule.clone())),
        _ => Err("google.api.http is not a message".to_owned()),
    }
}

/// `/v1/chats/{chat_id}`: literals, and fields of one segment each.
fn segments(path: &str, input: &MessageDescriptor) -> Result<Vec<Segment>, String> {
    let segments = path.strip_prefix('/').ok_or_else(|| format!("{path} doesn't begin with a slash"))?.split('/');
    segments
        .map(|segment| match segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}')) {
            None if segment.is_empty() || segment.contains(['{', '}', '*', ':']) => Err(format!("{segment:?} in {path} is not supported")),
            None => Ok(Segment::Literal(segment.to_owned())),
            Some(name) => match input.get_field_by_name(name) {
                Some(field) if field.kind() == Kind::String && !field.is_list() => Ok(Segment::Field(field)),
                _ => Err(format!("{{{name}}} in {path} is not a string field of {}", input.full_name())),
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::FILE_DESCRIPTOR_SET;

    fn routes() -> Routes {
        Routes::of(&DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap()).unwrap()
    }

    fn found(method: Method, path: &str) -> (String, Vec<String>) {
        match routes().find(&method, path) {
            Lookup::Found(route, variables) => (route.rpc.name().to_owned(), variables),
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    #[test]
    fn every_unary_rpc_has_the_route_that_the_proto_states() {
        let routes = routes();
        let mut all: Vec<_> = routes.iter().map(|route| format!("{} {} {}", route.rpc.name(), route.method, route.path)).collect();
        all.sort();
        assert_eq!(
            all,
            [
                "AddMembers POST /v1/chats/{chat_id}/members",
                "CreateChat POST /v1/chats",
                "DeleteChat DELETE /v1/chats/{chat_id}",
                "GetChat GET /v1/chats/{chat_id}",
                "ListChats GET /v1/chats",
                "ListMessages GET /v1/chats/{chat_id}/messages",
                "RemoveMember DELETE /v1/chats/{chat_id}/members/{user_id}",
                "SendMessage POST /v1/chats/{chat_id}/messages",
            ]
        );
        assert!(routes.is_rpc("/chat.v1.ChatService/GetChat") && !routes.is_rpc("/v1/chats"));
    }

    #[test]
    fn a_path_and_a_method_lead_to_one_rpc() {
        assert_eq!(found(Method::GET, "/v1/chats"), ("ListChats".into(), vec![]));
        assert_eq!(found(Method::POST, "/v1/chats"), ("CreateChat".into(), vec![]));
        assert_eq!(found(Method::DELETE, "/v1/chats/a/members/b%2Fc"), ("RemoveMember".into(), vec!["a".into(), "b%2Fc".into()]));
    }

    #[test]
    fn trailing_slashes_and_empty_segments_lead_nowhere() {
        for path in
            ["/v1", "/v1/chats/", "/v1//chats", "/v1/chats//messages", "/v1/chats/a/", "/v2/chats", "/v1/Chats", "/v1/%63hats", "*", ""]
        {
            assert!(matches!(routes().find(&Method::GET, path), Lookup::Nothing), "{path}");
        }
    }

    #[test]
    fn another_method_is_told_apart_from_another_path() {
        let Lookup::OtherMethods(methods) = routes().find(&Method::PATCH, "/v1/chats/a") else { panic!() };
        assert_eq!(methods, [Method::GET, Method::DELETE]);
    }
}
