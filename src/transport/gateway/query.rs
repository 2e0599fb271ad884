//! Query parameters → fields of a message.

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};

use super::percent;
use super::routes::Route;
use crate::converter::validate::Violation;

/// Characters of an unknown parameter's name that an answer repeats.
const NAME_CHARS_SHOWN: usize = 64;

/// Sets the fields that a query names, by either of their names; a field of a message inside is `outer.inner`. A list takes each value that its name comes with;
/// anything else comes once. A parameter that is no field, or whose field the path or the body gives, is refused.
pub fn bind(message: &mut DynamicMessage, query: &str, route: &Route) -> Result<(), Violation> {
    let descriptor = message.descriptor();
    let mut bound: Vec<(Vec<FieldDescriptor>, Vec<String>)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent::decode_form(name).ok_or_else(|| violation("query", "is not percent-encoded UTF-8"))?;
        let path = resolve(&descriptor, &name)
            .filter(|path| !route.has_body && !route.path_fields().any(|field| path.first() == Some(field)))
            .ok_or_else(|| violation(&name.chars().take(NAME_CHARS_SHOWN).collect::<String>(), "is not a parameter of this call"))?;
        let value = percent::decode_form(value).ok_or_else(|| violation(&name, "is not percent-encoded UTF-8"))?;
        match bound.iter_mut().find(|(known, _)| *known == path) {
            Some((_, values)) => values.push(value),
            None => bound.push((path, vec![value])),
        }
    }
    bound.iter().try_for_each(|(path, values)| set(message, path, values, &written(path)))
}

/// The fields that lead to the one that is named. Only the last may be something else than a single message.
fn resolve(descriptor: &MessageDescriptor, name: &str) -> Option<Vec<FieldDescriptor>> {
    let (name, rest) = match name.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (name, None),
    };
    let field = descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name))?;
    let mut path = vec![field];
    if let Some(rest) = rest {
        let inner = path.first().filter(|field| !field.is_list()).and_then(|field| field.kind().as_message().cloned())?;
        path.extend(resolve(&inner, rest)?);
    }
    Some(path)
}

fn written(path: &[FieldDescriptor]) -> String {
    path.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".")
}

fn set(message: &mut DynamicMessage, path: &[FieldDescriptor], values: &[String], name: &str) -> Result<(), Violation> {
    let Some((field, rest)) = path.split_first() else { return Ok(()) };
    if let Some(oneof) = field.containing_oneof()
        && oneof.fields().any(|other| other != *field && message.has_field(&other))
    {
        return Err(violation(name, format!("is given beside another field of {}, which may have only one", oneof.name())));
    }
    if !rest.is_empty() {
        return match message.get_field_mut(field) {
            Value::Message(inner) => set(inner, rest, values, name),
            _ => Err(violation(name, "is not a parameter of this call")),
        };
    }
    let kind = field.kind();
    let parse = |text: &String| parse(&kind, text).map_err(|description| violation(name, description));
    let value = match values {
        values if field.is_list() => Value::List(values.iter().map(parse).collect::<Result<_, _>>()?),
        [value] => parse(value)?,
        _ => return Err(violation(name, "is given more than once")),
    };
    message.set_field(field, value);
    Ok(())
}

fn parse(kind: &Kind, text: &str) -> Result<Value, String> {
    let integer = "must be an integer, and not beyond its type's range";
    match kind {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bool => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err("must be true or false".to_owned()),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => text.parse().map(Value::I32).map_err(|_| integer.to_owned()),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => text.parse().map(Value::I64).map_err(|_| integer.to_owned()),
        Kind::Uint32 | Kind::Fixed32 => text.parse().map(Value::U32).map_err(|_| integer.to_owned()),
        Kind::Uint64 | Kind::Fixed64 => text.parse().map(Value::U64).map_err(|_| integer.to_owned()),
        Kind::Enum(descriptor) => enumeration(descriptor, text),
        Kind::Message(_) | Kind::Double | Kind::Float | Kind::Bytes => Err("can't be given as a parameter".to_owned()),
    }
}

fn enumeration(descriptor: &EnumDescriptor, text: &str) -> Result<Value, String> {
    let by_number = || text.parse().ok().and_then(|number| descriptor.get_value(number));
    descriptor
        .get_value_by_name(text)
        .or_else(by_number)
        .map(|value| Value::EnumNumber(value.number()))
        .ok_or_else(|| format!("is not a value of {}", descriptor.name()))
}

