//! The REST API's description, made from the proto: paths, parameters, bodies, answers, the rules of fields, and the proto's comments.
//!
//! The maker is a test and not a part of the build: the file is committed and built into the binary, so a build must not write it; and as a test it
//! says of itself, in every run of the suite, when the file is stale. `make generate` runs it with UPDATE=1, which writes the file.

mod comments;
mod document;
mod examples;
mod rules;
mod schemas;

use std::{env, fs};

use serde_json::Value;

const PATH: &str = "src/transport/gateway/openapi.json";

#[test]
fn the_committed_description_is_what_the_proto_says() {
    let mut made = serde_json::to_string_pretty(&document::make()).unwrap();
    made.push('\n');
    if env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::write(PATH, made).unwrap();
        return;
    }
    let committed = fs::read_to_string(PATH).unwrap().replace("\r\n", "\n");
    // Both whole documents would bury the sentence.
    assert!(committed == made, "{PATH} is stale: run `make generate` and commit what it writes");
}

/// Every `$ref` of the document leads somewhere.
#[test]
fn every_reference_is_resolved() {
    fn walk<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                out.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| walk(value, out));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, out)),
            _ => {}
        }
    }
    let document = document::make();
    let mut references = Vec::new();
    walk(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads elsewhere"));
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_unary_rpc_is_described_with_its_errors() {
    let document = document::make();
    let operations: Vec<&Value> =
        document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values()).collect();
    assert_eq!(operations.len(), 8);
    for operation in operations {
        let responses = operation["responses"].as_object().unwrap();
        for code in ["200", "400", "401", "403", "429", "503", "504"] {
            assert!(responses.contains_key(code), "{} {code}", operation["operationId"]);
        }
        assert!(!responses.contains_key("500"), "an internal error is never to be expected");
        assert!(!operation["description"].as_str().unwrap().is_empty());
        let has_body = operation.get("requestBody").is_some();
        assert_eq!(has_body, responses.contains_key("413") && responses.contains_key("415"), "{}", operation["operationId"]);
    }
}

#[test]
fn the_rules_of_fields_are_described() {
    let document = document::make();
    let schemas = &document["components"]["schemas"];
    let title = &schemas["CreateChatRequest"]["properties"]["title"];
    assert_eq!((title["minLength"].as_u64(), title["maxLength"].as_u64()), (Some(1), Some(200)));
    assert_eq!(schemas["CreateChatRequest"]["properties"]["memberIds"]["items"]["maxLength"], 128);
    assert_eq!(schemas["CreateChatRequest"]["required"], serde_json::json!(["title"]));
    assert_eq!(schemas["CreateChatRequest"]["additionalProperties"], false);
    let send = &document["paths"]["/v1/chats/{chatId}/messages"]["post"];
    assert_eq!(send["parameters"][0]["schema"]["format"], "uuid");
    let body = send["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
    let body = document.pointer(&body[1..]).unwrap();
    assert!(body["properties"].get("chatId").is_none(), "the path gives it");
    assert_eq!(body["properties"]["text"]["pattern"], "\\S");
    assert_eq!(schemas["Message"]["properties"]["sequence"]["type"], "string", "64 bits");
    let roles = schemas["NewMember"]["properties"]["role"]["enum"].as_array().unwrap();
    assert!(roles.iter().all(|role| role != "CHAT_ROLE_UNSPECIFIED") && roles.len() == 4);
}