fn violation(field: &str, description: impl Into<String>) -> Violation {
    Violation { field: field.to_owned(), description: description.into() }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use prost_reflect::DescriptorPool;

    use super::super::routes::{Lookup, Routes};
    use super::*;
    use crate::pb::FILE_DESCRIPTOR_SET;
    use crate::pb::chat::v1 as pb;

    fn bound(method: &Method, path: &str, query: &str) -> Result<DynamicMessage, String> {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        let Lookup::Found(route, _) = Routes::of(&pool).unwrap().find(method, path) else { panic!("{path}") };
        let mut message = DynamicMessage::new(route.rpc.input());
        bind(&mut message, query, &route).map_err(|wrong| format!("{}: {}", wrong.field, wrong.description))?;
        Ok(message)
    }

    fn list(query: &str) -> Result<pb::ListMessagesRequest, String> {
        bound(&Method::GET, "/v1/chats/a/messages", query).map(|message| message.transcode_to().unwrap())
    }

    #[test]
    fn parameters_are_fields_by_either_name() {
        for query in ["page_size=5&after_sequence=0", "&pageSize=5&&afterSequence=0&", "page%53ize=5&after%5Fsequence=%30"] {
            let request = list(query).unwrap();
            assert_eq!((request.page_size, request.after_sequence, request.before_sequence), (5, Some(0), None), "{query}");
        }
        let request = bound(&Method::GET, "/v1/chats", "page_token=a+b%2B").unwrap().transcode_to::<pb::ListChatsRequest>().unwrap();
        assert_eq!(request.page_token, "a b+");
    }

    #[test]
    fn what_is_no_parameter_is_refused_by_its_name() {
        for (query, refused) in [
            ("after=1", "after: is not a parameter of this call"),
            ("chat_id=b", "chat_id: is not a parameter of this call"),
            ("page_size.x=1", "page_size.x: is not a parameter of this call"),
            ("page_size=1&pageSize=2", "page_size: is given more than once"),
            ("page_size=", "page_size: must be an integer, and not beyond its type's range"),
            ("page_size", "page_size: must be an integer, and not beyond its type's range"),
            ("page_size=2147483648", "page_size: must be an integer, and not beyond its type's range"),
            ("after_sequence=1.5", "after_sequence: must be an integer, and not beyond its type's range"),
            ("page_size=%zz", "page_size: is not percent-encoded UTF-8"),
            ("%ff=1", "query: is not percent-encoded UTF-8"),
        ] {
            assert_eq!(list(query).unwrap_err(), refused, "{query}");
        }
        assert_eq!(
            bound(&Method::POST, "/v1/chats", "title=x").unwrap_err(),
            "title: is not a parameter of this call",
            "the body gives it"
        );
        assert!(list(&format!("{}=1", "x".repeat(5000))).unwrap_err().len() < 200);
    }

    #[test]
    fn lists_nested_fields_and_enums_are_bound() {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        let Lookup::Found(route, _) = Routes::of(&pool).unwrap().find(&Method::GET, "/v1/chats") else { panic!() };
        let bound = |name: &str, query: &str| {
            let mut message = DynamicMessage::new(pool.get_message_by_name(name).unwrap());
            bind(&mut message, query, &route).map(|()| message).map_err(|wrong| format!("{}: {}", wrong.field, wrong.description))
        };
        let request: pb::CreateChatRequest =
            bound("chat.v1.CreateChatRequest", "member_ids=a&title=x&memberIds=b").unwrap().transcode_to().unwrap();
        assert_eq!((request.member_ids, request.title.as_str()), (vec!["a".to_owned(), "b".to_owned()], "x"));
        let request = bound("chat.v1.ConnectChatRequest", "join.chat_id=a&join.follow=true").unwrap();
        let request: pb::ConnectChatRequest = request.transcode_to().unwrap();
        let Some(pb::connect_chat_request::Frame::Join(join)) = request.frame else { panic!() };
        assert!(join.chat_id == "a" && join.follow);
        let refused = bound("chat.v1.ConnectChatRequest", "join.chat_id=a&leave.chat_id=b").unwrap_err();
        assert_eq!(refused, "leave.chat_id: is given beside another field of frame, which may have only one");
        assert_eq!(bound("chat.v1.ConnectChatRequest", "join.follow=yes").unwrap_err(), "join.follow: must be true or false");
        for role in ["CHAT_ROLE_OWNER", "1"] {
            let member: pb::ChatMember = bound("chat.v1.ChatMember", &format!("role={role}")).unwrap().transcode_to().unwrap();
            assert_eq!(member.role, 1);
        }
        for role in ["OWNER", "99", ""] {
            assert_eq!(bound("chat.v1.ChatMember", &format!("role={role}")).unwrap_err(), "role: is not a value of ChatRole");
        }
        assert_eq!(bound("chat.v1.ChatMember", "joined_at=x").unwrap_err(), "joined_at: can't be given as a parameter");
    }
}
